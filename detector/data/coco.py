"""COCO JSON: finding the file of a split, and reading it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from detector.data.annotation_cache import LEAST_BYTES, Parsed, cached
from detector.data.flat import flat
from detector.data.outline import box_of_outline
from detector.data.places import find_images
from detector.data.sample import (
    BROKEN_IMAGE,
    DEGENERATE_BOX,
    DUPLICATE_ANNOTATION,
    DUPLICATE_IMAGE,
    MISSING_IMAGE,
    UNKNOWN_CLASS,
    UNKNOWN_IMAGE,
    Box,
    Dataset,
    Problem,
    Sample,
    check_names,
    image_size,
    make_sample,
)
from maenas.errors import MaenasError
from maenas.files import read_text
from maenas.strict.json import RepeatedKeyError, unrepeated

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_PART_BYTES = 2**16  # of a file, at its start and its end
_MAX_SIDE = 2**20  # pixels
_LARGEST = 1e15  # of coordinates and areas; their sums and products stay finite
_MAX_BYTES = 8 * 2**30  # the training annotations of COCO have 0.5 GB


def is_coco(path: Path) -> bool:
    """Whether a `.json` looks like COCO annotations, by its first and last characters."""
    try:
        with path.open("rb") as file:
            text = file.read(_PART_BYTES)
            file.seek(-min(_PART_BYTES, path.stat().st_size), os.SEEK_END)
            text += file.read()
    except OSError:
        return False
    text = text.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(b"{") and b'"categories"' in text and (b'"images"' in text or b'"image_id"' in text)


def find_coco(root: Path, split: str) -> Path | None:
    """The annotation file of a split in a folder, None where none has a usual name.

    Those are `annotations/instances_{split}[2017].json`, any one `annotations/*{split}*.json`, and
    `{split}/_annotations.coco.json`.

    Raises MaenasError where several files could be it.
    """
    names = ALIASES[split]
    for name in names:
        for path in (root / name / "_annotations.coco.json", root / "annotations" / f"instances_{name}.json"):
            if path.is_file():
                return path
    files = sorted((root / "annotations").glob("*.json"))
    return the_one([path for path in files if any(name in path.stem.lower() for name in names)], root, split)


def the_one(files: Sequence[Path], root: Path, split: str) -> Path | None:
    """The file among those of a split that has boxes, None where there is no file.

    Raises MaenasError where several could be it.
    """
    instances = [path for path in files if path.stem.startswith("instances_")]
    if len(files) > 1 and len(instances) != 1:
        listed = ", ".join(str(path.relative_to(root)) for path in files)
        raise MaenasError(
            f"{root}: several annotation files could be the {split} split ({listed}); name one of these files"
        )
    return (instances or [*files, None])[0]


def read_coco(path: Path, elsewhere: Callable[[], Sequence[Path]] = tuple) -> Dataset:
    """The data set in a COCO annotation file; classes in the order of their ids.

    Images lie beside the file, or in `images/`, `data/`, `images/<split>/` or `<split>/` beside it or one folder up.
    Where none is there, as with names from another machine, they are looked for by their names alone among the files
    `elsewhere`. An annotation without a box has the one around its outline. What a large file says is kept in the
    user's cache (`annotation_cache`).

    Raises MaenasError for text that is no COCO JSON, and for an image outside the data folder.
    """
    path = Path(os.path.abspath(path))
    large = os.path.isfile(path) and path.stat().st_size >= LEAST_BYTES
    return cached(path, lambda: parse_coco(path, elsewhere)) if large else parse_coco(path, elsewhere).dataset


def parse_coco(path: Path, elsewhere: Callable[[], Sequence[Path]] = tuple) -> Parsed:
    """As `read_coco`, always from the file itself."""
    document = _document(path)
    names, indices = _categories(document, str(path))
    problems: list[Problem] = []
    boxes = _boxes(document, indices, str(path), problems)
    images = _images(document, path, problems)
    files = [_field(image, "file_name", str, where) for where, image in images.values()]
    candidates = _image_roots(path)
    root, found = find_images(path, files, [root for root in candidates if root.is_dir()], elsewhere)
    samples: list[Sample] = []
    for (id, (where, image)), file in zip(images.items(), found, strict=True):
        there = os.path.isfile(file)  # false, too, for a name that no file can have
        size = _size(image, file, where) if there else None
        if size is None:
            problems.append(Problem(BROKEN_IMAGE if there else MISSING_IMAGE, str(file)))
            continue
        samples.append(make_sample(file, id, *size, boxes.get(id, []), problems))
    problems += [
        Problem(UNKNOWN_IMAGE, f"{box.where} (image_id {id})") for id in boxes.keys() - images for box in boxes[id]
    ]
    dataset = Dataset(names, flat(samples), tuple(problems), str(path))
    sized = all(_is_sized(image) for _, image in images.values())
    if root is None or not sized:
        return Parsed(dataset, None)
    looked = candidates[: candidates.index(root) + 1]
    inner = sorted({os.path.dirname(name.replace("\\", "/")) for name in files})
    return Parsed(dataset, [str(place / folder) for place in looked for folder in inner])


def _images(
    document: Mapping[str, list[Any]], path: Path, problems: list[Problem]
) -> dict[int, tuple[str, Mapping[str, Any]]]:
    """Where each image is listed, and its entry there, by its id."""
    images: dict[int, tuple[str, Mapping[str, Any]]] = {}
    for number, image in enumerate(document["images"]):
        where = f"{path}: images[{number}]"
        id = _field(image, "id", int, where)
        if id in images:
            problems.append(Problem(DUPLICATE_IMAGE, f"{id} ({image.get('file_name')!s:.200})"))
        else:
            images[id] = where, image
    return images


def _document(path: Path) -> dict[str, list[Any]]:
    text = read_text(path, what="COCO annotations", max_bytes=_MAX_BYTES)
    try:
        document = json.loads(text, object_pairs_hook=_without_outline)
    except RepeatedKeyError as error:
        raise MaenasError(f"{path}: the key {error.args[0]!r:.80} appears twice in one object; remove one") from None
    except json.JSONDecodeError as error:
        raise MaenasError(f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise MaenasError(f"{path}: nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise MaenasError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise MaenasError(f"{path}: not COCO annotations: an object is expected, this is a {type(document).__name__}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise MaenasError(f'{path}: not COCO annotations: the list "{key}" is missing')
    return document


def _without_outline(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file without its outline: those of a large file take gigabytes. Where it has no box, it gets the
    one around the outline."""
    entry = unrepeated(pairs)
    outline = entry.pop("segmentation", None)
    if outline and not entry.get("bbox"):
        entry["bbox"] = box_of_outline(outline)
    return entry


