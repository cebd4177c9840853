"""What `maenas detect` runs on: an image, a folder, a pattern, a video, a camera or a stream."""

from __future__ import annotations

import glob
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from detector.images import SUFFIXES, files_below
from maenas.errors import MaenasError
from maenas.files import hidden_name, output_target, reason

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
STREAMS = ("http://", "https://", "rtmp://", "rtsp://", "rtsps://", "udp://")
TIMEOUT_MS = 10_000  # until a stream is there, and from frame to frame
DEFAULT_FPS = 25.0  # of a source that does not say
MISSING_FRAMES = (1, 0.05)  # that a file may lack of what it claims, at least and as a share: some only estimate it


def is_live(source: str) -> bool:
    """Whether it is the number of a camera, where no file has that name, or the address of a stream."""
    return source.startswith(STREAMS) or (source.isdecimal() and len(source) < 4 and not os.path.exists(source))


def is_video(source: str) -> bool:
    """Whether it is a camera or stream, or the name is that of a video file."""
    if is_live(source):
        return True
    return Path(source).suffix.lower() in VIDEO_SUFFIXES and not glob.has_magic(source)


def video_name(source: str) -> str:
    """A name for what is written about a video: the file's own, or `camera-0`, or of a stream its place there."""
    if source.isdecimal():
        return f"camera-{source}"
    if source.startswith(STREAMS):
        parts = urlsplit(source)
        return re.sub(r"[^A-Za-z0-9]+", "-", Path(parts.path).stem).strip("-")[:100] or "stream"
    return Path(source).stem


def find_images(source: str) -> list[Path]:
    """The image files of `source`, sorted: one file, all images below a folder, or what a pattern (`**` too) matches.

    Raises `MaenasError` if there is none.
    """
    if not source:
        raise MaenasError("the source of images has no name; write . for this folder")
    path = Path(source)
    if path.is_dir():
        found = [entry for entry in files_below(path) if entry.suffix.lower() in SUFFIXES]
        if not found:
            raise MaenasError(f"{source}: no image in this folder (looked for {', '.join(SUFFIXES)})")
    elif path.exists():
        found = [path]
    elif glob.has_magic(source):
        found = [entry for entry in _matches(source) if entry.suffix.lower() in SUFFIXES]
        if not found:
            raise MaenasError(f"{source}: no image matches this pattern (looked for {', '.join(SUFFIXES)})")
    else:
        raise MaenasError(f"{source}: there is no such file or folder")
    return sorted(found)


def _matches(pattern: str) -> list[Path]:
    """What a pattern matches. `**` follows no links, which may lead back to where they are."""
    if "**" not in pattern:
        return [Path(name) for name in glob.glob(pattern)]
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    rest = [part if part == "**" else part.replace("**", "*") for part in parts[fixed:]]
    if rest[-1] == "**":
        rest.append("*")
    root = Path(*parts[:fixed])
    found = set(root.glob("/".join(rest)))
    if any(part.startswith(".") for part in rest):
        return [*found]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def below_common(paths: Sequence[Path]) -> list[Path]:
    """The paths relative to the folder that they have in common."""
    root = os.path.commonpath([path.parent for path in paths])
    return [Path(os.path.relpath(path, root)) for path in paths]


def output_names(paths: Sequence[Path]) -> list[str]:
    """A distinct name without suffix for each path, relative to the folder that they have in common.

    Where that would be the name of two files, the suffix becomes part of it: `a.png` gives "a.png".
    """
    relative = below_common(paths)
    counts = Counter([*relative, *(path.with_suffix("") for path in relative)])
    return [(path if counts[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix() for path in relative]


def outside(paths: Sequence[Path], out: Path) -> list[Path]:
    """Those that do not lie in `out`, which another run may have written, where `out` lies in the folder of all."""
    folder, root = out.resolve(), os.path.commonpath([path.parent.resolve() for path in paths])
    if not folder.is_relative_to(root):
        return list(paths)
    return [path for path in paths if not path.resolve().is_relative_to(folder)]


def image_ids(paths: Sequence[Path]) -> list[int]:
    """COCO image ids: the numbers in the names where all are distinct numbers (000000000139.jpg), else 1, 2, ..."""
    stems = [path.stem for path in paths]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(paths) + 1))


class Video:
    """A video being read; iterating gives uint8 RGB frames `[H, W, 3]`, each decoded while the last one is used.

    `source` is a file, the number of a camera or the address of a stream. `frames` is what it claims, 0 where it does
    not say. Raises `MaenasError` where there is no frame.
    """

    def __init__(self, source: str | Path) -> None:
        self.name, self.live = str(source), is_live(str(source))
        if not self.live and not Path(source).is_file():
            raise MaenasError(f"video {source}: there is no such file")
        self._capture = _open(self.name)
        self._first = self._read()
        self.read = 0
        if self._first is None:
            why = "is it there, and not in use?" if self.live else "the file is damaged or its codec unknown"
            raise MaenasError(f"video {source}: no frame can be read; {why}")
        self.height, self.width = self._first.shape[:2]
        self.frames = 0 if self.live else max(0, round(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else DEFAULT_FPS

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            with ThreadPoolExecutor(1) as reader:  # the next frame is decoded while this one is used
                frame = self._first
                while frame is not None:
                    self.read += 1
                    following = reader.submit(self._read)
                    yield frame
                    frame = following.result()
        finally:
            self._capture.release()

    @property
    def cut_short(self) -> str | None:
        """After all frames were read: what is missing of those that the file claims; None where nothing is."""
        least, share = MISSING_FRAMES
        if self.frames - self.read <= max(least, share * self.frames):
            return None
        return f"video {self.name}: {self.read} of {self.frames} frames could be read; the rest is damaged or missing"

    def _read(self) -> np.ndarray | None:
        ok, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if ok else None


def _open(source: str) -> cv2.VideoCapture:
    if source.startswith(STREAMS):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    return cv2.VideoCapture(int(source)) if is_live(source) else cv2.VideoCapture(source)


@contextmanager
def video_writer(path: Path, *, fps: float, width: int, height: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that adds a BGR frame to an MPEG-4 file, which appears under its name when all of it is written.

    Raises `MaenasError` if the file cannot be written. The encoder does not say so: what it wrote is read back.
    """
    target = output_target(path)
    partial = target.with_name(hidden_name(target.stem, f"{secrets.token_hex(4)}.tmp{target.suffix}"))
    writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    count = 0

    def add(frame: np.ndarray) -> None:
        nonlocal count
        writer.write(frame)
        count += 1

    try:
        if not writer.isOpened():
            raise MaenasError(f"cannot write the video {path}: choose another folder")
        yield add
        writer.release()
        found = _count_frames(partial)
        if found < count:
            raise MaenasError(f"cannot write {path}: {found} of {count} frames arrived on the disk; free some space")
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise MaenasError(f"cannot write {path}: {reason(error)}") from error
    finally:
        writer.release()
        partial.unlink(missing_ok=True)


def _count_frames(path: Path) -> int:
    """Frames that a video file holds; 0 where it cannot be read."""
    capture = cv2.VideoCapture(str(path))
    try:
        return sum(1 for _ in iter(capture.grab, False))
    finally:
        capture.release()
