"""Annotated images that nobody has split yet, in the forms that annotation tools leave behind."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from detector.data.coco import is_coco, read_coco
from detector.data.listed import is_list, read_lists
from detector.data.sample import MISSING_IMAGE, UNANNOTATED, Dataset, Problem
from detector.data.texts import are_texts
from detector.data.voc import read_annotated
from detector.data.yolo import label_file, read_labelled
from detector.images import SUFFIXES, files_below
from maenas.errors import MaenasError
from maenas.files import filled_lines, read_text

CLASSES: Final = ("classes.txt", "obj.names")
DEEPEST: Final = 4  # folders below which nobody looks: --data may be a whole disk


class Heap(NamedTuple):
    """What lies in a folder, in order of folders and names: images, files that annotate one, lists of classes, COCO
    annotations, and other lists of boxes in many images."""

    images: list[Path]
    annotations: list[Path]
    classes: list[Path]
    documents: list[Path]
    lists: list[Path]


def heap_of(root: Path) -> Heap:
    """The files below `root`. What annotates an image is .xml that is no list of boxes; or, where there is neither .xml
    nor a list of classes, .json, or else .txt (`texts`). Lists of boxes in many images count where none of these is."""
    files = list(files_below(root, deepest=DEEPEST))
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    names = set(map(_stem, images))
    classes = [path for path in files if path.name.lower() in CLASSES]
    annotations = [
        path for path in files if path.suffix.lower() == ".xml" and (_stem(path) in names or not is_list(path))
    ]
    if not annotations and not classes:
        named = [path for path in files if _stem(path) in names]
        annotations = [path for path in named if path.suffix.lower() == ".json"] or _texts(named)
    others = [] if annotations or classes else files
    documents = [path for path in others if path.suffix.lower() == ".json" and path.is_file() and is_coco(path)]
    return Heap(images, annotations, classes, documents, [path for path in others if is_list(path)])


def _texts(paths: Sequence[Path]) -> list[Path]:
    labels = [path for path in paths if path.suffix.lower() == ".txt"]
    return labels if are_texts(labels) else []


def find_unsplit(root: Path, heap: Heap) -> Callable[[], Dataset] | None:
    """What reads the annotated images of `heap`, in the folder `root`; None where it holds none of the known forms.

    These are Pascal VOC .xml, `.json` (`labelme`) or `.txt` (`texts`) files anywhere, named as their images; YOLO label
    files and one list of `CLASSES`, in `labels/` for `images/` or beside the images; else one COCO .json; else one list
    of boxes (`listed`). An image that nothing annotates is left out, for nobody may have looked at it yet; `problems`
    names it.

    The reader raises MaenasError for annotations that cannot be read, and where two files could annotate one image.
    """
    if are_single(heap):
        return partial(_read_single, root, heap)
    if len(heap.classes) == 1:
        return partial(read_lines, root, heap)
    if len(heap.documents) == 1:
        return partial(read_coco, heap.documents[0], lambda: heap.images)
    return partial(read_lists, root, heap.lists, heap.images) if len(heap.lists) == 1 else None


def are_single(heap: Heap) -> bool:
    """Whether any image has an annotation file of its name."""
    names = set(map(_stem, heap.annotations))
    return any(_stem(image) in names for image in heap.images)


def single_pairs(heap: Heap) -> list[tuple[Path, Path]]:
    """Images and the files that annotate them. Of files that are called alike those belong together whose folders have
    most names in common. Raises MaenasError where that leaves two for one."""
    images, annotations = _by_stem(heap.images), _by_stem(heap.annotations)
    pairs = []
    for image in heap.images:
        stem = _stem(image)
        near = [(path, _nearest(path, images[stem])) for path in _nearest(image, annotations.get(stem, {}))]
        mutual = [(path, found) for path, found in near if image in found]
        for rivals in ([path for path, _ in mutual], *(found for _, found in mutual)):
            if len(rivals) > 1:
                raise MaenasError(
                    f"{rivals[0]} and {rivals[1]} have the same name; annotations are found by name, then by folder"
                )
        pairs += [(image, path) for path, _ in mutual]
    return pairs


def _by_stem(files: Sequence[Path]) -> dict[str, dict[Path, list[Path]]]:
    """Files by what they are called, then by their folder."""
    found: dict[str, dict[Path, list[Path]]] = {}
    for file in files:
        found.setdefault(_stem(file), {}).setdefault(file.parent, []).append(file)
    return found


def _nearest(path: Path, files: Mapping[Path, Sequence[Path]]) -> Sequence[Path]:
    """Those of `files` in the folder of `path`, else those whose folders have most names in common with it."""
    if path.parent in files:
        return files[path.parent]
    shared = {folder: len({*path.parts[:-1]} & {*folder.parts}) for folder in files}
    most = max(shared.values(), default=0)
    return [file for folder, count in shared.items() if count == most for file in files[folder]]


def without_partner(heap: Heap, pairs: Sequence[tuple[Path, Path]]) -> list[Problem]:
    """Images and annotation files that are in none of the pairs."""
    used = {path for pair in pairs for path in pair}
    alone = [Problem(MISSING_IMAGE, f"that of {path}") for path in heap.annotations if path not in used]
    return [*_unannotated(heap.images, used), *alone]


def _read_single(root: Path, heap: Heap) -> Dataset:
    pairs = single_pairs(heap)
    return with_problems(read_annotated(root, pairs), without_partner(heap, pairs))


def read_lines(root: Path, heap: Heap) -> Dataset:
    """The images of a heap with one list of classes that have YOLO label files."""
    pairs = [(image, labels) for image in heap.images if (labels := labels_of(image)) is not None]
    (classes,) = heap.classes
    names = filled_lines(read_text(classes, what="list of classes"))
    return with_problems(read_labelled(root, pairs, names), _unannotated(heap.images, {image for image, _ in pairs}))


def _unannotated(images: Sequence[Path], used: Container[Path]) -> list[Problem]:
    return [Problem(UNANNOTATED, str(image)) for image in images if image not in used]


def with_problems(dataset: Dataset, more: Sequence[Problem]) -> Dataset:
    """`dataset` with `more` problems."""
    return replace(dataset, problems=(*dataset.problems, *more))


def labels_of(image: Path) -> Path | None:
    """The YOLO label file of an image, where there is one: in `labels/` for `images/`, or beside it."""
    return next((path for path in (label_file(image), image.with_suffix(".txt")) if path.is_file()), None)


def _stem(path: Path) -> str:
    """What an image and its annotations are both called: `a` for `a.jpg`, `a.json` and `a.jpg.json`."""
    inner = Path(path.stem)
    return inner.stem if inner.suffix.lower() in SUFFIXES else path.stem
