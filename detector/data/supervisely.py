"""Supervisely: a `.json` for each image, named as it with its ending (`ann/cat.jpg.json` for `img/cat.jpg`)."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from detector.data.sample import BAD_LINE, NamedBox, Problem, box_around
from detector.images import BOMB, BROKEN

MOST_BYTES: Final = 1 << 28  # of one mask, unpacked


def supervisely_objects(objects: Sequence[Any], path: Path, problems: list[Problem]) -> Iterator[NamedBox]:
    """The `objects` of the file `path`, each as the box around it; points and lines are none and become `problems`."""
    for number, entry in enumerate(objects):
        where = f"{path} object {number}"
        try:
            yield NamedBox(_name_of(entry), _around(entry), where)
        except (LookupError, TypeError, ValueError, AttributeError):
            problems.append(Problem(BAD_LINE, where))


def _name_of(entry: Mapping[str, Any]) -> str:
    name = entry["classTitle"].strip()
    if not name:
        raise ValueError("no name")
    return name


def _around(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an object, in pixels."""
    kind = entry.get("geometryType", "bitmap" if entry.get("bitmap") else "polygon")
    if kind == "bitmap":
        left, top = map(float, entry["bitmap"]["origin"])
        width, height = _size(entry["bitmap"]["data"])
        return left, top, left + width, top + height
    points = np.array(entry["points"]["exterior"], np.float64).reshape(-1, 2)
    if kind not in ("rectangle", "polygon") or len(points) < 2:
        raise ValueError("no area")
    return box_around(points)


def _size(data: str) -> tuple[int, int]:
    """Width and height of a mask: a PNG, packed once more, as text."""
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(data), MOST_BYTES)
        with Image.open(BytesIO(unpacked), formats=("PNG",)) as image:
            return image.size
    except (binascii.Error, zlib.error, *BROKEN, *BOMB) as error:
        raise ValueError("no mask") from error
