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
_WARPED_AT_ONCE: Final = 16  # pixels of a row; a rest of a few takes OpenCV as long as a hundred

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
    low, high, half = boxes[:, :2], boxes[:, 2:], matrix[:2, :2].T / 2
    middles = (low + high) @ half + matrix[:2, 2]  # [N, 2]
    halves = (high - low) @ np.abs(half)  # [N, 2]
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
    widths, heights = (after[:, 2:] - after[:, :2]).T
    low, high = np.minimum(widths, heights), np.maximum(widths, heights)
    return (low > 2) & (low * high > 0.1 * box_areas(before)) & (high < 20 * low)


def paint(out: np.ndarray, image: np.ndarray, matrix: np.ndarray, visible: Rectangle, scratch: Scratch) -> None:
    """Warps what is `visible` of `image`, uint8 RGB `[h, w, 3]`, into `out`, RGBA `[H, W, 4]`, bilinearly.

    `matrix` maps pixel centres. OpenCV warps four channels in half the time of three.
    """
    corners = rectangle(visible, matrix)
    x1, y1, x2, y2 = _bounds(corners, out)
    if x1 >= x2 or y1 >= y2:
        return
    height, width = y2 - y1, x2 - x1
    columns = math.ceil(width / _WARPED_AT_ONCE) * _WARPED_AT_ONCE
    (xx, xy, x0), (yx, yy, y0) = inverse = cv2.invertAffineTransform(matrix[:2]).tolist()
    left, top, *_ = window = _needed(inverse, visible, (x1, y1, x1 + columns, y2))
    patch = _cut(image, window, scratch)
    if patch is None:
        return
    to_patch = np.array([[xx, xy, xx * x1 + xy * y1 + x0 - left], [yx, yy, yx * x1 + yy * y1 + y0 - top]])
    warped = scratch.warped.array(height, columns, 4)
    cv2.warpAffine(patch, to_patch, (columns, height), dst=warped, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    mask = scratch.mask.array(height, width)
    mask.fill(0)
    fill(mask, [(x - x1, y - y1) for x, y in corners], 255)
    cv2.copyTo(warped[:, :width], mask, out[y1:y2, x1:x2])


def fill(out: np.ndarray, corners: Sequence[tuple[float, float]], grey: int) -> None:
    """Fills a convex polygon, corners in box coordinates, with one grey."""
    points = [(round((x - 0.5) * 2**_SHIFT), round((y - 0.5) * 2**_SHIFT)) for x, y in corners]
    cv2.fillConvexPoly(out, np.array(points, np.int32), (grey,) * 4, cv2.LINE_8, _SHIFT)


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


def _needed(
    inverse: list[list[float]], visible: Rectangle, target: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """The pixels x1, y1, x2, y2 that what is visible in `target` is made of; some may lie outside the image."""
    (xx, xy, x0), (yx, yy, y0) = inverse
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
    middle = patch[top : top + height, left : left + width]
    cv2.cvtColor(inner, cv2.COLOR_RGB2RGBA, dst=middle)
    bottom, right = y2 - y1 - top - height, x2 - x1 - left - width
    # Around pixels that already lie in the middle of the result only the border is written.
    cv2.copyMakeBorder(middle, top, bottom, left, right, cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED, dst=patch)
    return patch
