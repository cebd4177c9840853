"""One list for many images: a CSV table with a header, the JSON of CreateML, or the XML of CVAT."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from detector.data.cvat import cvat_shapes
from detector.data.labelme import label_of, read_json
from detector.data.places import by_name, place_of
from detector.data.sample import BAD_LINE, MISSING_IMAGE, UNANNOTATED, Dataset, Listed, NamedBox, Problem
from detector.data.voc import named_dataset
from maenas.errors import MaenasError
from maenas.files import read_text

MAX_BYTES: Final = 2**30
DELIMITERS: Final = ",;\t"
IMAGE: Final = ("filename", "file_name", "image", "image_path", "path")
CLASS: Final = ("class", "label", "class_name", "category", "name")
CORNERS: Final = (("xmin", "x1", "left"), ("ymin", "y1", "top"), ("xmax", "x2", "right"), ("ymax", "y2", "bottom"))


def is_list(path: Path) -> bool:
    """Whether a file is such a list: a `.csv` whose first line names the columns, a `.json` that is a list, but not one
    of COCO results, as `maenas detect --save-json` writes it, or an `.xml` of several annotations."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".json", ".xml") or not path.is_file():  # a pipe is none, and would be waited for
        return False
    try:
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(1 << 12)
        if kind == ".json":
            return start.lstrip().startswith("[") and '"image_id"' not in start
        if kind == ".xml":
            return "<annotations>" in start
        return _columns(start.partition("\n")[0]) is not None
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


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
        found: dict[str, Path | None] = {}
        for name, box in _entries(path, problems):
            if name not in found:
                found[name] = image = place_of(path, name, places)
                if image is None:
                    problems.append(Problem(MISSING_IMAGE, f"{name} of {path}"))
            if (image := found[name]) is not None:
                boxes.setdefault(image, []).extend([] if box is None else [box])
    others = [(path, list(_entries(path, []))) for path in classes_of]
    called = [(path, name) for path, entries in others for name in dict.fromkeys(name for name, _ in entries)]
    named = {place_of(path, name, places) for path, name in called}
    problems += [Problem(UNANNOTATED, str(image)) for image in images if image not in named and image not in boxes]
    elsewhere = [[box for _, box in entries if box is not None] for _, entries in others]
    return named_dataset(root, list(boxes.items()), elsewhere, problems)


def _entries(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    read = {".json": _of_json, ".xml": cvat_shapes}.get(path.suffix.lower(), _of_csv)
    return read(path, problems)


def _columns(header: str) -> tuple[str, list[str]] | None:
    """The delimiter and the six names of a header, as they are written; None where one is missing."""
    for delimiter in DELIMITERS:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        lower = {name.lower(): name for name in reversed(names)}
        found = [next((lower[name] for name in known if name in lower), "") for known in (IMAGE, CLASS, *CORNERS)]
        if all(found):
            return delimiter, found
    return None


def _of_csv(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    lines = read_text(path, what="list of boxes", max_bytes=MAX_BYTES).removeprefix("\ufeff").splitlines()
    columns = _columns(lines[0]) if lines else None
    if columns is None:
        raise MaenasError(f"{path}: the first line must name the columns filename, class, xmin, ymin, xmax and ymax")
    delimiter, names = columns
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            try:
                yield _entry([row[name].strip() for name in names], where)
            except (AttributeError, ValueError):  # a row that ends too early has None
                problems.append(Problem(BAD_LINE, where))
    except csv.Error as error:
        raise MaenasError(f"{path}:{reader.line_num}: {error}") from error


def _entry(words: Sequence[str], where: str) -> Listed:
    image, label, *corners = words
    if image and not any((label, *corners)):
        return Listed(image, None)
    x1, y1, x2, y2 = map(float, corners)
    if not image or not label:
        raise ValueError("no name")
    return Listed(image, NamedBox(label, (x1, y1, x2, y2), where))


def _of_json(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    entries = read_json(path, what="list of boxes", max_bytes=MAX_BYTES)
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict) or not isinstance(name := entry.get("image"), str):
            raise MaenasError(f"{path} entry {number}: has no `image`, as the lists of CreateML do")
        annotations = entry.get("annotations")
        if not annotations:
            yield Listed(name, None)
        for place, annotation in enumerate(annotations if isinstance(annotations, list) else []):
            where = f"{path} {name} annotation {place}"
            try:
                yield Listed(name, NamedBox(label_of(annotation), _around(annotation["coordinates"]), where))
            except (LookupError, TypeError, ValueError):
                problems.append(Problem(BAD_LINE, where))


def _around(box: Any) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a box given by its centre and size."""
    x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
