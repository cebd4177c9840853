"""Decoded images of a data set, kept in memory that all worker processes share.

Images much larger than the training's are shrunk to 1/2, 1/4 or 1/8 as they are decoded: a JPEG of 12 megapixels then
takes half the time, and a 16th of the memory.
"""

from __future__ import annotations

import io
import logging
import mmap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import cv2
import numpy as np
from PIL import Image

from detector.data.flat import flat
from detector.data.mosaic import Picture
from detector.data.sample import Sample
from detector.images import BOMB, BROKEN, JPEG_END, JPEG_START, read_image
from maenas.errors import MaenasError

_log = logging.getLogger(__name__)
SHRINKS: Final = (2, 4, 8)
_REDUCED: Final = {  # OpenCV has these flags for BGR and grey only; the bit of a size is the same
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
DETAIL: Final = 2  # pixels of a shrunk image for one of the training's: the published mosaic zooms in up to twice
_MOST_REPLACEMENTS: Final = 20  # broken images in a row before the data set as a whole is taken for broken


class Reports:
    """Warnings about the images of a data set, one for each file, whichever process comes upon it first.

    Processes forked later share what was told; a process that is spawned starts anew.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._first = flat(samples).first_of_path()
        self._told = np.frombuffer(mmap.mmap(-1, max(len(samples), 1)), np.uint8)  # shared with forked processes

    def __reduce__(self) -> tuple[object, ...]:
        return Reports, (self._samples,)

    def warn(self, index: int, text: str) -> None:
        """Logs a warning about the image of a sample, unless there was one."""
        if not self._told[self._first[index]]:
            self._told[self._first[index]] = 1
            _log.warning("%s", text)


class Pictures:
    """Images and boxes of the samples by index; the first images stay decoded once read, as many as `cache` holds.

    Images are shrunk by `shrinking(sizes, size)`; without `size`, the width and height of the largest training images,
    they have all their pixels. `cache` is memory of zeros. Processes forked later share it, and so does whoever gets
    the same memory with the same samples: what one decodes, all have. A process that is spawned has its own.
    """

    def __init__(
        self, samples: Sequence[Sample], *, size: tuple[int, int] | None = None, cache: mmap.mmap | None = None
    ) -> None:
        self._samples, self._size = samples, size
        memory = mmap.mmap(-1, 1) if cache is None else cache
        self._cache_bytes = len(memory)
        self._reports = Reports(samples)
        columns = flat(samples)
        self._shrinks = shrinking(columns.sizes, size)
        sizes = (-(-columns.sizes // self._shrinks[:, None])).prod(axis=1) * 3  # rounded up
        ends = np.cumsum(sizes) + len(samples)  # behind a mark for each image
        self.cached = int(np.searchsorted(ends, len(memory), side="right"))  # images that stay decoded
        self._starts = ends - sizes
        self._pixels = np.frombuffer(memory, np.uint8)
        self._filled = self._pixels[: self.cached]
        self.with_boxes = np.flatnonzero(columns.counts > 0)

    def __reduce__(self) -> tuple[object, ...]:
        return _make, (self._samples, self._size, self._cache_bytes)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Picture:
        """The image and its boxes; where the file is broken those of the next one that is not, with a warning, once.

        Raises MaenasError if many files in a row are broken.
        """
        tries = min(_MOST_REPLACEMENTS, len(self))
        for attempt in range(tries):
            number = (index + attempt) % len(self)
            sample = self._samples[number]
            try:
                image = self._image(number)
            except MaenasError as error:
                self._reports.warn(number, f"left out: {error}")
                continue
            if self._shrinks[number] == 1:
                return Picture(image, sample.boxes, sample.labels)
            return Picture(image, sample.boxes / self._shrinks[number].astype(np.float32), sample.labels)
        first = self._samples[index].path
        raise MaenasError(f"{tries} images in a row cannot be read, from {first} on; see the warnings")

    def _image(self, index: int) -> np.ndarray:
        warn = partial(self._reports.warn, index)
        sample, start, shrink = self._samples[index], self._starts[index], int(self._shrinks[index])
        if index >= self.cached:
            return load_image(sample, shrink=shrink, warn=warn)
        height, width = _shrunk(sample, shrink)
        image = self._pixels[start : start + width * height * 3].reshape(height, width, 3)
        if not self._filled[index]:
            # Two processes may write the same pixels at the same time; the mark comes after them.
            image[:] = load_image(sample, shrink=shrink, warn=warn)
            self._filled[index] = 1
        image.flags.writeable = False
        return image


def _make(samples: Sequence[Sample], size: tuple[int, int] | None, cache_bytes: int) -> Pictures:
    return Pictures(samples, size=size, cache=mmap.mmap(-1, cache_bytes))


def shrinking(sizes: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """By how much images of these widths and heights `[N, 2]` are shrunk for training at `size`: 1, 2, 4 or 8, `[N]`.

    What is left has at least `DETAIL` times the training's pixels in both directions.
    """
    if size is None:
        return np.ones(len(sizes), np.int64)
    spare = (sizes // (DETAIL * np.array(size))).min(axis=1)
    return 2 ** np.searchsorted(SHRINKS, spare, side="right")


def _shrunk(sample: Sample, shrink: int) -> tuple[int, int]:
    """Height and width of what is left, rounded up."""
    return -(-sample.height // shrink), -(-sample.width // shrink)


def load_image(sample: Sample, *, shrink: int = 1, warn: Callable[[str], object] = _log.warning) -> np.ndarray:
    """The pixels of a sample, uint8 RGB, as `detector.images.read_image` gives them, but faster.

    The image is `[height, width, 3]` or, with a `shrink` of 2, 4 or 8, the means of blocks of so many pixels. Where the
    annotated size is that of the image before its EXIF orientation is applied, it is not applied. `warn` is told of an
    image as `read_image` tells of it.

    Raises MaenasError for a file that is missing or broken, and for an image of another size than annotated.
    """
    height, width = _shrunk(sample, shrink)
    image = _decode_jpeg(sample, shrink)
    if image is not None and image.shape[:2] == (height, width):
        return image
    image = read_image(sample.path, warn=warn)
    if image.shape[:2] != (sample.height, sample.width):
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise MaenasError(f"image {sample.path}: is {found}, but annotated as {sample.width}x{sample.height}")
    if shrink == 1:
        return image
    more = shrink * height - sample.height, shrink * width - sample.width  # as JPEGs are filled up to whole blocks
    filled = cv2.copyMakeBorder(image, 0, more[0], 0, more[1], cv2.BORDER_REPLICATE)
    return cv2.resize(filled, (width, height), interpolation=cv2.INTER_AREA)


def _decode_jpeg(sample: Sample, shrink: int) -> np.ndarray | None:
    """Decodes a complete JPEG; None for anything else, which the strict reader then judges."""
    try:
        data = sample.path.read_bytes()
    except OSError:
        return None
    # OpenCV fills what a truncated file lacks with grey, and takes memory for whatever size the file claims.
    if not data.startswith(JPEG_START) or JPEG_END not in data[-1024:] or not _claims_size(data, sample):
        return None
    buffer, flags = np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | _REDUCED[shrink]
    try:
        image = cv2.imdecode(buffer, flags)
        height, width = _shrunk(sample, shrink)
        if image is not None and image.shape[:2] == (width, height) != (height, width):
            image = cv2.imdecode(buffer, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return image


def _claims_size(data: bytes, sample: Sample) -> bool:
    """Whether the header of a JPEG has the annotated size, lying or standing."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
            return sorted(header.size) == sorted((sample.width, sample.height))
    except (*BROKEN, *BOMB):
        return False
