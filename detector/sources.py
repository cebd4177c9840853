"""What `maenas detect` runs on: an image, a folder, a pattern, or a video."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from detector.images import SUFFIXES
from maenas.errors import MaenasError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
DEFAULT_FPS = 25.0  # of a file that does not say


def is_video(source: str) -> bool:
    """Whether the name is that of a video file."""
    return Path(source).suffix.lower() in VIDEO_SUFFIXES and not glob.has_magic(source)


def find_images(source: str) -> list[Path]:
    """The image files of `source`, sorted: one file, all images below a folder, or what a pattern (`**` too) matches.

    Raises `MaenasError` if there is none.
    """
    path = Path(source)
    if path.is_dir():
        found = [entry for entry in path.rglob("*") if entry.suffix.lower() in SUFFIXES]
        if not found:
            raise MaenasError(f"{source}: no image in this folder (looked for {', '.join(SUFFIXES)})")
    elif path.exists():
        found = [path]
    elif glob.has_magic(source):
        found = [Path(name) for name in glob.glob(source, recursive=True)]
        found = [entry for entry in found if entry.suffix.lower() in SUFFIXES]
        if not found:
            raise MaenasError(f"{source}: no image matches this pattern (looked for {', '.join(SUFFIXES)})")
    else:
        raise MaenasError(f"{source}: there is no such file or folder")
    return sorted(found)


def output_names(paths: Sequence[Path]) -> list[str]:
    """A distinct name without suffix for each path, relative to the folder that they have in common.

    Where two files differ only in the suffix, it becomes part of the name: `a.png` gives "a.png".
    """
    root = os.path.commonpath([path.parent for path in paths])
    relative = [Path(os.path.relpath(path, root)) for path in paths]
    counts = Counter(path.with_suffix("") for path in relative)
    return [(path if counts[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix() for path in relative]


def image_ids(paths: Sequence[Path]) -> list[int]:
    """COCO image ids: the numbers in the names where all are distinct numbers (000000000139.jpg), else 1, 2, ..."""
    stems = [path.stem for path in paths]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(paths) + 1))


class Video:
    """A video file being read; iterating gives uint8 RGB frames `[H, W, 3]`, each decoded while the last one is used.

    `frames` is what the file claims, 0 where it does not say. Raises `MaenasError` for a file that has no frame.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MaenasError(f"video {path}: there is no such file")
        self._capture = cv2.VideoCapture(str(path))
        self._first = self._read()
        if self._first is None:
            raise MaenasError(f"video {path}: no frame can be read, the file is damaged or its codec unknown")
        self.height, self.width = self._first.shape[:2]
        self.frames = max(0, round(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else DEFAULT_FPS

    def __iter__(self) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(1) as reader:  # the next frame is decoded while this one is used
            frame = self._first
            while frame is not None:
                following = reader.submit(self._read)
                yield frame
                frame = following.result()
        self._capture.release()

    def _read(self) -> np.ndarray | None:
        ok, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if ok else None


@contextmanager
def video_writer(path: Path, *, fps: float, width: int, height: int) -> Iterator[cv2.VideoWriter]:
    """An MPEG-4 writer of BGR frames; the file appears under its name when all is written.

    Raises `MaenasError` if the file cannot be written.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    try:
        if not writer.isOpened():
            raise MaenasError(f"cannot write the video {path}: choose another folder")
        yield writer
        writer.release()
        partial.replace(path)
    finally:
        writer.release()
        partial.unlink(missing_ok=True)
