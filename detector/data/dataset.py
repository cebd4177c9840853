"""Opening data: one function for all forms, and for the built-in shapes."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from detector.choices import Split
from detector.data.coco import find_coco, read_coco
from detector.data.darknet import find_darknet, read_darknet
from detector.data.flat import flat
from detector.data.listed import is_list, read_lists
from detector.data.sample import FATAL, UNUSED_CLASS, Dataset, Problem, Sample, summarise
from detector.data.shapes import are_built_in, cached_shapes
from detector.data.split_folders import find_split_folders, images_of
from detector.data.unsplit import CLASSES, DEEPEST, find_unsplit, heap_of, labels_of
from detector.data.voc import is_voc, read_voc
from detector.data.yolo import find_yolo, read_yolo
from detector.images import files_below
from maenas.errors import MaenasError, NoSplitError

__all__ = ["Dataset", "Problem", "Sample", "Split", "align_names", "open_dataset", "read_dataset", "summarise"]

_EXPORT, _UNPACK = "export the data as COCO or YOLO from where they were made", "unpack it into a folder"
# Endings, which may go on with a number, and what to do about such files.
UNREAD: Final = {
    **dict.fromkeys((".tfrecord", ".record", ".parquet", ".arrow", ".mdb", ".h5"), _EXPORT),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"), _UNPACK),
}


def open_dataset(path: str | Path, split: Split) -> Dataset:
    """The data set at `path`, fit to be trained on or evaluated with.

    `path` is a folder in COCO, YOLO, Darknet's or Pascal VOC form, or with a folder for each split (`split_folders`), a
    COCO `.json` (whatever its split), a YOLO `data.yaml`, or the word `shapes` for the generated data set (`./shapes`
    is a folder of that name).

    Samples and annotations with a fault are left out; `problems` says which, and names classes without a box. Whether
    images can be decoded shows only when they are: `maenas data check` tries them all.

    Raises MaenasError where nothing readable is there, where labels cannot be trusted (`sample.FATAL`), and where no
    image or no box is left.
    """
    return _usable(read_dataset(path, split))


def how_to_split(path: str | Path) -> str:
    """What to do about data without splits, for messages."""
    return f"To cut what is there into training and validation images: maenas data split {shlex.quote(str(path))} NEW"


def open_unsplit(path: str | Path) -> Dataset:
    """All images of the data set at `path`, in a form of `find_unsplit` or `read_dataset`, fit as for `open_dataset`.
    A list of boxes may be given itself; its images lie below its folder.

    Raises MaenasError, too, where there are validation images already.
    """
    root = Path(os.path.abspath(path))
    if is_list(root):
        return _usable(read_lists(root.parent, [root], heap_of(root.parent).images))
    try:
        dataset = read_dataset(path, "train")
        with suppress(NoSplitError):
            rated = read_dataset(path, "val")
            if count := len(rated) - shared_images(dataset, rated):
                raise MaenasError(f"{dataset.source}: there are {count} validation images already ({rated.source})")
    except NoSplitError:
        read = find_unsplit(root, heap_of(root)) if root.is_dir() else None
        if read is None:
            raise MaenasError(
                f"data {path}: nothing here can be cut; wanted: one COCO .json; files named as their images, .xml of "
                "Pascal VOC, .json of LabelMe or Supervisely, or .txt of KITTI, DOTA or VisDrone; one list of boxes, "
                "such as a .csv or the file of an annotation tool; or YOLO label files and one "
                f"{' or '.join(CLASSES)}"
            ) from None
        dataset = read()
    return _usable(dataset)


def shared_images(one: Dataset, other: Dataset) -> int:
    """Images of `other` that `one` has, too, by their paths."""
    paths = {sample.path for sample in one.samples}
    return sum(sample.path in paths for sample in other.samples)


def _usable(dataset: Dataset) -> Dataset:
    """`dataset` with its unused classes among the problems. Raises MaenasError as `open_dataset` says."""
    fatal = [problem for problem in dataset.problems if problem.kind in FATAL]
    if fatal:
        raise MaenasError(f"{dataset.source}: {'; '.join(summarise(fatal))}. Correct the annotations")
    found = "; ".join(summarise(dataset.problems)) or "no image was listed"
    if not dataset.samples:
        raise MaenasError(f"{dataset.source}: there is no usable image: {found}")
    counts = class_counts(dataset)
    if not counts.any():
        advice = "; ".join(summarise(dataset.problems)) or "are the label files where the format wants them?"
        raise MaenasError(f"{dataset.source}: none of the {len(dataset)} images has a box: {advice}")
    if are_specks(dataset):
        raise MaenasError(
            f"{dataset.source}: every box is smaller than a pixel; are they in parts of the image's side? Pixels are "
            "expected here"
        )
    unused = [Problem(UNUSED_CLASS, name) for name, count in zip(dataset.names, counts, strict=True) if count == 0]
    return replace(dataset, problems=(*dataset.problems, *unused))


def are_specks(dataset: Dataset) -> bool:
    """Whether all boxes, of which there is one at least, are smaller than a pixel, as those in parts of a side are."""
    boxes = flat(dataset.samples).columns.boxes
    return bool((boxes[:, 2:] - boxes[:, :2]).max() < 1)


def read_dataset(path: str | Path, split: Split) -> Dataset:
    """The data set at `path` as `open_dataset` finds it, however many problems it has.

    Raises MaenasError where nothing readable is there.
    """
    if are_built_in(path):
        return read_coco(cached_shapes() / "annotations" / f"instances_{'train' if split == 'train' else 'val'}.json")
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise MaenasError(f"data {path}: there is no such file or folder")
    try:
        return _read_folder(path, split) if path.is_dir() else _read_file(path, split)
    except NoSplitError as error:
        if split == "test":
            raise
        raise NoSplitError(f"{error}. {how_to_split(path)}") from None
    except PermissionError as error:
        raise MaenasError(f"data {path}: {error.filename} cannot be read: permission denied") from error


def _read_file(path: Path, split: Split) -> Dataset:
    if path.suffix.lower() == ".json":
        return read_coco(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_yolo(path, split)
    raise MaenasError(f"data {path}: a COCO .json, a YOLO data.yaml or a folder is expected")


def _read_folder(path: Path, split: Split) -> Dataset:
    yolo = find_yolo(path)
    if yolo is not None:
        return read_yolo(yolo, split)
    if is_voc(path):
        return read_voc(path, split)
    darknet = find_darknet(path)
    if darknet is not None:
        return read_darknet(darknet, split)
    annotations = find_coco(path, split)
    if annotations is not None:
        return read_coco(annotations, lambda: images_of(path, heap_of(path), split))
    inner = [child for child in sorted(path.iterdir()) if child.is_dir() and (find_yolo(child) or is_voc(child))]
    if inner:
        raise MaenasError(f"data {path}: the data lie in a folder of it; give {' or '.join(map(str, inner[:4]))}")
    heap = heap_of(path)
    read = find_split_folders(path, heap)
    if read is not None:
        return read(split)
    if find_unsplit(path, heap) is not None:
        raise NoSplitError(f"data {path}: annotated images, but nothing says which ones to train on")
    if any(labels_of(image) for image in heap.images):
        raise MaenasError(
            f"data {path}: text files of the images may be YOLO labels, but nothing names their classes; write a "
            f"data.yaml, or one {' or '.join(CLASSES)} with a name a line"
        )
    for file in files_below(path, deepest=DEEPEST):
        if advice := next((text for end, text in UNREAD.items() if file.suffix.lower().startswith(end)), None):
            raise MaenasError(f"data {path}: {file.name} is not read; {advice}")
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise MaenasError(
        f"data {path}: no known layout (found {found}); wanted: annotations/instances_{split}.json and images/ (COCO), "
        f"data.yaml (YOLO), Annotations/ and ImageSets/Main/{split}.txt (Pascal VOC), or another form of "
        "docs/custom-data.md"
    )


def align_names(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """`dataset` with its labels changed to the indices of the same classes in `names` (those of the training data).

    Raises MaenasError for a class that `names` does not have, unless it has no box here.
    """
    if dataset.names == names:
        return dataset
    counts = class_counts(dataset)
    missing = [name for name, count in zip(dataset.names, counts, strict=True) if count and name not in names]
    if missing:
        raise MaenasError(
            f"{dataset.source}: the classes {', '.join(missing[:5])} have boxes here, but the detector is trained on "
            f"{', '.join(names[:10])}{' ...' if len(names) > 10 else ''}; classes are matched by name"
        )
    index = np.array([names.index(name) if name in names else -1 for name in dataset.names], np.int64)
    return replace(dataset, names=names, samples=flat([_relabelled(sample, index) for sample in dataset.samples]))


def _relabelled(sample: Sample, index: np.ndarray) -> Sample:
    crowd = index[sample.crowd_labels]
    known = crowd >= 0
    return replace(
        sample, labels=index[sample.labels], crowd_boxes=sample.crowd_boxes[known], crowd_labels=crowd[known]
    )


def class_counts(dataset: Dataset) -> np.ndarray:
    """Boxes of each class, int64 `[num_classes]`."""
    return flat(dataset.samples).class_counts(len(dataset.names))
