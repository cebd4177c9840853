"""Scale-aware augmentation of single objects (SADA): colour and geometry are changed around boxes, under Gaussians.

Source: SA-AutoAug (Chen et al., CVPR 2021), with the searched policy of the released DAMO-YOLO configurations. Pixels
stay uint8, so that results lie within one grey level of the published float ones.

Legend: H/W size of the image, N boxes, K selected boxes.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np

from detector.data.geometry import box_areas, clip_boxes, paint, scaling
from detector.data.scratch import Scratch

Colour = Literal["color", "brightness", "sharpness", "solarize_add"]
Geometry = Literal["hflip", "rotate", "shear_x", "translate_x", "translate_y"]


class SubPolicy(NamedTuple):
    """A colour operation and a geometric one, each with its probability for an image and its level 0..10."""

    colour: Colour
    colour_prob: float
    colour_level: int
    geometry: Geometry
    geometry_prob: float
    geometry_level: int


POLICY: Final = (
    SubPolicy("color", 0.4, 2, "translate_x", 0.4, 4),
    SubPolicy("brightness", 0.2, 4, "rotate", 0.4, 2),
    SubPolicy("sharpness", 0.4, 2, "shear_x", 0.2, 6),
    SubPolicy("solarize_add", 0.2, 2, "hflip", 0.5, 1),
    SubPolicy("color", 0.0, 8, "translate_y", 0.2, 8),
)
SPLITS: Final = (2048.0, 10240.0, 51200.0)  # areas that part small, middle and large boxes, at a shorter side of 800
COLOUR_WEIGHTS: Final = (7 / 13, 5 / 13, 1 / 13)  # share of the box probability of small, middle and large boxes
GEOMETRY_WEIGHTS: Final = (1 / 3, 1 / 3, 1 / 3)
COLOUR_SPREAD: Final = (6.0, 2.0, 0.4)  # area of the Gaussian in areas of a box at the middle of its class
_FILL: Final = (102, 115, 122, 255)
_REACH: Final = 4.0  # standard deviations beyond which a Gaussian changes no grey level


def augment_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    scratch: Scratch,
    *,
    box_prob: float,
    strength: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Changes `image`, uint8 `[H, W, 3]`, in place; returns the boxes `[N, 4]` and labels `[N]` that it then has.

    `strength` in 0..1 multiplies the probability of every operation; published is the part of the training that is
    over. Copied objects add boxes, which are clipped to the image (published: not).
    """
    policy = POLICY[rng.integers(len(POLICY))]
    colour, geometry = rng.random(2) < np.array([policy.colour_prob, policy.geometry_prob]) * strength
    splits = scaled_splits(*image.shape[:2])
    if colour:
        chosen = rng.random(len(boxes)) < box_prob * class_weights(boxes, splits, COLOUR_WEIGHTS)
        change_colour(image, boxes[chosen], splits, policy.colour, policy.colour_level)
    if geometry:
        chosen = rng.random(len(boxes)) < box_prob * class_weights(boxes, splits, GEOMETRY_WEIGHTS)
        sign = 1 if rng.random() < 0.5 else -1
        rows = np.flatnonzero(chosen)
        copies, sources = change_geometry(image, boxes[rows], policy.geometry, sign * policy.geometry_level, scratch)
        copies = clip_boxes(copies, image.shape[1], image.shape[0])
        seen = (copies[:, 2:] - copies[:, :2] >= 1).all(axis=1)
        boxes = np.concatenate([boxes, copies[seen]])
        labels = np.concatenate([labels, labels[rows[sources[seen]]]])
    return boxes, labels


def scaled_splits(height: int, width: int) -> tuple[float, float, float]:
    """The area limits for an image of this size (they scale with the side, not the area: as published)."""
    small, middle, large = (split * min(height, width) / 800 for split in SPLITS)
    return small, middle, large


def class_weights(
    boxes: np.ndarray, splits: tuple[float, float, float], weights: tuple[float, float, float]
) -> np.ndarray:
    """The weight of each box's size class `[N]`, 0 for boxes without area."""
    areas = box_areas(boxes)
    return np.array(weights)[np.searchsorted(splits[:2], areas, side="right")] * (areas > 0)


