"""VIA, the VGG Image Annotator: one `.json` for many images, its annotations alone or a whole project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from detector.data.labelme import read_json
from detector.data.sample import BAD_LINE, MAX_LIST_BYTES, Listed, NamedBox, Problem, box_around, box_around_ellipse
from maenas.errors import MaenasError

MARKS: Final = ('"filename"', '"size"', '"regions"')
PROJECT_MARK: Final = "_via_settings"
PROJECT: Final = "_via_img_metadata"
CLASS: Final = ("class", "label", "name", "category", "type")
ONLY_CLASS: Final = "object"  # of regions without attributes


def is_via(start: str) -> bool:
    """Whether a `.json` that begins so is of VIA."""
    return start.startswith("{") and (PROJECT_MARK in start or all(key in start for key in MARKS))


def via_regions(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    """Every region with an area, as the box around it; points and lines become `problems`.

    Its class is the attribute called like one (`CLASS`), else its first attribute. Regions without attributes, as in
    data of one class, are `ONLY_CLASS`.
    Raises MaenasError for a file that is not VIA's.
    """
    document = read_json(path, what="list of boxes", max_bytes=MAX_LIST_BYTES)
    images = document.get(PROJECT, document) if isinstance(document, dict) else None
    for key, image in images.items() if isinstance(images, dict) else ():
        name = image.get("filename") if isinstance(image, dict) else None
        if not isinstance(name, str):
            raise MaenasError(f"{path}: {key!r:.80} has no `filename`, as the images of VIA do")
        regions = image.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not regions:
            yield Listed(name, None)
        for number, region in enumerate(regions):
            where = f"{path} {name} region {number}"
            try:
                yield Listed(name, NamedBox(_class_of(region), _around(region["shape_attributes"]), where))
            except (AttributeError, LookupError, TypeError, ValueError):
                problems.append(Problem(BAD_LINE, where))


def _class_of(region: Mapping[str, Any]) -> str:
    attributes = region.get("region_attributes") or {}
    if not attributes:
        return ONLY_CLASS
    value = attributes[next((key for key in attributes if key.lower() in CLASS), next(iter(attributes)))]
    if isinstance(value, dict):  # boxes to tick
        value = next((key for key, ticked in value.items() if ticked), "")
    if not value.strip():
        raise ValueError("no name")
    return value.strip()


def _around(shape: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a shape, in pixels."""
    match shape["name"]:
        case "rect":
            x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
            return x, y, x + width, y + height
        case "polygon":
            points = [shape["all_points_x"], shape["all_points_y"]]
            return box_around(np.array(points, np.float64).T.reshape(-1, 2))
        case "circle":
            x, y, radius = (float(shape[key]) for key in ("cx", "cy", "r"))
            return x - radius, y - radius, x + radius, y + radius
        case "ellipse":
            x, y, rx, ry = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
            return box_around_ellipse(x, y, rx, ry, float(shape.get("theta", 0)))
    raise ValueError("no area")
