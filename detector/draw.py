"""Draw detections on an image."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.postprocess import Detections

GOLDEN_RATIO = 0.618033988749895  # successive multiples, modulo 1, stay apart: any number of distinct hues
LINE_SHARE = 0.003  # of the longer side of the image
FONT_SHARE = 0.02
SMALLEST_FONT = 11


def draw_detections(image: np.ndarray, detections: Detections, names: tuple[str, ...]) -> np.ndarray:
    """A copy of the uint8 RGB image `[H, W, 3]` with a labelled box for each detection, the best on top.

    `names` are the class names; boxes are in pixels of the image.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    longer = max(canvas.size)
    line = max(2, round(LINE_SHARE * longer))
    font = ImageFont.load_default(max(SMALLEST_FONT, round(FONT_SHARE * longer)))
    rows = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    for box, score, label in reversed(list(rows)):
        colour = class_colour(label)
        x1, y1, x2, y2 = box
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=line)
        _draw_label(draw, f"{names[label]} {score:.2f}", (x1, y1), font, colour, canvas.size)
    return np.asarray(canvas)


def class_colour(label: int) -> tuple[int, int, int]:
    """A bright colour, the same for a class in every image."""
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN_RATIO % 1.0, 0.8, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """Text on a filled box above `corner`; inside the image where there is no room above or to the right."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = max(2, round(0.15 * (bottom - top)))
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0, min(corner[0], size[0] - width))
    y = corner[1] - height if corner[1] >= height else max(0, corner[1])
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    red, green, blue = colour
    dark = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # the luma of the background decides what stands out
    draw.text((x + pad - left, y + pad - top), text, fill="black" if dark else "white", font=font)