# Gaussian maps ------------------------------------------------------------------------------------------------------


def colour_spread(area: float, splits: tuple[float, float, float]) -> float:
    """How far the colour change of a box reaches, in areas of it: the smaller its box in its class, the farther."""
    small, middle, large = COLOUR_SPREAD
    if area < splits[0]:
        return small * splits[0] / area
    if area < splits[1]:
        return middle * (splits[0] + splits[1]) / 2 / area
    return large * max(splits[2] / area, 1.0)


def gaussian_map(boxes: np.ndarray, height: int, width: int, spreads: list[float]) -> tuple[np.ndarray, slice, slice]:
    """The sum of the boxes' Gaussians, at most 1, float32, and the rows and columns of the image that it covers.

    The integral of each over the plane is its entry of `spreads` times the area of the box.
    """
    sides = boxes[:, 2:] - boxes[:, :2]  # [K, 2]
    middles = boxes[:, :2] + sides // 2
    sigmas = sides * np.sqrt(np.array(spreads) / (2 * math.pi) * height * width)[:, None] / (width, height)
    reach = _REACH * sigmas
    left, top = np.floor((middles - reach).min(axis=0)).clip(0, (width, height)).astype(int).tolist()
    right, bottom = np.ceil((middles + reach).max(axis=0) + 1).clip((left, top), (width, height)).astype(int).tolist()
    columns = _profile(left, right, middles[:, :1], sigmas[:, :1])
    rows = _profile(top, bottom, middles[:, 1:], sigmas[:, 1:])
    total = np.einsum("ky,kx->yx", rows, columns)
    return np.minimum(total, 1, out=total), slice(top, bottom), slice(left, right)


def _profile(low: int, high: int, middle: float | np.ndarray, sigma: float | np.ndarray) -> np.ndarray:
    """A Gaussian at low..high - 1, float32 `[high - low]`; middles and deviations `[K, 1]` give `[K, high - low]`."""
    distance = (np.arange(low, high) - middle) / sigma
    return np.exp(-(distance**2) / 2).astype(np.float32)


def _blend(image: np.ndarray, changed: np.ndarray, weights: np.ndarray) -> None:
    """image <- weights * changed + (1 - weights) * image, in place."""
    if image.size:
        cv2.blendLinear(changed, image, weights, 1 - weights, dst=image)


# Colour -------------------------------------------------------------------------------------------------------------


def change_colour(
    image: np.ndarray, boxes: np.ndarray, splits: tuple[float, float, float], operation: Colour, level: int
) -> None:
    """Applies a colour operation around the boxes `[K, 4]`, in place."""
    if len(boxes) == 0:
        return
    spreads = [colour_spread(area, splits) for area in box_areas(boxes).tolist()]
    height, width = image.shape[:2]
    weights, rows, columns = gaussian_map(boxes, height, width, spreads)
    if weights.size == 0:
        return
    # One pixel more on every side, for the neighbours that sharpening looks at.
    y, x = max(rows.start - 1, 0), max(columns.start - 1, 0)
    around = recolour(image[y : rows.stop + 1, x : columns.stop + 1], operation, level)
    inner = around[rows.start - y :, columns.start - x :][: weights.shape[0], : weights.shape[1]]
    _blend(image[rows, columns], inner, weights)


def recolour(image: np.ndarray, operation: Colour, level: int) -> np.ndarray:
    """The whole image `[h, w, 3]` after a colour operation, uint8."""
    factor = 0.18 * level + 0.1
    match operation:
        case "color":  # towards grey, or away from it
            grey = np.tile([0.2989, 0.587, 0.114], (3, 1))
            return cv2.transform(image, (1 - factor) * grey + factor * np.eye(3))
        case "brightness":
            return cv2.convertScaleAbs(image, alpha=factor)
        case "sharpness":  # towards a blur, or away from it
            kernel = np.full((3, 3), (1 - factor) / 13)
            kernel[1, 1] = (1 - factor) * 5 / 13 + factor
            return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        case "solarize_add":
            values = np.arange(256)
            raised = np.where(values <= 127, values + level / 10 * 0.4296875 * 255, values)
            return cv2.LUT(image, np.clip(np.rint(raised), 0, 255).astype(np.uint8))


