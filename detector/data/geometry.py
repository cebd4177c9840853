"""Affine maps of images and boxes.

Two kinds of coordinates: boxes count from the outer corner of the first pixel, warps from its centre. Matrices are
float64 `[3, 3]` and act on columns (x, y, 1). Legend: N boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np

from detector.data.scratch import Scratch

GREY: Final = 114  # of whatever no image covers
_SHIFT: Final = 4  # OpenCV draws polygons with coordinates in 1/16 pixel

Rectangle = tuple[float, float, float, float]  # x1, y1, x2, y2 in box coordinates


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
    shear_x, shear_y = math.tan(math.radians(draw.shear_x)), math.tan(math.radians(draw.shear_y))
    xx, xy, yx, yy = cos - shear_x * sin, sin + shear_x * cos, shear_y * cos - sin, shear_y * sin + cos
    x = draw.translate_x * target - (xx + xy) * source / 2
    y = draw.translate_y * target - (yx + yy) * source / 2
    return np.array([[xx, xy, x], [yx, yy, y], [0, 0, 1]])


def scaling(scale_x: float, scale_y: float, shift_x: float = 0.0, shift_y: float = 0.0) -> np.ndarray:
    """x -> scale_x x + shift_x, and likewise y."""
    return np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y], [0, 0, 1]], np.float64)


def resizing(old: tuple[int, int], new: tuple[int, int], shift_x: float = 0.0, shift_y: float = 0.0) -> np.ndarray:
    """What a resize from (width, height) `old` to `new`, and a shift after it, do to pixel centres."""
    x, y = new[0] / old[0], new[1] / old[1]
    return scaling(x, y, (x - 1) / 2 + shift_x, (y - 1) / 2 + shift_y)


def mirroring(width: int) -> np.ndarray:
    """What a horizontal flip of an image does to pixel centres."""
    return scaling(-1, 1, width - 1)


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The boxes around the four transformed corners of each box, float64 `[N, 4]`."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:2, :2].T + matrix[:2, 2]  # [N, 2]
    halves = (boxes[:, 2:] - boxes[:, :2]) / 2 @ np.abs(matrix[:2, :2].T)  # [N, 2]
    return np.concatenate([middles - halves, middles + halves], axis=1)


def flip_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """Boxes after a horizontal flip of an image of this width."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes cut at the edges of an image."""
    return np.minimum(np.maximum(boxes, 0), (width, height, width, height))


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


def paint(out: np.ndarray, image: np.ndarray, matrix: np.ndarray, visible: Rectangle, scratch: Scratch) -> None:
    """Warps what is `visible` of `image`, uint8 RGB `[h, w, 3]`, into `out`, RGBA `[H, W, 4]`, bilinearly.

    `matrix` maps pixel centres. OpenCV warps four channels in a third of the time of three.
    """
    corners = rectangle(visible, matrix)
    x1, y1, x2, y2 = target = _bounds(corners, out)
    if x1 >= x2 or y1 >= y2:
        return
    inverse = cv2.invertAffineTransform(matrix[:2])
    window = _needed(inverse, visible, target)
    patch = _cut(image, window, scratch)
    if patch is None:
        return
    inverse[:, 2] = inverse @ (x1, y1, 1) - window[:2]
    width, height = x2 - x1, y2 - y1
    warped = scratch.warped.array(height, width, 4)
    cv2.warpAffine(patch, inverse, (width, height), dst=warped, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    mask = scratch.mask.array(height, width)
    mask.fill(0)
    fill(mask, [(x - x1, y - y1) for x, y in corners], 255)
    cv2.copyTo(warped, mask, out[y1:y2, x1:x2])


def fill(out: np.ndarray, corners: Sequence[tuple[float, float]], grey: int) -> None:
    """Fills a convex polygon, corners in box coordinates, with one grey."""
    points = np.rint((np.array(corners) - 0.5) * 2**_SHIFT).astype(np.int32)
    cv2.fillConvexPoly(out, points, (grey,) * 4, cv2.LINE_8, _SHIFT)


def rectangle(edges: Rectangle, matrix: np.ndarray) -> list[tuple[float, float]]:
    """The four corners, in box coordinates, of a rectangle mapped by a matrix of pixel centres."""
    (xx, xy, x0), (yx, yy, y0) = matrix[:2].tolist()
    x1, y1, x2, y2 = edges
    x0, y0 = x0 + 0.5 - (xx + xy) / 2, y0 + 0.5 - (yx + yy) / 2
    return [(xx * x + xy * y + x0, yx * x + yy * y + y0) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]


def _bounds(corners: Sequence[tuple[float, float]], out: np.ndarray) -> tuple[int, int, int, int]:
    """The pixels x1, y1, x2, y2 of `out` that a polygon touches; empty where it touches none."""
    height, width = out.shape[:2]
    xs, ys = zip(*corners, strict=True)
    return (
        max(math.floor(min(xs)), 0),
        max(math.floor(min(ys)), 0),
        min(math.ceil(max(xs)), width),
        min(math.ceil(max(ys)), height),
    )


def _needed(inverse: np.ndarray, visible: Rectangle, target: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The pixels x1, y1, x2, y2 that what is visible in `target` is made of; some may lie outside the image."""
    (xx, xy, x0), (yx, yy, y0) = inverse.tolist()
    left, right = _span(xx, xy, x0, target, visible[0], visible[2])
    top, bottom = _span(yx, yy, y0, target, visible[1], visible[3])
    return left, top, right, bottom


def _span(
    a: float, b: float, shift: float, target: tuple[int, int, int, int], first: float, last: float
) -> tuple[int, int]:
    """Where the pixels that a x + b y + shift lies between begin and end, for x and y in `target`."""
    x1, y1, x2, y2 = target
    middle = (a * (x1 + x2 - 1) + b * (y1 + y2 - 1)) / 2 + shift
    half = (abs(a) * (x2 - x1 - 1) + abs(b) * (y2 - y1 - 1)) / 2
    over = abs(a) + abs(b) - 0.5  # polygons are drawn up to a pixel of the target too large
    return math.floor(max(middle - half, first - over - 1)), math.floor(min(middle + half, last + over)) + 2


def _cut(image: np.ndarray, window: tuple[int, int, int, int], scratch: Scratch) -> np.ndarray | None:
    """A copy of the pixels x1, y1, x2, y2, RGBA, with those of the edge repeated beyond it; None if all are beyond it.

    Copying reads memory in order: a warp of an image that is not in the processor's cache takes 2.5 times as long.
    """
    x1, y1, x2, y2 = window
    left, top = max(-x1, 0), max(-y1, 0)
    inner = image[y1 + top : max(y2, 0), x1 + left : max(x2, 0)]
    height, width = inner.shape[:2]
    if height == 0 or width == 0:
        return None
    patch = scratch.patch.array(y2 - y1, x2 - x1, 4)
    cv2.cvtColor(inner, cv2.COLOR_RGB2RGBA, dst=patch[top : top + height, left : left + width])
    patch[:top] = patch[top]
    patch[top + height :] = patch[top + height - 1]
    patch[:, :left] = patch[:, left : left + 1]
    patch[:, left + width :] = patch[:, left + width - 1 : left + width]
    return patch
