"""Decoded images of a data set, kept in memory that all worker processes share."""

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

    `cache` is memory of zeros. Processes forked later share it, and so does whoever gets the same memory with the same
    samples: what one decodes, all have. A process that is spawned has its own.
    """

    def __init__(self, samples: Sequence[Sample], *, cache: mmap.mmap | None = None) -> None:
        self._samples = samples
        memory = mmap.mmap(-1, 1) if cache is None else cache
        self._cache_bytes = len(memory)
        self._reports = Reports(samples)
        columns = flat(samples)
        sizes = columns.sizes.prod(axis=1) * 3
        ends = np.cumsum(sizes) + len(samples)  # behind a mark for each image
        self.cached = int(np.searchsorted(ends, len(memory), side="right"))  # images that stay decoded
        self._starts = ends - sizes
        self._pixels = np.frombuffer(memory, np.uint8)
        self._filled = self._pixels[: self.cached]
        self.with_boxes = np.flatnonzero(columns.counts > 0)

    def __reduce__(self) -> tuple[object, ...]:
        return _make, (self._samples, self._cache_bytes)

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
                return Picture(self._image(number), sample.boxes, sample.labels)
            except MaenasError as error:
                self._reports.warn(number, f"left out: {error}")
        first = self._samples[index].path
        raise MaenasError(f"{tries} images in a row cannot be read, from {first} on; see the warnings")

    def _image(self, index: int) -> np.ndarray:
        warn = partial(self._reports.warn, index)
        if index >= self.cached:
            return load_image(self._samples[index], warn=warn)
        sample, start = self._samples[index], self._starts[index]
        slot = self._pixels[start : start + sample.width * sample.height * 3]
        image = slot.reshape(sample.height, sample.width, 3)
        if not self._filled[index]:
            # Two processes may write the same pixels at the same time; the mark comes after them.
            image[:] = load_image(sample, warn=warn)
            self._filled[index] = 1
        image.flags.writeable = False
        return image


def _make(samples: Sequence[Sample], cache_bytes: int) -> Pictures:
    return Pictures(samples, cache=mmap.mmap(-1, cache_bytes))


def load_image(sample: Sample, *, warn: Callable[[str], object] = _log.warning) -> np.ndarray:
    """The pixels of a sample, uint8 RGB `[height, width, 3]`, as `detector.images.read_image` gives them, but faster.

    Where the annotated size is that of the image before its EXIF orientation is applied, it is not applied. `warn` is
    told of a JPEG whose end is missing.

    Raises MaenasError for a file that is missing or broken, and for an image of another size than annotated.
    """
    image = _decode_jpeg(sample)
    if image is None:
        image = read_image(sample.path, warn=warn)
    if image.shape[:2] != (sample.height, sample.width):
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise MaenasError(f"image {sample.path}: is {found}, but annotated as {sample.width}x{sample.height}")
    return image


def _decode_jpeg(sample: Sample) -> np.ndarray | None:
    """Decodes a complete JPEG; None for anything else, which the strict reader then judges."""
    try:
        data = sample.path.read_bytes()
    except OSError:
        return None
    # OpenCV fills what a truncated file lacks with grey, and takes memory for whatever size the file claims.
    if not data.startswith(JPEG_START) or JPEG_END not in data[-1024:] or not _claims_size(data, sample):
        return None
    buffer = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB)
        if image is not None and image.shape[:2] == (sample.width, sample.height) != (sample.height, sample.width):
            image = cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
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
