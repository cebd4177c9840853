"""A `.txt` for each image with a box a line: KITTI (as NVIDIA's TAO has it, too), DOTA and VisDrone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from detector.data.sample import BAD_LINE, UNLABELLED_AREA, NamedBox, Problem, box_around, numbers_in
from maenas.files import read_text

MAX_BYTES: Final = 64 * 2**20
KITTI_WORDS: Final = (15, 16)  # class, truncation, occlusion, angle, corners, seven numbers in space; maybe a score
KITTI_UNLABELLED: Final = "dontcare"
DOTA_HEADER: Final = ("imagesource:", "gsd:", "acquisition dates:")
VISDRONE_NUMBERS: Final = 8  # left, top, width, height, score, class, truncation, occlusion
VISDRONE: Final = (
    *("", "pedestrian", "people", "bicycle", "car", "van", "truck"),
    *("tricycle", "awning-tricycle", "bus", "motor", ""),
)


class Line(NamedTuple):
    """What a line says: a box of a class, or with the empty name an area that nobody labelled."""

    name: str
    xyxy: tuple[float, float, float, float]  # pixels


def are_texts(paths: Sequence[Path]) -> bool:
    """Whether label files are of one of these forms, by the first line with a box of the first file that has one."""
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig") as file:
                line = next((line for line in file if not _is_header(line)), None)
        except (OSError, UnicodeDecodeError):
            return False
        if line is not None:
            return _read(line) is not None
    return False


def text_objects(path: Path, problems: list[Problem]) -> Iterator[NamedBox]:
    """The objects of a file; areas that nobody labelled, and lines of no form, become `problems`."""
    text = read_text(path, what="labels", max_bytes=MAX_BYTES).removeprefix("\ufeff")
    for number, row in enumerate(text.splitlines(), start=1):
        where = f"{path}:{number}"
        if _is_header(row):
            continue
        line = _read(row)
        if line is None:
            problems.append(Problem(BAD_LINE, where))
        elif not line.name:
            problems.append(Problem(UNLABELLED_AREA, where))
        else:
            yield NamedBox(line.name, line.xyxy, where)


def _is_header(row: str) -> bool:
    return not row.strip() or row.lower().startswith(DOTA_HEADER)


def _read(row: str) -> Line | None:
    return next((line for read in READERS if (line := read(row)) is not None), None)


def _kitti(row: str) -> Line | None:
    words = row.split()
    if len(words) not in KITTI_WORDS or numbers_in(words[:1]) is not None or (rest := numbers_in(words[1:])) is None:
        return None
    left, top, right, bottom = rest[3:7]
    return Line("" if words[0].lower() == KITTI_UNLABELLED else words[0], (left, top, right, bottom))


def _dota(row: str) -> Line | None:
    """Four corners, a class, and perhaps how difficult it is."""
    words = row.split()
    corners = numbers_in(words[:8])
    if len(words) not in (9, 10) or corners is None or numbers_in(words[8:9]) or numbers_in(words[9:]) is None:
        return None
    return Line(words[8], box_around(np.array(corners).reshape(4, 2)))


def _visdrone(row: str) -> Line | None:
    numbers = numbers_in(row.strip().removesuffix(",").split(","))
    if numbers is None or len(numbers) != VISDRONE_NUMBERS or not all(number.is_integer() for number in numbers):
        return None
    left, top, width, height, score, kind, truncation, occlusion = numbers
    if score not in (0, 1) or truncation not in (0, 1) or occlusion not in (0, 1, 2) or not 0 <= kind < len(VISDRONE):
        return None
    return Line(VISDRONE[int(kind)], (left, top, left + width, top + height))


READERS: Final[tuple[Callable[[str], Line | None], ...]] = (_kitti, _dota, _visdrone)
