"""Affine maps of images and boxes.

Two kinds of coordinates: boxes count from the outer corner of the first pixel, warps from its centre. Matrices are
float64 `[3, 3]` and act on columns (x, y, 1). Legend: N boxes.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import cv2
import numpy as np

GREY: Final = 114  # of whatever no image covers
_SHIFT: Final = 4  # OpenCV draws polygons with coordinates in 1/16 pixel


class Affine(NamedTuple):
    """One drawn affine: degrees (counter-clockwise as seen), zoom, shear in degrees, centre in parts of the side."""

    angle: float = 0.0
    scale: float = 1.0
    shear_x: float = 0.0
    shear_y: float = 0.0
    translate_x: float = 0.5
    translate_y: float = 0.5


def affine_matrix(draw: Affine, source: int, target: int) -> np.ndarray:
    """Maps the centre of a square of side `source` to the drawn place in one of side `target`: T Sh R C."""
    cos = draw.scale * math.cos(math.radians(draw.angle))
    sin = draw.scale * math.sin(math.radians(draw.angle))
    rotation = np.array([[cos, sin], [-sin, cos]])
    shear = np.array([[1, math.tan(math.radians(draw.shear_x))], [math.tan(math.radians(draw.shear_y)), 1]])
    matrix = np.eye(3)
    matrix[:2, :2] = shear @ rotation
    place = np.array([draw.translate_x, draw.translate_y]) * target
    matrix[:2, 2] = place - matrix[:2, :2] @ [source / 2, source / 2]
    return matrix


def scaling(scale_x: float, scale_y: float, shift_x: float = 0.0, shift_y: float = 0.0) -> np.ndarray:
    """x -> scale_x x + shift_x, and likewise y."""
    return np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y], [0, 0, 1]], np.float64)


def resizing(old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """What a resize from (width, height) `old` to `new` does to pixel centres."""
    x, y = new[0] / old[0], new[1] / old[1]
    return scaling(x, y, (x - 1) / 2, (y - 1) / 2)


def mirroring(width: int) -> np.ndarray:
    """What a horizontal flip of an image does to pixel centres."""
    return scaling(-1, 1, width - 1)


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The boxes around the four transformed corners of each box, float64 `[N, 4]`."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) @ matrix[:2, :2].T + matrix[:2, 2]  # [N, 4, 2]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def flip_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """Boxes after a horizontal flip of an image of this width."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes cut at the edges of an image."""
    return np.clip(boxes, 0, [width, height, width, height])


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas `[N]`."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def still_objects(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which boxes, bool `[N]`, are left well enough after a transformation, given their size before it.

    Both sides over 2 pixels, over 0.1 of the area, and no side 20 times the other.
    """
    sides = after[:, 2:] - after[:, :2]
    low, high = sides.min(axis=1), sides.max(axis=1)
    visible = box_areas(after) / (box_areas(before) + 1e-16)
    return (low > 2) & (visible > 0.1) & (high < 20 * low)


def paint(out: np.ndarray, image: np.ndarray, matrix: np.ndarray, region: np.ndarray) -> None:
    """Warps `image`, uint8 `[h, w, channels]`, into `out` by `matrix`, bilinearly, but only within a convex polygon.

    `region` holds the corners `[K, 2]` of the polygon in the box coordinates of `out`.
    """
    found = _bounds(region, out)
    if found is None:
        return
    x1, y1, x2, y2 = found
    part, x, y = _needed(image, np.linalg.inv(matrix), region, np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]))
    moved = matrix[:2].copy()
    moved[:, 2] += matrix[:2, :2] @ [x, y] - [x1, y1]
    size = (x2 - x1, y2 - y1)
    warped = cv2.warpAffine(part, moved, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros((size[1], size[0]), np.uint8)
    _fill(mask, region - [x1, y1], 255)
    cv2.copyTo(warped, mask, out[y1:y2, x1:x2])


def _needed(image: np.ndarray, inverse: np.ndarray, *regions: np.ndarray) -> tuple[np.ndarray, int, int]:
    """A copy of the part of `image` that lies under all polygons of the target, and the corner of that part.

    Copying reads memory in order: a warp of an image that is not in the processor's cache takes 2.5 times as long.
    """
    low, high = np.zeros(2), np.array(image.shape[1::-1], np.float64)
    for region in regions:
        corners = (region - 0.5) @ inverse[:2, :2].T + inverse[:2, 2]
        low = np.maximum(low, corners.min(axis=0) - 1)
        high = np.minimum(high, corners.max(axis=0) + 3)
    (x1, y1), (x2, y2) = low.astype(int).tolist(), np.ceil(high).astype(int).tolist()
    x1, y1 = min(x1, image.shape[1] - 1), min(y1, image.shape[0] - 1)
    return image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)].copy(), x1, y1


def fill(out: np.ndarray, region: np.ndarray, grey: int) -> None:
    """Fills a convex polygon, corners `[K, 2]` in box coordinates, with one grey."""
    _fill(out, region, grey)


def rectangle(x1: float, y1: float, x2: float, y2: float, matrix: np.ndarray) -> np.ndarray:
    """Corners `[4, 2]`, in box coordinates, of a rectangle in box coordinates mapped by a matrix of pixel centres."""
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) - 0.5
    return corners @ matrix[:2, :2].T + matrix[:2, 2] + 0.5


def _bounds(region: np.ndarray, out: np.ndarray) -> tuple[int, int, int, int] | None:
    """The pixels of `out` that a polygon touches: x1, y1, x2, y2; None if none."""
    height, width = out.shape[:2]
    low, high = region.min(axis=0).tolist(), region.max(axis=0).tolist()
    x1, y1 = max(math.floor(low[0]), 0), max(math.floor(low[1]), 0)
    x2, y2 = min(math.ceil(high[0]), width), min(math.ceil(high[1]), height)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _fill(out: np.ndarray, region: np.ndarray, grey: int) -> None:
    corners = np.round((region - 0.5) * 2**_SHIFT).astype(np.int32)
    cv2.fillConvexPoly(out, corners, (grey,) * 4, cv2.LINE_8, _SHIFT)
