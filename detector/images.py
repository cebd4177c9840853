"""Image files -> what a network takes, and boxes back to the image.

Pillow decodes, because it refuses a truncated file where other decoders fill in grey; OpenCV resizes, as in training.
Boxes are xyxy in pixels, with (0, 0) the outer corner of the first pixel.

Legend: B batch, H/W height and width, N boxes.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from maenas.errors import MaenasError
from maenas.spec import InputSpec

_log = logging.getLogger(__name__)
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
DEEPEST = 16  # folders below which nobody looks
MOST_MISSING = 0.1  # of a JPEG's pixels, where the end of the file is cut off
DIM = 4095  # largest value of 12 bits
ORIENTATION = 0x0112  # tag of EXIF
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height

# Pillow would try every format it knows on any file; some of them (EPS) start another program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# What Pillow's decoders raise for broken data, besides OSError; found by damaging files of every format.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error, zlib.error)
BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_image(path: str | Path, *, warn: Callable[[str], object] = _log.warning) -> np.ndarray:
    """The pixels of an image file, uint8 RGB `[H, W, 3]`, turned upright by its EXIF orientation.

    Grey becomes RGB, 16 bits keep their upper 8, transparent pixels show white, an animation its first frame. A JPEG
    whose end is cut off is used, and `warn` is told, where at most a tenth of its pixels is lost. It is also told of 16
    bits of which the upper 4 are never used: such a picture is nearly black.

    Raises `MaenasError`, naming the file, for one that is missing, empty, broken, truncated, of more than about 179
    million pixels, or of 32 bits a channel.
    """
    path = Path(path)
    if not path.exists():
        raise MaenasError(f"image {path}: there is no such file")
    if not path.is_file():
        raise MaenasError(f"image {path}: this is not a regular file")
    if path.stat().st_size == 0:
        raise MaenasError(f"image {path}: the file is empty")
    try:
        with Image.open(path, formats=FORMATS) as image:
            return pillow_pixels(image, f"image {path}", warn=warn)
    except MaenasError:
        raise
    except BOMB as error:
        raise MaenasError(f"image {path}: too many pixels to decode safely: {error}") from error
    except MemoryError as error:
        raise MaenasError(f"image {path}: does not fit into memory") from error
    except BROKEN as error:
        image = _cut_off_jpeg(path)
        if image is not None:
            warn(f"image {path}: the end of the file is missing; the rest of the image is used")
            return image
        what = _other_kind(path) or f"the file is damaged or no image: {error}"
        raise MaenasError(f"image {path}: cannot be read, {what}") from error


def _other_kind(path: Path) -> str | None:
    """What a file is that is often met under the name of an image, and what to do about it."""
    with path.open("rb") as file:
        start = file.read(32)
    if start[4:8] == b"ftyp":
        return "it is HEIC or AVIF, or a film; convert it to JPEG or PNG"
    if start.startswith(b"version https://git-lfs"):
        return "it stands for a file of Git LFS; fetch that with git lfs pull"
    return None


def _cut_off_jpeg(path: Path) -> np.ndarray | None:
    """The pixels of a JPEG that lacks only its end; None for any other file, and where too much is lost.

    Its size was read by Pillow before, so that it is not too large.
    """
    data = path.read_bytes()
    if not data.startswith(JPEG_START) or JPEG_END in data[-1024:]:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data + JPEG_END, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    if image is None:
        return None
    lost = (np.abs(image.astype(np.int16) - 128) <= 1).all(axis=2).mean()  # the decoder leaves lost pixels middle grey
    return image if lost <= MOST_MISSING else None


def pillow_pixels(image: Image.Image, where: str, *, warn: Callable[[str], object] = _log.warning) -> np.ndarray:
    """As `read_image`, of an image of Pillow; `where` names it in messages."""
    # As the file has it: loading makes 8 bits of 16 in colour. Of a BMP it would be 16 bits for all three channels.
    is_deep = image.format in ("PNG", "TIFF") and ";16" in str(getattr(image, "tile", [])[:1])
    image.load()
    if image.getexif().get(ORIENTATION, 1) != 1:  # each step that is not needed would copy a large image
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        pixels, largest = np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2), int(values.max())
    elif image.mode in ("I", "F"):
        raise MaenasError(f"{where}: 32 bits a pixel have no agreed range; convert it to 8 or 16 bits")
    else:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
        largest = 256 * int(pixels.max()) + 255 if is_deep else 0
    if 0 < largest <= DIM:
        warn(f"{where}: 16 bits, but no value above {largest}, so it is nearly black; multiply values up to 65535")
    return pixels


def files_below(root: Path, *, deepest: int = DEEPEST) -> Iterator[Path]:
    """Files down to so many folders below `root`, in order of folders and names; links are followed, each folder once.

    Hidden ones, which editors, archives and systems keep for themselves (`.idea/`, `._name.xml`), are left out.
    """
    seen: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        deep = len(Path(folder).relative_to(root).parts) >= deepest
        real = os.path.realpath(folder)
        if real in seen:
            inner[:] = []
            continue
        seen.add(real)
        inner[:] = [] if deep else sorted(name for name in inner if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def images_below(root: Path, *, deepest: int = DEEPEST) -> list[Path]:
    """Those of `files_below` whose endings are of images."""
    return [path for path in files_below(root, deepest=deepest) if path.suffix.lower() in SUFFIXES]


class Placement(NamedTuple):
    """Where an image of `width` x `height` lies in the network's input: x there is `scale_x` times x in the image."""

    width: int
    height: int
    scale_x: float
    scale_y: float

    def to_image(self, boxes: Tensor) -> Tensor:
        """Boxes `[N, 4]` of the network's input -> of the image. They are not clipped."""
        return boxes / boxes.new_tensor([self.scale_x, self.scale_y, self.scale_x, self.scale_y])

    def to_network(self, boxes: Tensor) -> Tensor:
        """Inverse of `to_image`."""
        return boxes * boxes.new_tensor([self.scale_x, self.scale_y, self.scale_x, self.scale_y])


