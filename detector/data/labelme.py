"""A `.json` for each image, as LabelMe, AnyLabeling, X-AnyLabeling and Supervisely write it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from detector.data.sample import BAD_LINE, NamedBox, Problem, box_around
from detector.data.supervisely import supervisely_objects
from maenas.errors import MaenasError
from maenas.files import read_text

MAX_BYTES: Final = 2**28  # the image may stand in it, too
WITHOUT_AREA: Final = ("point", "points", "line", "linestrip")


def json_objects(path: Path, problems: list[Problem]) -> Iterator[NamedBox]:
    """The shapes of a file of LabelMe or Supervisely, each as the box around it; points and lines are none and become
    `problems`.

    Raises MaenasError for a file that is of neither.
    """
    document = read_json(path, what="annotation", max_bytes=MAX_BYTES)
    match document:
        case {"shapes": list(shapes)}:
            return _labelme_objects(shapes, path, problems)
        case {"objects": list(objects)}:
            return supervisely_objects(objects, path, problems)
    raise MaenasError(f"{path}: has no list `shapes`, as the files of LabelMe do, nor `objects`, as Supervisely's")


def _labelme_objects(shapes: Sequence[Any], path: Path, problems: list[Problem]) -> Iterator[NamedBox]:
    for number, shape in enumerate(shapes):
        where = f"{path} shape {number}"
        try:
            yield NamedBox(label_of(shape), _around(shape), where)
        except (LookupError, TypeError, ValueError):
            problems.append(Problem(BAD_LINE, where))


def read_json(path: Path, *, what: str, max_bytes: int) -> Any:
    """What the JSON file `path` holds; raises MaenasError, which calls a file that cannot be read `what`."""
    text = read_text(path, what=what, max_bytes=max_bytes)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MaenasError(f"{path}: not valid JSON: {error}") from error


def label_of(annotation: Any) -> str:
    """The `label` of an annotation, without blanks around it. Raises `ValueError` where there is no text in it."""
    name = annotation["label"].strip() if isinstance(annotation["label"], str) else ""
    if not name:
        raise ValueError("no name")
    return name


def _around(shape: Any) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a shape, in pixels."""
    kind = shape.get("shape_type", "polygon")
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if kind in WITHOUT_AREA or len(points) < 2:
        raise ValueError("no area")
    if kind == "circle":  # its centre, and a point on it
        radius = np.hypot(*(points[1] - points[0]))
        points = np.stack([points[0] - radius, points[0] + radius])
    return box_around(points)
