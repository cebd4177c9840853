"""Draw boxes with their labels on images, and images side by side on a sheet.

Legend: N boxes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from detector.fonts import Font, letter, lettering
from detector.postprocess import Detections
from maenas.errors import printable_line
from maenas.palette import Colour, class_colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_SHARE: Final = 0.003  # of the longer side of the image
FONT_SHARE: Final = 0.02
SMALLEST_FONT: Final = 11
LONGEST_LABEL: Final = 40  # characters

TILE: Final = 320  # side of an image on a sheet, in pixels
GAP: Final = 12  # between tiles
CAPTION: Final = 20  # height of the text under a tile
CAPTION_FONT: Final = 13
PAGE: Final = (255, 255, 255)
FRAME: Final = (238, 240, 243)  # of a tile where its image does not fill it
INK: Final = (40, 46, 56)


class Tile(NamedTuple):
    """An image, uint8 RGB `[H, W, 3]`, its boxes `[N, 4]` in pixels of it with labels and texts, and what it is."""

    image: np.ndarray
    boxes: np.ndarray
    labels: Sequence[int]
    texts: Sequence[str]
    caption: str


def draw_detections(image: np.ndarray, detections: Detections, names: Sequence[str] | Mapping[int, str]) -> np.ndarray:
    """A copy of the uint8 RGB image `[H, W, 3]` with a labelled box for each detection, the best on top.

    `names` are the class names by label; boxes are in pixels of the image.
    """
    order = list(range(len(detections.scores)))[::-1]  # the first is the best
    labels: list[int] = detections.labels.tolist()
    scores = detections.scores.tolist()
    texts = [f"{short(names[labels[row]])} {scores[row]:.2f}" for row in order]
    boxes = detections.boxes.float().cpu().numpy()[order]
    longer = max(image.shape[:2])
    font = max(SMALLEST_FONT, round(FONT_SHARE * longer))
    line = max(2, round(LINE_SHARE * longer))
    return draw_boxes(image, boxes, [labels[row] for row in order], texts, line=line, font=font)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    texts: Sequence[str],
    *,
    line: int = 2,
    font: int = SMALLEST_FONT + 1,
) -> np.ndarray:
    """A copy of `image` with `boxes` in the colours of their classes, and a text at each.

    `line` is the width of a box's lines and `font` the height of its text, in pixels.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels, strict=True):
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=class_colour(label), width=line)
    for (x1, y1, *_), label, text in zip(boxes.tolist(), labels, texts, strict=True):
        _draw_label(draw, *lettering(text, font), (x1, y1), class_colour(label), canvas.size)
    return np.asarray(canvas)


def short(name: str, longest: int = LONGEST_LABEL) -> str:
    """A name as a label: on one line, and cut where it is long."""
    name = printable_line(name)
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _draw_label(
    draw: ImageDraw.ImageDraw, text: str, font: Font, corner: tuple[float, float], colour: Colour, size: tuple[int, int]
) -> None:
    """Text on a filled box above `corner`; inside the image where there is no room above or to the right."""
    left, _, right, _ = draw.textbbox((0, 0), text, font=font)
    _, top, _, bottom = draw.textbbox((0, 0), "Ág", font=font)  # one height for all labels of an image
    pad = max(2, round(0.15 * (bottom - top)))
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = round(max(0, min(corner[0], size[0] - width)))
    y = round(corner[1] - height if corner[1] >= height else max(0, corner[1]))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + pad - left, y + pad - top), text, fill="white", font=font)


# Sheets -------------------------------------------------------------------------------------------------------------


def sheet(tiles: Sequence[Tile], *, columns: int, side: int = TILE) -> Image.Image:
    """The tiles in an even grid, row by row: each scaled to a longer side of `side` pixels, its caption under it."""
    drawn = [_scaled(tile, side) for tile in tiles]
    columns = max(1, min(columns, len(tiles)))
    cell = max((image.width for image in drawn), default=side), max((image.height for image in drawn), default=side)
    step = cell[0] + GAP, cell[1] + CAPTION + GAP
    page = Image.new("RGB", (columns * step[0] + GAP, max(1, -(-len(tiles) // columns)) * step[1] + GAP), PAGE)
    draw = ImageDraw.Draw(page)
    for number, (tile, image) in enumerate(zip(tiles, drawn, strict=True)):
        row, column = divmod(number, columns)
        x, y = GAP + column * step[0], GAP + row * step[1]
        draw.rectangle((x, y, x + cell[0] - 1, y + cell[1] - 1), fill=FRAME)
        page.paste(image, (x + (cell[0] - image.width) // 2, y + (cell[1] - image.height) // 2))
        text, font = lettering(printable_line(tile.caption), CAPTION_FONT)
        draw.text((x, y + cell[1] + 3), _fitting(draw, text, font, cell[0]), fill=INK, font=font)
    return page


def figure_png(figure: Figure, dpi: int = 120) -> bytes:
    """A figure of matplotlib as PNG, with the letters that names have."""
    letter(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no font has a letter, or names leave no room
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def encoded(image: Image.Image, kind: str) -> bytes:
    """The bytes of a picture file, PNG or JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"quality": 92, "subsampling": 0} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _scaled(tile: Tile, side: int) -> Image.Image:
    """The image as large as the tile allows; boxes and labels are drawn after scaling, and so are sharp."""
    height, width = tile.image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(tile.image, size, interpolation=method)
    texts = [short(text, 24) for text in tile.texts]
    return Image.fromarray(draw_boxes(image, tile.boxes * scale, tile.labels, texts))


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """`text`, cut in the middle where it is wider than `width` pixels: the end of a file's name tells most."""
    if draw.textlength(text, font=font) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        cut = f"{text[: keep - keep // 2]}…{text[-(keep // 2) :]}"
        if draw.textlength(cut, font=font) <= width:
            return cut
    return ""
