"""Label Studio: one `.json` for many images, as it exports tasks in its own form ("JSON" and "JSON-MIN")."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import numpy as np

from detector.data.labelme import read_json
from detector.data.sample import BAD_LINE, MAX_LIST_BYTES, Listed, NamedBox, Problem, box_around, box_around_ellipse
from detector.images import SUFFIXES
from maenas.errors import MaenasError

MARKS: Final = ('"completed_by"', '"annotation_id"', '"original_width"')
LOCAL_FILES: Final = "?d="  # before the path of an image in its local storage


def is_studio(start: str) -> bool:
    """Whether a `.json` that begins so is of Label Studio."""
    return start.startswith("[") and any(key in start for key in MARKS)


def studio_shapes(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    """Every rectangle, polygon and ellipse with a label, as the box around it; masks become `problems`.

    A task that several people worked on has the shapes of the newest annotation. One that nobody submitted, or that was
    skipped, is not in the list.
    Raises MaenasError for a task without an image.
    """
    tasks = read_json(path, what="list of boxes", max_bytes=MAX_LIST_BYTES)
    for number, task in enumerate(tasks if isinstance(tasks, list) else []):
        where = f"{path} task {number}"
        if not isinstance(task, dict) or (name := _image_of(task)) is None:
            raise MaenasError(f"{where}: has no image, as the tasks of Label Studio do")
        results = _results(task)
        if results is None:
            continue
        found = [box for place, result in enumerate(results) for box in _boxes(result, f"{where} {place}", problems)]
        for box in found or [None]:
            yield Listed(name, box)


def _image_of(task: Mapping[str, Any]) -> str | None:
    """The first text of a task that ends like an image; its path, where an address has one."""
    data = task.get("data", task)
    texts = [value for value in (data.values() if isinstance(data, dict) else ()) if isinstance(value, str)]
    paths = (unquote(text.partition(LOCAL_FILES)[2] or text.partition("?")[0]) for text in texts)
    return next((path for path in paths if Path(path).suffix.lower() in SUFFIXES), None)


def _results(task: Mapping[str, Any]) -> list[Any] | None:
    """What was drawn into the image of a task; None where nobody has looked at it."""
    if "data" not in task:  # JSON-MIN
        lists = [value for value in task.values() if isinstance(value, list)]
        return [{"value": shape, **shape} for shapes in lists for shape in shapes if isinstance(shape, dict)]
    annotations = task.get("annotations")
    done = [one for one in (annotations if isinstance(annotations, list) else []) if isinstance(one, dict)]
    done = [one for one in done if not one.get("was_cancelled")]
    if not done:
        return None
    newest = max(done, key=lambda one: one["id"] if isinstance(one.get("id"), int) else 0)
    return newest["result"] if isinstance(newest.get("result"), list) else []


def _boxes(result: Any, where: str, problems: list[Problem]) -> Iterator[NamedBox]:
    """The box around a shape, for each of its labels; none for what is no shape, such as an answer of a form."""
    value = result.get("value") if isinstance(result, dict) else None
    key = next((key for key in value if key.endswith("labels")), None) if isinstance(value, dict) else None
    if value is None or key is None:
        return
    try:
        corners = _around(value, float(result["original_width"]) / 100, float(result["original_height"]) / 100)
        labels = [name.strip() for name in value[key]]
        if not all(labels):
            raise ValueError("no name")
    except (AttributeError, LookupError, TypeError, ValueError):
        problems.append(Problem(BAD_LINE, where))
        return
    yield from (NamedBox(label, corners, where) for label in labels)


def _around(value: Mapping[str, Any], across: float, down: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a shape in pixels, of which a percent of the image is `across` and `down`.

    A rectangle may be turned about its first corner and an ellipse about its centre, by degrees.
    """
    if "points" in value:
        return box_around(np.array(value["points"], np.float64).reshape(-1, 2) * (across, down))
    x, y = value["x"] * across, value["y"] * down
    angle = math.radians(value.get("rotation") or 0)
    if "radiusX" in value:
        return box_around_ellipse(x, y, value["radiusX"] * across, value["radiusY"] * down, angle)
    width, height = value["width"] * across, value["height"] * down
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    cos, sin = math.cos(angle), math.sin(angle)
    return box_around(corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y))