def _categories(document: Mapping[str, list[Any]], where: str) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names in the order of the category ids, and the index of each id."""
    names: dict[int, str] = {}
    for number, category in enumerate(document["categories"]):
        place = f"{where}: categories[{number}]"
        id = _field(category, "id", int, place)
        name = _field(category, "name", str, place)
        if id in names or name in names.values():
            raise MaenasError(f"{place}: id {id} or name {name!r} appears twice")
        names[id] = name
    if not names:
        raise MaenasError(f"{where}: categories is empty; list the classes")
    check_names(tuple(names.values()), where)
    order = sorted(names)
    return tuple(names[id] for id in order), {id: index for index, id in enumerate(order)}


def _boxes(
    document: Mapping[str, list[Any]], indices: Mapping[int, int], where: str, problems: list[Problem]
) -> dict[int, list[Box]]:
    """Annotations by image id."""
    boxes: dict[int, list[Box]] = {}
    seen: set[int] = set()
    for number, annotation in enumerate(document["annotations"]):
        place = f"annotations[{number}]"
        image = _field(annotation, "image_id", int, f"{where}: {place}")
        category = _field(annotation, "category_id", int, f"{where}: {place}")
        id = annotation.get("id")
        if isinstance(id, int):
            if id in seen:
                problems.append(Problem(DUPLICATE_ANNOTATION, f"{place} (id {id})"))
            seen.add(id)
        if category not in indices:
            problems.append(Problem(UNKNOWN_CLASS, f"{place} (category_id {category})"))
            continue
        bbox = annotation.get("bbox")
        if not (isinstance(bbox, list) and len(bbox) == 4 and all(_is_number(value) for value in bbox)):
            problems.append(Problem(DEGENERATE_BOX, f"{place} (bbox {str(bbox)[:60]})"))
            continue
        x, y, w, h = bbox
        area = annotation.get("area")
        area = float(area) if _is_number(area) and area > 0 else None
        crowd = annotation.get("iscrowd")
        if crowd is not None and (not isinstance(crowd, int) or crowd not in (0, 1)):
            raise MaenasError(f'{where}: {place}: "iscrowd" must be 0 or 1, not {crowd!r:.60}')
        box = Box((x, y, x + w, y + h), indices[category], place, area, crowd == 1)
        boxes.setdefault(image, []).append(box)
    return boxes


def _field(entry: Any, key: str, type_: type, where: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type_ is int and isinstance(value, float) and value.is_integer():  # as tables with gaps write their columns
        value = int(value)
    if not isinstance(value, type_) or isinstance(value, bool) or not _is_storable(value):
        kind = {int: "an integer of 64 bits", str: "a string of Unicode"}[type_]
        raise MaenasError(f'{where}: "{key}" must be {kind}, not {str(value)[:60]!r}')
    return value


def _is_storable(value: Any) -> bool:
    """JSON has larger integers than arrays have, and halves of characters."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _is_sized(image: Mapping[str, Any]) -> bool:
    return image.get("width") is not None or image.get("height") is not None


def _size(image: Mapping[str, Any], file: Path, where: str) -> tuple[int, int] | None:
    """Annotated width and height; those of the file where they are not annotated."""
    if not _is_sized(image):
        return image_size(file)
    size = _field(image, "width", int, where), _field(image, "height", int, where)
    if min(size) < 1 or max(size) > _MAX_SIDE:
        raise MaenasError(
            f"{where}: width and height are {size[0]} and {size[1]}; each must be at least 1, at most {_MAX_SIDE}"
        )
    return size


def _image_roots(path: Path) -> list[Path]:
    """Folders that the file names of the images may be relative to, whether they exist or not."""
    folder = path.parent
    splits = {path.stem.removeprefix("instances_"), *(name for names in ALIASES.values() for name in names)}
    splits = sorted(name for name in splits if name in path.stem)
    splits.sort(key=len, reverse=True)  # train2017 before train
    tops = [folder.parent, folder] if folder.name == "annotations" else [folder, folder.parent]
    roots = []
    for top in tops:
        roots += [top / "images" / name for name in splits] + [top / name for name in splits]
        roots += [top / "images", top / "data", top]
    return roots
