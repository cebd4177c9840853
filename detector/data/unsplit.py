"""Annotated images that nobody has split yet, in the forms that annotation tools leave behind."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from detector.data.coco import read_coco
from detector.data.sample import MISSING_IMAGE, UNANNOTATED, Dataset, Problem
from detector.data.voc import read_annotated
from detector.data.yolo import label_file, read_labelled
from detector.images import SUFFIXES
from maenas.errors import MaenasError
from maenas.files import read_text

CLASSES: Final = "classes.txt"
DEEPEST: Final = 4  # folders below which nobody looks: a link may lead back, and --data may be a whole disk


def read_unsplit(root: Path) -> Dataset | None:
    """The images of the folder `root` that have annotations; None where it holds none of the known forms.

    These are Pascal VOC .xml files anywhere, named as their images; YOLO label files and one `classes.txt`, in
    `labels/` for `images/` or beside the images; else one COCO .json, in `root` or in `annotations/`. An image without
    a file of its own is left out, for nobody may have looked at it yet; `problems` names it.

    Raises MaenasError for annotations that cannot be read, and where two of the files have the same name.
    """
    files = list(_files(root))
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    annotations = [path for path in files if path.suffix.lower() == ".xml"]
    lists = [path for path in files if path.name.lower() == CLASSES]
    by_name = {path.stem: path for path in annotations}
    pairs = [(image, by_name[image.stem]) for image in images if image.stem in by_name]
    if pairs:
        _require_single(annotations)
        _require_single([image for image, _ in pairs])
        dataset = read_annotated(root, pairs)
    elif len(lists) == 1:
        pairs = [(image, labels) for image in images if (labels := _labels(image)) is not None]
        names = [line.strip() for line in read_text(lists[0], what="list of classes").splitlines() if line.strip()]
        dataset = read_labelled(root, pairs, names)
    else:
        documents = [*root.glob("*.json"), *root.glob("annotations/*.json")]
        return read_coco(documents[0]) if len(documents) == 1 else None
    used = {path for pair in pairs for path in pair}
    left = [Problem(UNANNOTATED, str(image)) for image in images if image not in used]
    left += [Problem(MISSING_IMAGE, f"that of {path}") for path in annotations if path not in used]
    return replace(dataset, problems=(*dataset.problems, *left))


def _files(root: Path) -> Iterator[Path]:
    """Files down to `DEEPEST` folders below `root`, in order of folders and names.

    Hidden ones, which editors, archives and systems keep for themselves (`.idea/`, `._name.xml`), are left out.
    """
    for folder, inner, names in os.walk(root, followlinks=True):
        deep = len(Path(folder).relative_to(root).parts) >= DEEPEST
        inner[:] = [] if deep else sorted(name for name in inner if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _labels(image: Path) -> Path | None:
    return next((path for path in (label_file(image), image.with_suffix(".txt")) if path.is_file()), None)


def _require_single(files: Sequence[Path]) -> None:
    """Raises MaenasError where two files are called alike, but for folder and ending."""
    first: dict[str, Path] = {}
    for path in files:
        if path.stem in first:
            raise MaenasError(f"{first[path.stem]} and {path} have the same name; annotations are found by name")
        first[path.stem] = path
