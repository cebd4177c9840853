"""CVAT: one `.xml` for many images, as "CVAT for images 1.1" exports it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element

import numpy as np

from detector.data.sample import BAD_LINE, MAX_LIST_BYTES, Listed, NamedBox, Problem, box_around, box_around_ellipse
from detector.data.xml import read_xml
from maenas.errors import MaenasError

Corners = tuple[float, float, float, float]


def is_cvat(start: str) -> bool:
    """Whether XML that begins so is of CVAT."""
    return "<annotations>" in start


def cvat_shapes(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    """Every shape with an area, as the box around it; points, lines and tags are none of them.

    Raises MaenasError for a file without images, as CVAT exports videos.
    """
    root = read_xml(path, what="list of boxes", max_bytes=MAX_LIST_BYTES)
    images = root.findall("image")
    if not images:
        raise MaenasError(f"{path}: no image is in it; export the task again as `CVAT for images`")
    for image in images:
        name = image.get("name", "")
        shapes = [shape for shape in image if shape.tag in AROUND]
        if not shapes:
            yield Listed(name, None)
        for number, shape in enumerate(shapes):
            where = f"{path} {name} {shape.tag} {number}"
            label = shape.get("label", "").strip()
            try:
                corners = AROUND[shape.tag](shape)
            except (KeyError, ValueError):
                problems.append(Problem(BAD_LINE, where))
                continue
            if label:
                yield Listed(name, NamedBox(label, corners, where))
            else:
                problems.append(Problem(BAD_LINE, f"{where} (no name)"))


def _numbers(shape: Element, *names: str) -> list[float]:
    return [float(shape.attrib[name]) for name in names]


def _of_box(shape: Element) -> Corners:
    """A box may be turned about its centre, by degrees."""
    x1, y1, x2, y2 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    angle = np.deg2rad(float(shape.get("rotation", 0)))
    width, height = abs(x2 - x1), abs(y2 - y1)
    half = (
        (width * abs(np.cos(angle)) + height * abs(np.sin(angle))) / 2,
        (width * abs(np.sin(angle)) + height * abs(np.cos(angle))) / 2,
    )
    return _about((x1 + x2) / 2, (y1 + y2) / 2, *map(float, half)) if angle else (x1, y1, x2, y2)


def _of_ellipse(shape: Element) -> Corners:
    cx, cy, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    return box_around_ellipse(cx, cy, rx, ry, math.radians(float(shape.get("rotation", 0))))


def _about(x: float, y: float, half_width: float, half_height: float) -> Corners:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _of_points(shape: Element) -> Corners:
    return box_around(
        np.array([pair.split(",") for pair in shape.attrib["points"].split(";")], np.float64).reshape(-1, 2)
    )


def _of_mask(shape: Element) -> Corners:
    left, top, width, height = _numbers(shape, "left", "top", "width", "height")
    return left, top, left + width, top + height


AROUND: Final[dict[str, Callable[[Element], Corners]]] = {
    "box": _of_box,
    "ellipse": _of_ellipse,
    "polygon": _of_points,
    "mask": _of_mask,
}
