"""Data whose splits are folders: `train/`, `valid/` and `test/` of annotated images, without a file that says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from detector.choices import Split
from detector.data.coco import ALIASES, read_coco, the_one
from detector.data.listed import read_lists
from detector.data.sample import Dataset
from detector.data.unsplit import Heap, are_single, read_lines, single_pairs, with_problems, without_partner
from detector.data.voc import read_annotated
from maenas.errors import NoSplitError


def find_split_folders(root: Path, heap: Heap) -> Callable[[Split], Dataset] | None:
    """What reads a split of the folder `root`, in which `heap` lies; None where nothing says which images are of which.

    A file belongs to the first folder on its way that is called like a split (`ALIASES`), such as `train/images/` or
    `images/train/`, else to the first whose name ends so, such as `cells-train/`. Annotations are Pascal VOC .xml,
    `.json` (`labelme`) or `.txt` (`texts`) files, named as the images of their split, YOLO label files and one list of
    classes (`unsplit.CLASSES`), or COCO .json or other lists of boxes (`listed`), which may also be of a split by their
    own names, such as `train_labels.csv`. All splits have the same classes, but those of COCO, which each name theirs.

    The reader raises MaenasError as that of `find_unsplit`, and for a split without images.
    """
    parts = {split: _part(root, heap, split) for split in get_args(Split)}
    if are_single(parts["train"]):
        return partial(_read_single, root, parts)
    if any(part.documents for part in parts.values()):
        return partial(_read_coco, root, heap, parts)
    if parts["train"].lists:
        return partial(_read_listed, root, heap, parts)
    return partial(_read_yolo, root, parts) if parts["train"].images and len(heap.classes) == 1 else None


def _part(root: Path, heap: Heap, split: Split) -> Heap:
    """The files of one split; the lists of classes are of all."""
    images, annotations = ([path for path in files if _split_of(root, path) == split] for files in heap[:2])
    documents, lists = (
        [path for path in files if (_split_of(root, path) or _split_called(path.stem)) == split] for files in heap[3:]
    )
    return Heap(images, annotations, heap.classes, documents, lists)


def _split_of(root: Path, path: Path) -> str | None:
    parts = path.relative_to(root).parts[:-1]
    words = [part.lower().rstrip("0123456789") for part in parts]
    words += [re.split("[-_.]", re.sub("[-_.](dev|challenge)$", "", word))[-1] for word in words]
    return next((split for word in words if (split := _named_split(word))), None)


def _split_called(stem: str) -> str | None:
    """The split that a word of a file's name is, as in `train_labels`."""
    return next((split for word in re.split(r"[^a-z]+", stem.lower()) if (split := _named_split(word))), None)


def _named_split(word: str) -> str | None:
    return next((split for split, names in ALIASES.items() if word in names), None)


def _read_single(root: Path, parts: dict[Split, Heap], split: Split) -> Dataset:
    _require(root, parts, split)
    pairs = {name: single_pairs(heap) for name, heap in parts.items()}
    others = [file for name, found in pairs.items() if name != split for _, file in found]
    dataset = read_annotated(root, pairs[split], classes_of=others)
    dataset = with_problems(dataset, without_partner(parts[split], pairs[split]))
    return replace(dataset, source=f"{root} ({split})")


def _read_coco(root: Path, heap: Heap, parts: dict[Split, Heap], split: Split) -> Dataset:
    path = the_one(parts[split].documents, root, split)
    if path is None:
        raise NoSplitError(f"{root}: no COCO annotations for the {split} split (found {_names(heap.documents)})")
    return read_coco(path, lambda: images_of(root, heap, split))


def images_of(root: Path, heap: Heap, split: Split) -> list[Path]:
    """Images that may be of a split: those not in a folder of another."""
    return [path for path in heap.images if _split_of(root, path) in (split, None)]


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _read_listed(root: Path, heap: Heap, parts: dict[Split, Heap], split: Split) -> Dataset:
    if not parts[split].lists:
        raise NoSplitError(f"{root}: no list of boxes is of the {split} split (found {_names(heap.lists)})")
    others = [path for name, part in parts.items() if name != split for path in part.lists]
    dataset = read_lists(root, parts[split].lists, images_of(root, heap, split), classes_of=others)
    return replace(dataset, source=f"{root} ({split})")


def _read_yolo(root: Path, parts: dict[Split, Heap], split: Split) -> Dataset:
    _require(root, parts, split)
    return replace(read_lines(root, parts[split]), source=f"{root} ({split})")


def _require(root: Path, parts: dict[Split, Heap], split: Split) -> None:
    if not parts[split].images:
        known = ", ".join(name for name, heap in parts.items() if heap.images)
        raise NoSplitError(f"{root}: no folder called {' or '.join(ALIASES[split])} holds images (found {known})")
