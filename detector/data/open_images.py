"""Open Images: a CSV table of boxes in parts of the sides, and another one with the names of the classes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from detector.data.sample import BAD_LINE, Listed, NamedBox, Problem, list_text
from maenas.errors import MaenasError

COLUMNS: Final = ("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax")
GROUP: Final = "IsGroupOf"  # 1: more than five objects in one box
DESCRIPTIONS: Final = ("*class-descriptions*.csv", "metadata/classes.csv")
ENDING: Final = ".jpg"  # of all images


def is_open_images(start: str) -> bool:
    """Whether a table that begins so is one of these boxes."""
    return {*COLUMNS} <= {*start.partition("\n")[0].strip().split(",")}


def open_images_rows(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    """The box of every row; groups are crowds. Rows that hold none become `problems`.

    Classes have the names of a table of descriptions in the folder of the list or one of the two above it, else their
    codes. Raises MaenasError for a table that cannot be read.
    """
    names = _descriptions(path)
    reader = csv.DictReader(list_text(path).splitlines())
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            try:
                yield _entry(row, names, where)
            except (AttributeError, TypeError, ValueError):  # a row that ends too early has None
                problems.append(Problem(BAD_LINE, where))
    except csv.Error as error:
        raise MaenasError(f"{path}:{reader.line_num}: {error}") from error


def _entry(row: Mapping[str, str], names: Mapping[str, str], where: str) -> Listed:
    image, code = (row[key].strip() for key in COLUMNS[:2])
    x1, y1, x2, y2 = (float(row[key]) for key in COLUMNS[2:])
    if not image or not code or not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError("no box")
    crowd = row.get(GROUP, "").strip() == "1"
    return Listed(image + ENDING, NamedBox(names.get(code, code), (x1, y1, x2, y2), where, "side", crowd))


def _descriptions(path: Path) -> dict[str, str]:
    """Names of the classes by their codes."""
    places = (file for folder in path.parents[:3] for pattern in DESCRIPTIONS for file in sorted(folder.glob(pattern)))
    found = next(places, None)
    rows = [] if found is None else csv.reader(list_text(found).splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1}
