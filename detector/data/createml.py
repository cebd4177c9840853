"""CreateML: one `.json` for many images, as Apple's Create ML reads it and others write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detector.data.labelme import label_of, read_json
from detector.data.sample import BAD_LINE, MAX_LIST_BYTES, Listed, NamedBox, Problem
from maenas.errors import MaenasError


def is_createml(start: str) -> bool:
    """Whether a `.json` that begins so may be CreateML's: a list, but not one of COCO results (`--save-json`)."""
    return start.startswith("[") and '"image_id"' not in start


def createml_objects(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    """Every annotation with a name and a box; others become `problems`.

    Raises MaenasError for an entry that names no image.
    """
    entries = read_json(path, what="list of boxes", max_bytes=MAX_LIST_BYTES)
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
