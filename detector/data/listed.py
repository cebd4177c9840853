"""One list for many images: a CSV table, also of Open Images, or a file of CreateML, CVAT, Label Studio, VIA, WIDER
FACE, MOT or Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from detector.data.createml import createml_objects, is_createml
from detector.data.cvat import cvat_shapes, is_cvat
from detector.data.jsonl import is_jsonl, jsonl_objects
from detector.data.label_studio import is_studio, studio_shapes
from detector.data.mot import is_mot, mot_objects
from detector.data.open_images import is_open_images, open_images_rows
from detector.data.places import by_name, place_of
from detector.data.sample import MISSING_IMAGE, UNANNOTATED, Dataset, Listed, NamedBox, Problem
from detector.data.table import is_table, table_rows
from detector.data.via import is_via, via_regions
from detector.data.voc import named_dataset
from detector.data.wider import is_wider, wider_faces

Reader = Callable[[Path, list[Problem]], Iterator[Listed]]

# The ending of a list, whether its first characters are those of the form, and what reads it; the first that fits.
FORMS: Final[tuple[tuple[str, Callable[[str], bool], Reader], ...]] = (
    (".csv", is_table, table_rows),
    (".csv", is_open_images, open_images_rows),
    (".xml", is_cvat, cvat_shapes),
    (".jsonl", is_jsonl, jsonl_objects),
    (".json", is_via, via_regions),
    (".json", is_studio, studio_shapes),
    (".json", is_createml, createml_objects),
    (".txt", is_wider, wider_faces),
    (".txt", is_mot, mot_objects),
)
START_CHARACTERS: Final = 1 << 12


def is_list(path: Path) -> bool:
    """Whether a file is a list in one of `FORMS`."""
    return _reader(path) is not None


def _reader(path: Path) -> Reader | None:
    kind = path.suffix.lower()
    if kind not in (suffix for suffix, _, _ in FORMS) or not path.is_file():  # a pipe is none, and would be waited for
        return None
    try:
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(START_CHARACTERS).lstrip()
    except (OSError, UnicodeDecodeError):
        return None
    return next((reader for suffix, fits, reader in FORMS if suffix == kind and fits(start)), None)


def read_lists(
    root: Path, lists: Sequence[Path], images: Sequence[Path], *, classes_of: Sequence[Path] = ()
) -> Dataset:
    """The images that `lists` name, with their boxes; coordinates are in pixels. An image is looked for from the
    list's folder, then by its name among `images`.

    The classes are the names in `lists` and `classes_of`, sorted. Those of `images` that no list names are `problems`.

    Raises MaenasError for a list that cannot be read, and for a name that several images have.
    """
    problems: list[Problem] = []
    places = by_name(images)
    boxes: dict[Path, list[NamedBox]] = {}
    for path in lists:
        entries = list(_entries(path, problems))
        found = _images(path, entries, places)
        problems += [Problem(MISSING_IMAGE, f"{name} of {path}") for name, image in found.items() if image is None]
        for entry in entries:
            if (image := found[entry.image]) is not None:
                boxes.setdefault(image, []).extend([] if entry.box is None else [entry.box])
    others = [(path, list(_entries(path, []))) for path in classes_of]
    named = {image for path, entries in others for image in _images(path, entries, places).values()}
    problems += [Problem(UNANNOTATED, str(image)) for image in images if image not in named and image not in boxes]
    elsewhere = [[entry.box for entry in entries if entry.box is not None] for _, entries in others]
    return named_dataset(root, list(boxes.items()), elsewhere, problems)


def _images(path: Path, entries: Sequence[Listed], places: Mapping[str, Collection[Path]]) -> dict[str, Path | None]:
    """The image of each name in the list at `path`, None where it is not there."""
    return {name: place_of(path, name, places) for name in dict.fromkeys(entry.image for entry in entries)}


def _entries(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    reader = _reader(path)
    return iter(()) if reader is None else reader(path, problems)
