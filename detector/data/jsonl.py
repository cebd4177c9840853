"""`metadata.jsonl`: a line for each image, as the folders of images of Hugging Face's hub have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from detector.data.sample import BAD_LINE, MAX_LIST_BYTES, Listed, NamedBox, Problem
from maenas.errors import MaenasError
from maenas.files import read_text

BOXES: Final = ("bbox", "bboxes", "boxes")
CLASS: Final = ("categories", "category", "labels", "label", "class")


def is_jsonl(start: str) -> bool:
    """Whether lines of JSON that begin so tell of objects in images."""
    return '"file_name"' in start and '"objects"' in start


def jsonl_objects(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    """The boxes of every line, given by left, top, width and height; a class that is a number has it as its name.

    Raises MaenasError for a line that tells of no image.
    """
    for number, line in enumerate(
        read_text(path, what="list of boxes", max_bytes=MAX_LIST_BYTES).splitlines(), start=1
    ):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MaenasError(f"{where}: not valid JSON: {error}") from error
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise MaenasError(f"{where}: has no `file_name`, as every line of metadata.jsonl does")
        try:
            pairs = _pairs(entry.get("objects"))
        except (LookupError, TypeError, ValueError):
            problems.append(Problem(BAD_LINE, where))
            continue
        if not pairs:
            yield Listed(name, None)
        for place, (box, label) in enumerate(pairs):
            try:
                x, y, width, height = map(float, box)
            except (TypeError, ValueError):
                problems.append(Problem(BAD_LINE, f"{where} object {place}"))
                continue
            yield Listed(name, NamedBox(label, (x, y, x + width, y + height), f"{where} object {place}"))


def _pairs(objects: Any) -> list[tuple[Any, str]]:
    """Boxes and the names of their classes: `objects` has a list of each, or is a list of such pairs."""
    if objects is None:
        return []
    if isinstance(objects, list):
        return [(_first(one, BOXES), _name(_first(one, CLASS))) for one in objects]
    boxes, labels = _first(objects, BOXES), _first(objects, CLASS)
    return [(box, _name(label)) for box, label in zip(boxes, labels, strict=True)]


def _first(entry: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return entry[next((key for key in keys if key in entry), keys[0])]


def _name(label: Any) -> str:
    if isinstance(label, bool) or not isinstance(label, int | str) or not str(label).strip():
        raise ValueError("no name")
    return str(label).strip()