def place(width: int, height: int, size: InputSpec) -> Placement:
    """Where an image of this size lies in the input: see `prepare`."""
    new_width, new_height = size.width, size.height
    if size.resize == "letterbox":
        scale = min(size.width / width, size.height / height)
        new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement(width, height, new_width / width, new_height / height)


def prepare(image: np.ndarray, size: InputSpec) -> tuple[np.ndarray, Placement]:
    """An image, uint8 RGB `[H, W, 3]`, resized bilinearly to `[size.height, size.width, 3]`.

    `stretch` fills the input and changes the aspect ratio, as the published detectors are trained. `letterbox` keeps
    the ratio to the pixel, puts the image into the top left corner and fills the rest with black.
    """
    placement = place(image.shape[1], image.shape[0], size)
    new_width, new_height = round(placement.width * placement.scale_x), round(placement.height * placement.scale_y)
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    if (new_width, new_height) == (size.width, size.height):
        return resized, placement
    canvas = np.zeros((size.height, size.width, 3), np.uint8)
    canvas[:new_height, :new_width] = resized
    return canvas, placement


def stack(images: Sequence[np.ndarray]) -> Tensor:
    """Prepared images `[H, W, 3]` -> uint8 `[B, 3, H, W]` (channels last in memory), still RGB."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def normalise(images: Tensor, size: InputSpec) -> Tensor:
    """uint8 RGB `[B, 3, H, W]` -> float32 in the channel order and value range of the spec."""
    low, high = size.value_range
    if size.channel_order == "bgr":
        images = images.flip(1)
    images = images.float()
    return images if (low, high) == (0.0, 255.0) else images * ((high - low) / 255.0) + low
