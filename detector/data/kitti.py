"""KITTI: a `.txt` for each image, as the data set itself and NVIDIA's TAO have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from detector.data.sample import BAD_LINE, UNLABELLED_AREA, NamedBox, Problem
from maenas.files import read_text

MAX_BYTES: Final = 64 * 2**20
WORDS: Final = (15, 16)  # class, truncation, occlusion, angle, four corners, seven numbers in space; maybe a score
UNLABELLED: Final = "dontcare"


def are_kitti(paths: Sequence[Path]) -> bool:
    """Whether label files are KITTI's, by the first that is not empty."""
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                words = file.readline(1000).split()
        except (OSError, UnicodeDecodeError):
            return False
        if words:
            return len(words) in WORDS and not _is_number(words[0]) and all(map(_is_number, words[1:]))
    return False


def kitti_objects(path: Path, problems: list[Problem]) -> Iterator[NamedBox]:
    """The objects of a file, without its areas that nobody labelled (`DontCare`), which become `problems`."""
    for number, line in enumerate(read_text(path, what="labels", max_bytes=MAX_BYTES).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}:{number}"
        if len(words) not in WORDS or not all(map(_is_number, words[4:8])):
            problems.append(Problem(BAD_LINE, where))
        elif words[0].lower() == UNLABELLED:
            problems.append(Problem(UNLABELLED_AREA, where))
        else:
            left, top, right, bottom = map(float, words[4:8])
            yield NamedBox(words[0], (left, top, right, bottom), where)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
