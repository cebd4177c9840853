"""A CSV table of boxes whose first line names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from detector.data.sample import BAD_LINE, Listed, NamedBox, Problem, list_text
from maenas.errors import MaenasError

DELIMITERS: Final = ",;\t"
IMAGE: Final = ("filename", "file_name", "image", "image_path", "path")
CLASS: Final = ("class", "label", "class_name", "category", "name")
CORNERS: Final = (("xmin", "x1", "left"), ("ymin", "y1", "top"), ("xmax", "x2", "right"), ("ymax", "y2", "bottom"))


def is_table(start: str) -> bool:
    """Whether a table that begins so is one of boxes."""
    try:
        return _columns(start.partition("\n")[0]) is not None
    except csv.Error:
        return False


def table_rows(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    """A box for each row, or an image that has none; coordinates are in pixels. Rows that are neither are `problems`.

    Raises MaenasError for a table without the columns, or that is none.
    """
    lines = list_text(path).splitlines()
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


def _columns(header: str) -> tuple[str, list[str]] | None:
    """The delimiter and the six names of a header, as they are written; None where one is missing."""
    for delimiter in DELIMITERS:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        lower = {name.lower(): name for name in reversed(names)}
        found = [next((lower[name] for name in known if name in lower), "") for known in (IMAGE, CLASS, *CORNERS)]
        if all(found):
            return delimiter, found
    return None


def _entry(words: Sequence[str], where: str) -> Listed:
    image, label, *corners = words
    if image and not any((label, *corners)):
        return Listed(image, None)
    x1, y1, x2, y2 = map(float, corners)
    if not image or not label:
        raise ValueError("no name")
    return Listed(image, NamedBox(label, (x1, y1, x2, y2), where))
