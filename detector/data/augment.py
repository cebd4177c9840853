"""One training image, from the samples it is made of to pixels and boxes at the training size.

Order: mosaic with affine, mixup, filter, resize, flip (all in one warp an image), box-level augmentation, as published;
then colour, which the published recipes lack.
Legend: S side of the mosaic, H/W training size, N boxes.
"""

from __future__ import annotations

import cv2
import numpy as np

from detector.data.box_augment import augment_boxes
from detector.data.geometry import (
    GREY,
    affine_matrix,
    flip_boxes,
    mirroring,
    paint,
    resizing,
    still_objects,
    transform_boxes,
)
from detector.data.mosaic import (
    Labels,
    Picture,
    draw_mixup,
    draw_mosaic,
    mixup_labels,
    mosaic_labels,
    paint_mixup,
    paint_mosaic,
    place_tile,
)
from detector.data.pictures import Pictures
from detector.data.scratch import Scratch
from detector.data.settings import AugmentSettings
from detector.images import place, prepare
from maenas.spec import InputSpec


def mosaic_sample(
    index: int,
    pictures: Pictures,
    settings: AugmentSettings,
    rng: np.random.Generator,
    out: np.ndarray,
    scratch: Scratch,
) -> Labels:
    """Paints the mosaic that image `index` starts into `out`, uint8 `[H, W, 3]`; returns its boxes there."""
    side = max(settings.mosaic_size, *out.shape[:2])
    draw = draw_mosaic(
        rng,
        side,
        degrees=settings.degrees,
        scale=settings.mosaic_scale,
        shear=settings.shear,
        translate=settings.translate,
    )
    four = [pictures[i] for i in (index, *rng.integers(0, len(pictures), 3).tolist())]
    tiles = [
        place_tile(number, picture.image.shape, draw, side, keep_ratio=settings.keep_ratio)
        for number, picture in enumerate(four)
    ]
    labels = mosaic_labels(four, tiles, draw, side)
    mix = len(labels.labels) > 0 and rng.random() < settings.mixup_prob
    flip = rng.random() < settings.flip_prob
    height, width = out.shape[:2]
    to_out = resizing((side, side), (width, height))
    if flip:
        to_out = mirroring(width) @ to_out
    canvas = scratch.canvas.array(height, width, 4)
    paint_mosaic(canvas, four, tiles, draw, side, to_out, scratch)
    if mix:
        second = draw_mixup(rng, side, scale=settings.mixup_scale)
        picture = pictures[int(rng.choice(pictures.with_boxes))]
        labels = mixup_labels(labels, picture, second, side)
        paint_mixup(canvas, picture, second, side, to_out, scratch)
    cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB, dst=out)
    boxes = labels.boxes * np.array([width / side, height / side] * 2)
    return Labels(flip_boxes(boxes, width) if flip else boxes, labels.labels)


def plain_sample(
    index: int,
    pictures: Pictures,
    settings: AugmentSettings,
    rng: np.random.Generator,
    out: np.ndarray,
    scratch: Scratch,
    *,
    resize: InputSpec,
) -> Labels:
    """The image alone, resized as for the network and flipped at random, in `out`; returns its boxes there.

    With `single_prob` it is moved by an affine before.
    """
    image, boxes, labels = pictures[index]
    if settings.single_prob and rng.random() < settings.single_prob:
        return _moved_sample(Picture(image, boxes, labels), settings, rng, out, scratch, resize=resize)
    pixels, placement = prepare(image, resize)
    boxes = boxes * np.array([placement.scale_x, placement.scale_y] * 2)
    if rng.random() < settings.flip_prob:
        cv2.flip(pixels, 1, dst=out)
        return Labels(flip_boxes(boxes, out.shape[1]), labels)
    out[:] = pixels
    return Labels(boxes, labels)


def _moved_sample(
    picture: Picture,
    settings: AugmentSettings,
    rng: np.random.Generator,
    out: np.ndarray,
    scratch: Scratch,
    *,
    resize: InputSpec,
) -> Labels:
    """`picture` placed as for the network, then moved by an affine of the square that the input is stretched to."""
    side, (height, width) = max(settings.mosaic_size, *out.shape[:2]), out.shape[:2]
    affine = draw_mosaic(
        rng,
        side,
        degrees=settings.degrees,
        scale=settings.single_scale,
        shear=settings.shear,
        translate=settings.translate,
    ).affine
    rows, columns = picture.image.shape[:2]
    fitted = place(columns, rows, resize)
    before = picture.boxes * np.array([fitted.scale_x * side / width, fitted.scale_y * side / height] * 2)
    moved = affine_matrix(affine, side, side)
    after = transform_boxes(before, moved).clip(0, side)
    kept = still_objects(before * affine.scale, after)
    to_out = resizing((side, side), (width, height))
    flip = rng.random() < settings.flip_prob
    if flip:
        to_out = mirroring(width) @ to_out
    new = round(columns * fitted.scale_x), round(rows * fitted.scale_y)
    matrix = to_out @ moved @ resizing((width, height), (side, side)) @ resizing((columns, rows), new)
    canvas = scratch.canvas.array(height, width, 4)
    canvas[:] = GREY
    paint(canvas, picture.image, matrix, (0, 0, columns, rows), scratch)
    cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB, dst=out)
    boxes = after[kept] * np.array([width / side, height / side] * 2)
    return Labels(flip_boxes(boxes, width) if flip else boxes, picture.labels[kept])


def shift_colours(image: np.ndarray, settings: AugmentSettings, rng: np.random.Generator) -> None:
    """Shifts the hue and scales saturation and brightness of an image, uint8 RGB, in place."""
    hue, saturation, brightness = rng.uniform(-1, 1, 3) * (settings.hue, settings.saturation, settings.brightness)
    levels = np.arange(256)
    table = np.stack(
        [
            (levels + round(180 * hue)) % 180,  # OpenCV counts hue in units of 2 degrees
            np.minimum(levels * (1 + saturation), 255),
            np.minimum(levels * (1 + brightness), 255),
        ],
        axis=1,
    ).astype(np.uint8)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=image)


def training_sample(
    index: int,
    pictures: Pictures,
    settings: AugmentSettings,
    rng: np.random.Generator,
    out: np.ndarray,
    scratch: Scratch,
    *,
    mosaic_prob: float,
    strength: float,
    resize: InputSpec,
) -> Labels:
    """One training image in `out`, uint8 `[H, W, 3]` with H and W those of `resize`; returns its boxes there.

    `mosaic_prob` is 0 in the last epochs; `strength` is the part of the training that is over.
    """
    if rng.random() < mosaic_prob:
        labels = mosaic_sample(index, pictures, settings, rng, out, scratch)
    else:
        labels = plain_sample(index, pictures, settings, rng, out, scratch, resize=resize)
    if settings.box_prob > 0:
        labels = Labels(*augment_boxes(out, *labels, rng, scratch, box_prob=settings.box_prob, strength=strength))
    if settings.hue or settings.saturation or settings.brightness:
        shift_colours(out, settings, rng)
    return labels