# Geometry -----------------------------------------------------------------------------------------------------------


def change_geometry(
    image: np.ndarray, boxes: np.ndarray, operation: Geometry, level: int, scratch: Scratch
) -> tuple[np.ndarray, np.ndarray]:
    """Turns, shears, flips or copies what is in the boxes `[K, 4]`, in place, one after the other.

    A negative level goes the other way. Returns the boxes of the copies `[M, 4]`, which may leave the image, and
    the rows of `boxes` that they are copies of, int64 `[M]`.
    """
    copies: list[np.ndarray] = []
    sources: list[int] = []
    for row, box in enumerate(boxes):
        if operation in ("translate_x", "translate_y"):
            shift = np.array([12.0 * level, 0.0] if operation == "translate_x" else [0.0, 12.0 * level])
            copy = _copy(image, box, shift)
            if copy is not None:
                copies.append(copy)
                sources.append(row)
        else:
            _change_in_place(image, box, operation, level, scratch)
    return np.array(copies, np.float64).reshape(-1, 4), np.array(sources, np.int64)


def _change_in_place(image: np.ndarray, box: np.ndarray, operation: Geometry, level: int, scratch: Scratch) -> None:
    height, width = image.shape[:2]
    x1, y1, x2, y2 = clip_boxes(box[None], width, height)[0].astype(int).tolist()
    crop = image[y1:y2, x1:x2]
    if crop.size == 0:
        return
    changed = cv2.flip(crop, 1) if operation == "hflip" else _warped(crop, operation, level, scratch)
    _paste(image, changed, x1, y1)


def _warped(crop: np.ndarray, operation: Geometry, level: int, scratch: Scratch) -> np.ndarray:
    """A crop turned or sheared about its middle."""
    height, width = crop.shape[:2]
    angle = math.radians((3.0 if operation == "rotate" else 1.5) * level)
    matrix = np.eye(3)
    if operation == "rotate":
        matrix[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    else:
        matrix[0, 1] = -math.tan(angle)
    matrix = (
        scaling(1, 1, (width - 1) / 2, (height - 1) / 2) @ matrix @ scaling(1, 1, (1 - width) / 2, (1 - height) / 2)
    )
    out = np.empty((height, width, 4), np.uint8)
    out[:] = _FILL
    paint(out, crop, matrix, (0, 0, width, height), scratch)
    return cv2.cvtColor(out, cv2.COLOR_RGBA2RGB)


def _copy(image: np.ndarray, box: np.ndarray, shift: np.ndarray) -> np.ndarray | None:
    """Pastes the content of a box at its shifted place, cut at the edges; returns the shifted box, None if unmoved."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = clip_boxes(box[None], width, height)[0].astype(int).tolist()
    crop = image[y1:y2, x1:x2].copy()
    moved = clip_boxes((box + np.tile(shift, 2))[None], width, height)[0]
    offset = moved[2:] - box[2:]
    if crop.size == 0 or not offset.any():
        return None
    left, top, right, bottom = moved.astype(int).tolist()
    _paste(image, crop[: bottom - top, : right - left], left, top)
    return box + np.tile(offset, 2)


def _paste(image: np.ndarray, part: np.ndarray, x: int, y: int) -> None:
    """Blends `part` into the image at (x, y) with a round Gaussian whose integral is the area of `part`."""
    height, width = part.shape[:2]
    if part.size == 0:
        return
    sigma = math.sqrt(height * width / (2 * math.pi))
    rows, columns = _profile(0, height, height // 2, sigma), _profile(0, width, width // 2, sigma)
    _blend(image[y : y + height, x : x + width], part, np.outer(rows, columns))
