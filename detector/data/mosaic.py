"""Mosaic of four images with a random affine, and mixup with a fifth, warped straight into the training image.

The published pipeline resizes each image, pastes four of them on a canvas of twice the side, warps that, blends,
resizes and flips. Here these maps are multiplied, and every image is warped once. Boxes are the same; pixels differ by
the smoothing of the steps that are saved.

`side` is that of the mosaic; boxes are filtered at this size. Legend: S side, H/W size of the training image, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from detector.data.geometry import (
    GREY,
    Affine,
    Rectangle,
    affine_matrix,
    box_areas,
    clip_boxes,
    fill,
    flip_boxes,
    mirroring,
    paint,
    rectangle,
    resizing,
    scaling,
    still_objects,
    transform_boxes,
)
from detector.data.scratch import Scratch


class Picture(NamedTuple):
    """A decoded image with its boxes."""

    image: np.ndarray  # uint8 [h, w, 3], RGB; read-only
    boxes: np.ndarray  # float32 [N, 4], xyxy in its pixels
    labels: np.ndarray  # int64 [N]


class Labels(NamedTuple):
    """Boxes and classes of one training image, row by row."""

    boxes: np.ndarray  # float [N, 4], xyxy
    labels: np.ndarray  # int64 [N]


class Mosaic(NamedTuple):
    """What is drawn for a mosaic: where the four images meet, in pixels of the canvas of side 2 S, and the affine."""

    center_x: int
    center_y: int
    affine: Affine


class Mixup(NamedTuple):
    """What is drawn for a mixup: zoom of the second image, whether it is flipped, which part of it is cut out."""

    zoom: float
    flip: bool
    offset_x: int
    offset_y: int


class Tile(NamedTuple):
    """An image in the mosaic: size after resizing, zoom of its boxes, place of its corner, what of it is visible."""

    width: int
    height: int
    scale_x: float
    scale_y: float
    x: int
    y: int
    visible: tuple[int, int, int, int]  # x1, y1, x2, y2 on the canvas

    def visible_part(self, shape: tuple[int, ...]) -> Rectangle:
        """What is visible in pixels of the image of this shape."""
        x, y = shape[1] / self.width, shape[0] / self.height
        x1, y1, x2, y2 = self.visible
        return (x1 - self.x) * x, (y1 - self.y) * y, (x2 - self.x) * x, (y2 - self.y) * y


def place_tile(number: int, shape: tuple[int, ...], draw: Mosaic, side: int, *, keep_ratio: bool) -> Tile:
    """Where image `number` (0 top left, 1 top right, 2 bottom left, 3 bottom right) of this shape lies."""
    height, width = shape[:2]
    scale_x, scale_y = side / width, side / height
    if keep_ratio:
        scale_x = scale_y = min(scale_x, scale_y)
    # Truncated as published: a few sizes give side - 1.
    w, h = max(1, int(width * scale_x)), max(1, int(height * scale_y))
    x = draw.center_x - w if number % 2 == 0 else draw.center_x
    y = draw.center_y - h if number < 2 else draw.center_y
    visible = (max(x, 0), max(y, 0), min(x + w, 2 * side), min(y + h, 2 * side))
    return Tile(w, h, scale_x, scale_y, x, y, visible)


def mosaic_labels(pictures: Sequence[Picture], tiles: Sequence[Tile], draw: Mosaic, side: int) -> Labels:
    """Boxes of the mosaic after the affine, in `[0, S]`, without those of which too little is left.

    A box is that around its four transformed corners. (The published code takes the outlines of the shapes where every
    object of the mosaic has one.)
    """
    placed = [
        picture.boxes * np.array([tile.scale_x, tile.scale_y] * 2) + [tile.x, tile.y, tile.x, tile.y]
        for picture, tile in zip(pictures, tiles, strict=True)
    ]
    before = np.concatenate(placed).clip(0, 2 * side)
    after = transform_boxes(before, affine_matrix(draw.affine, 2 * side, side)).clip(0, side)
    kept = still_objects(before * draw.affine.scale, after)
    return Labels(after[kept], np.concatenate([picture.labels for picture in pictures])[kept])


def paint_mosaic(
    out: np.ndarray,
    pictures: Sequence[Picture],
    tiles: Sequence[Tile],
    draw: Mosaic,
    side: int,
    to_out: np.ndarray,
    scratch: Scratch,
) -> None:
    """Warps the four images into `out`, uint8 `[H, W, 4]`; `to_out` maps pixel centres of the S x S mosaic to it."""
    out[:] = GREY
    canvas = to_out @ affine_matrix(draw.affine, 2 * side, side)
    for (image, _, _), tile in zip(pictures, tiles, strict=True):
        height, width = image.shape[:2]
        matrix = canvas @ resizing((width, height), (tile.width, tile.height), tile.x, tile.y)
        paint(out, image, matrix, tile.visible_part(image.shape), scratch)


def mixup_labels(first: Labels, picture: Picture, draw: Mixup, side: int) -> Labels:
    """`first` and the boxes of the second image, in `[0, S]`, without those of at most 4 square pixels."""
    height, width = picture.image.shape[:2]
    zoomed = int(side * draw.zoom)
    boxes = clip_boxes(picture.boxes * (min(side / height, side / width) * draw.zoom), zoomed, zoomed)
    if draw.flip:
        boxes = flip_boxes(boxes, zoomed)
    boxes = clip_boxes(boxes - np.array([draw.offset_x, draw.offset_y] * 2), side, side)
    kept = box_areas(boxes) > 4  # those of `first` are larger: see `still_objects`
    return Labels(np.concatenate([first.boxes, boxes[kept]]), np.concatenate([first.labels, picture.labels[kept]]))


def paint_mixup(
    out: np.ndarray, picture: Picture, draw: Mixup, side: int, to_out: np.ndarray, scratch: Scratch
) -> None:
    """Blends the second image half and half into `out`; it is padded with grey to a square, and that with black."""
    height, width = picture.image.shape[:2]
    zoomed = int(side * draw.zoom)
    scale = min(side / height, side / width)
    fitted = max(1, int(width * scale)), max(1, int(height * scale))
    square = to_out @ scaling(1, 1, -draw.offset_x, -draw.offset_y)
    if draw.flip:
        square = square @ mirroring(zoomed)
    second = scratch.second.array(*out.shape)
    second[:] = 0
    fill(second, rectangle((0, 0, zoomed, zoomed), square), GREY)
    matrix = square @ resizing((side, side), (zoomed, zoomed)) @ resizing((width, height), fitted)
    paint(second, picture.image, matrix, (0, 0, width, height), scratch)
    cv2.addWeighted(out, 0.5, second, 0.5, -0.25, dst=out)  # -0.25 turns rounding into truncation, as published


def draw_mosaic(
    rng: np.random.Generator, side: int, *, degrees: float, scale: tuple[float, float], shear: float, translate: float
) -> Mosaic:
    """Draws a mosaic: the centre within the middle half of the canvas, the affine within the given limits."""
    x, y, angle, shear_x, shear_y, place_x, place_y, zoom = rng.random(8).tolist()
    affine = Affine(
        angle=degrees * (2 * angle - 1),
        scale=scale[0] + (scale[1] - scale[0]) * zoom,
        shear_x=shear * (2 * shear_x - 1),
        shear_y=shear * (2 * shear_y - 1),
        translate_x=0.5 + translate * (2 * place_x - 1),
        translate_y=0.5 + translate * (2 * place_y - 1),
    )
    return Mosaic(int(side * (0.5 + x)), int(side * (0.5 + y)), affine)


def draw_mixup(rng: np.random.Generator, side: int, *, scale: tuple[float, float]) -> Mixup:
    """Draws a mixup: the zoom within `scale`, a flip in half the cases, and the cut where the zoom is over 1."""
    zoom = rng.uniform(*scale)
    spare = max(int(side * zoom) - side, 1)
    x, y = rng.integers(0, spare, 2)
    return Mixup(zoom, bool(rng.random() < 0.5), int(x), int(y))
