"""YOLO folders: `data.yaml`, images, and label files with lines `class x y w h`, all but the class in 0..1."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from detector.data.coco import ALIASES
from detector.data.flat import flat
from detector.data.places import find_images, local_name
from detector.data.sample import (
    BAD_LINE,
    MISSING_IMAGE,
    UNANNOTATED,
    UNKNOWN_CLASS,
    Box,
    Dataset,
    Problem,
    Sample,
    check_names,
    make_sample,
    path_inside,
    size_of,
)
from detector.images import SUFFIXES, images_below
from maenas.errors import MaenasError, NoSplitError
from maenas.files import filled_lines, read_text
from maenas.strict import MAX_YAML_BYTES, PlainLoader

MOST_UNNAMED = 10_000  # classes of which only the number is given
_MAX_LABEL_BYTES = 64 * 2**20


def find_yolo(root: Path) -> Path | None:
    """The YAML file that describes a YOLO folder, None where there is none."""
    names = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
    return next((root / name for name in names if (root / name).is_file()), None)


def read_yolo(path: Path, split: str) -> Dataset:
    """The data set of a split; classes in the order of `names`, or `class_0` and so on where there is only `nc`. Images
    get the ids 1, 2, ... in order of their paths.

    `path:` in the YAML is the folder that everything else is relative to. The folder of the file takes its place where
    it is missing, and where it leads nowhere and all splits lie there. Of the paths of another machine the end that is
    there counts. Where no image of a .txt list is there, they are looked for by their names.
    A line with more than two points is a polygon, whose box is taken; where `kpt_shape:` says that lines end with key
    points, these are left out.

    Raises MaenasError for a broken YAML file, a split that it does not have, and for paths outside the data folder.
    """
    document = _document(path)
    names = _names(document, str(path))
    root = _root(document, path)
    files = [(image, label_file(image)) for image in _images(document, root, split, path)]
    dataset = _dataset(files, names, f"{path} ({split})", extra=_key_point_numbers(document, path))
    return replace(dataset, problems=(*dataset.problems, *_unmatched(files)))


def read_labelled(root: Path, files: Sequence[tuple[Path, Path]], names: Sequence[str]) -> Dataset:
    """The images and label files `files` below `root`, as `read_yolo` reads those of a split."""
    _check(tuple(names), str(root))
    return _dataset(files, tuple(names), str(root))


def _dataset(files: Iterable[tuple[Path, Path]], names: tuple[str, ...], source: str, *, extra: int = 0) -> Dataset:
    problems: list[Problem] = []
    samples: list[Sample] = []
    for image, labels in files:
        size = size_of(image, problems)
        if size is None:
            continue
        boxes = _boxes(labels, size, len(names), extra, problems)
        samples.append(make_sample(image, len(samples) + 1, *size, boxes, problems))
    return Dataset(names, flat(samples), tuple(problems), source)


def _unmatched(files: Sequence[tuple[Path, Path]]) -> list[Problem]:
    """Label files, in folders of their own, that are named after no image: theirs then seems to have no object. Where
    there is no label file at all: the images, and where those of each should be."""
    problems = []
    if not any(os.path.isfile(label) for _, label in files):
        problems += [Problem(UNANNOTATED, f"{image} (there is no {label})") for image, label in files]
    for images, labels in sorted({(image.parent, label.parent) for image, label in files}):
        if labels == images or not (os.path.isdir(labels) and os.path.isdir(images)):
            continue
        names = {path.stem for path in images.iterdir() if path.suffix.lower() in SUFFIXES}
        texts = sorted(path for path in labels.iterdir() if path.suffix.lower() == ".txt" and path.stem != "classes")
        used = {path.stem for path in texts if path.suffix == ".txt"} & names
        problems += [Problem(MISSING_IMAGE, f"that of {path}") for path in texts if path.stem not in used]
    return problems


def _document(path: Path) -> dict[str, Any]:
    text = read_text(path, what="data set description", max_bytes=MAX_YAML_BYTES)
    try:
        document = yaml.load(text, Loader=PlainLoader)
        repr(document)  # hexadecimal integers of any length can be read, but not shown
    except RecursionError as error:
        raise MaenasError(f"{path}: nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a date that is none, an endless integer
        raise MaenasError(f"{path}: not valid YAML: {' '.join(str(error).split()):.400}") from error
    if not isinstance(document, dict) or not {"names", "nc"} & document.keys():
        raise MaenasError(f'{path}: a mapping with "names", "train" and "val" is expected')
    return document


def _names(document: Mapping[str, Any], where: str) -> tuple[str, ...]:
    names = document.get("names")
    if names is None and type(count := document.get("nc")) is int and 0 < count <= MOST_UNNAMED:
        return tuple(f"class_{index}" for index in range(count))
    if isinstance(names, dict):
        by_key = {str(key): name for key, name in names.items()}  # some exporters quote the numbers
        if set(by_key) != {str(index) for index in range(len(names))}:
            raise MaenasError(f"{where}: the keys of names must be 0, 1, ..., {len(names) - 1}")
        names = [by_key[str(index)] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise MaenasError(f"{where}: names must be a list of class names")
    for index, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise MaenasError(f"{where}: names[{index}] is read as {name!r:.60}; put it in quotes")
    texts = tuple(str(name) for name in names)
    _check(texts, where)
    if "nc" in document and document["nc"] != len(texts):
        raise MaenasError(f"{where}: nc is {document['nc']!r:.80}, but names has {len(texts)}; drop nc or correct it")
    return texts


def _key_point_numbers(document: Mapping[str, Any], path: Path) -> int:
    """How many numbers of key points stand behind the box of a line; 0 where the description tells of none."""
    shape = document.get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(count) is int and count > 0 for count in shape)):
        raise MaenasError(f"{path}: kpt_shape is {shape!r:.80}; it must be [key points, numbers of each]")
    return shape[0] * shape[1]


def _check(names: tuple[str, ...], where: str) -> None:
    check_names(names, where)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise MaenasError(f"{where}: the class {twice!r:.80} appears twice")


def _root(document: Mapping[str, Any], path: Path) -> Path:
    root = document.get("path")
    if root is None or root == "":
        return path.parent
    folder = path.parent / str(root)
    if os.path.isdir(folder):
        return folder
    if _lie_beside(document, path.parent):
        return path.parent
    raise MaenasError(
        f"{path}: path leads to {folder!s:.300}, which is no folder; correct it, or drop it to use {path.parent}"
    )


def _lie_beside(document: Mapping[str, Any], folder: Path) -> bool:
    """Whether all splits lie in `folder`: a file made on another machine names the folder where they lay there."""
    splits = [document[name] for names in ALIASES.values() for name in names if document.get(name)]
    entries = [entry for found in splits for entry in (found if isinstance(found, list) else [found])]
    return bool(entries) and all(os.path.exists(folder / str(entry)) for entry in entries)


def _images(document: Mapping[str, Any], root: Path, split: str, path: Path) -> list[Path]:
    key = next((name for name in ALIASES[split] if document.get(name)), None)
    if key is None:
        known = ", ".join(name for names in ALIASES.values() for name in names if document.get(name)) or "none"
        raise NoSplitError(f"{path}: no {split} split (it has {known})")
    entries = document[key] if isinstance(document[key], list) else [document[key]]
    images: list[Path] = []
    for entry in entries:
        source = _entry(root, str(entry), f"{path}: {key}")
        if os.path.isdir(source):
            images += images_below(source)
        elif os.path.isfile(source) and source.suffix == ".txt":
            names = filled_lines(read_text(source, what="list of images", max_bytes=2**30))
            images += find_images(source, names, [root], lambda: images_below(root))[1]
        else:
            raise MaenasError(
                f"{path}: {key} leads to {source!s:.300}, which is neither a folder nor a .txt list of images"
            )
    return sorted(set(images))


def _entry(root: Path, entry: str, where: str) -> Path:
    if entry.startswith("/") or entry[1:2] == ":":
        entry = local_name(root, entry)
    # Widely used exports write ../train/images for a folder that lies beside the YAML file.
    beside = root / entry.removeprefix("../")
    if entry.startswith("../") and os.path.exists(beside):
        entry = entry.removeprefix("../")
    return path_inside(root, entry, where=where)


def label_file(image: Path) -> Path:
    """The label file of an image: `labels` for the last `images` in its path."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _boxes(path: Path, size: tuple[int, int], num_classes: int, extra: int, problems: list[Problem]) -> list[Box]:
    """Boxes of a label file, whose lines have `extra` numbers behind the box; an image without one has none."""
    if not os.path.isfile(path):
        return []
    boxes: list[Box] = []
    text = read_text(path, what="labels", max_bytes=_MAX_LABEL_BYTES)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        box = _box(line, size, extra, where)
        if box is None:
            problems.append(Problem(BAD_LINE, f"{where}: {line[:60]!r}"))
        elif not 0 <= box.label < num_classes:
            problems.append(Problem(UNKNOWN_CLASS, f"{where} (class {box.label} of {num_classes})"))
        else:
            boxes.append(box)
    return boxes


def _box(line: str, size: tuple[int, int], extra: int, where: str) -> Box | None:
    try:
        label, *values = [float(word) for word in line.split()]
    except ValueError:
        return None
    if extra and len(values) == 4 + extra:
        del values[4:]
    if not label.is_integer() or not all(-1 <= value <= 2 for value in values):  # pixels instead of parts of the side
        return None
    width, height = size
    if len(values) == 5:  # and how sure a detector was
        del values[4:]
    if len(values) == 4:
        x, y, w, h = values
        corners = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    elif len(values) >= 6 and len(values) % 2 == 0:
        corners = min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])
    else:
        return None
    x1, y1, x2, y2 = corners
    return Box((x1 * width, y1 * height, x2 * width, y2 * height), int(label), where)
