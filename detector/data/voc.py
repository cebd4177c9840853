"""Pascal VOC: `Annotations/*.xml`, `JPEGImages/`, and `ImageSets/Main/{split}.txt`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from detector.data.coco import ALIASES
from detector.data.flat import flat
from detector.data.labelme import json_objects
from detector.data.sample import (
    BAD_LINE,
    Box,
    Dataset,
    NamedBox,
    Problem,
    Sample,
    box_around,
    check_names,
    make_sample,
    path_inside,
    size_of,
)
from detector.data.texts import text_objects
from detector.data.xml import read_xml
from detector.images import SUFFIXES
from maenas.errors import NoSplitError
from maenas.files import MAX_TEXT_BYTES, read_text


def is_voc(root: Path) -> bool:
    """Whether a folder has the layout of Pascal VOC."""
    return (root / "ImageSets" / "Main").is_dir() and (root / "Annotations").is_dir()


def read_voc(root: Path, split: str) -> Dataset:
    """The data set of a split. Images get the ids 1, 2, ... in the order of the split's list.

    The classes are the names in all annotations of the folder, sorted, so that every split has the same. Corners count
    pixels from 1 and belong to the box: xmin and ymin get 1 subtracted. Objects marked difficult are ordinary ones.

    Raises MaenasError for a missing split list, broken XML and for paths outside the data folder.
    """
    stems = _stems(root, split)
    files = sorted((root / "Annotations").glob("*.xml"))
    problems: list[Problem] = []
    objects = {file.stem: list(_objects(file, problems if file.stem in stems else [])) for file in files}
    entries = [(_image(root, stem), objects.get(stem, [])) for stem in stems]
    return replace(named_dataset(root, entries, objects.values(), problems), source=f"{root} ({split})")


def read_annotated(root: Path, files: Sequence[tuple[Path, Path]], *, classes_of: Sequence[Path] = ()) -> Dataset:
    """The images and their files `files` below `root`, as `read_voc` reads those of a split; `.json` are those of
    `json_objects`, and `.txt` those of `text_objects`.

    The classes are those of the files `classes_of`, too.
    """
    problems: list[Problem] = []
    entries = [(image, list(_named_boxes(file, problems))) for image, file in files]
    return named_dataset(root, entries, (list(_named_boxes(file, [])) for file in classes_of), problems)


def _named_boxes(path: Path, problems: list[Problem]) -> Iterator[NamedBox]:
    return {".json": json_objects, ".txt": text_objects}.get(path.suffix.lower(), _objects)(path, problems)


def named_dataset(
    root: Path,
    entries: Sequence[tuple[Path, Sequence[NamedBox]]],
    others: Iterable[Sequence[NamedBox]],
    problems: list[Problem],
) -> Dataset:
    """The images of `entries` with their boxes. The classes are the names in these and in `others`, sorted. An image
    has the size that its boxes were drawn on, where they tell it: `load_image` turns it so, or refuses it.

    Raises MaenasError for names of classes that cannot stand in a file.
    """
    names = tuple(sorted({box.name for boxes in (*(boxes for _, boxes in entries), *others) for box in boxes}))
    check_names(names, str(root))
    labels = {name: label for label, name in enumerate(names)}
    samples: list[Sample] = []
    for image, objects in entries:
        size = size_of(image, problems)
        if size is None:
            continue
        size = next((entry.size for entry in objects if entry.size), size)
        boxes = [Box(_pixels(entry, *size), labels[entry.name], entry.where, crowd=entry.crowd) for entry in objects]
        samples.append(make_sample(image, len(samples) + 1, *size, boxes, problems))
    return Dataset(names, flat(samples), tuple(problems), str(root))


def _pixels(box: NamedBox, width: int, height: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.xyxy
    return box.xyxy if box.unit == "pixel" else (x1 * width, y1 * height, x2 * width, y2 * height)


def _stems(root: Path, split: str) -> dict[str, None]:
    """Names of the images of a split, in their order and each once."""
    folder = root / "ImageSets" / "Main"
    lists = [folder / f"{name}.txt" for name in ALIASES[split]]
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        known = ", ".join(sorted(file.name for file in folder.glob("*.txt"))[:8]) or "none"
        raise NoSplitError(f"{folder}: there is no {lists[0].name} that lists the {split} split (found {known})")
    lines = read_text(path, what="list of images", max_bytes=2**30).splitlines()
    return dict.fromkeys(re.sub(r"\s+-?[01]$", "", line.strip()) for line in lines if line.strip())


def _image(root: Path, stem: str) -> Path:
    folder = root / "JPEGImages"
    candidates = [path_inside(folder, f"{stem}{suffix}", where=str(root)) for suffix in (".jpg", *SUFFIXES)]
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])


def _objects(path: Path, problems: list[Problem]) -> Iterator[NamedBox]:
    root = read_xml(path, what="annotation", max_bytes=MAX_TEXT_BYTES)
    size = _size(root)
    for number, entry in enumerate(root.iter("object")):
        where = f"{path} object {number}"
        name = (entry.findtext("name") or "").strip()
        if (entry.findtext("deleted") or "").strip() == "1":
            continue
        try:
            box = _box(entry)
        except ValueError:
            problems.append(Problem(BAD_LINE, where))
            continue
        if not name:
            problems.append(Problem(BAD_LINE, f"{where} (no name)"))
            continue
        yield NamedBox(name, box, where, size=size)


def _size(root: Element) -> tuple[int, int] | None:
    """Width and height of the image as it was annotated; None where they are not there, or 0 as some tools write."""
    width, height = ((root.findtext(f"size/{side}") or "").strip() for side in ("width", "height"))
    if not all(re.fullmatch("0*[1-9][0-9]{0,6}", side) for side in (width, height)):
        return None
    return int(width), int(height)


def _box(entry: Element) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an object, or of the polygon that LabelMe's tool for browsers writes instead."""
    if entry.find("bndbox") is None and (points := entry.findall("polygon/pt")):
        return box_around(np.array([[float(point.findtext(axis) or "") for axis in "xy"] for point in points]))
    x1, y1, x2, y2 = (float(entry.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax"))
    return x1 - 1, y1 - 1, x2, y2
