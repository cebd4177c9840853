"""WIDER FACE: one `.txt` for many images, with the name of an image, the number of its faces, and a line for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from detector.data.sample import BAD_LINE, MAX_LIST_BYTES, UNLABELLED_AREA, Listed, NamedBox, Problem, numbers_in
from detector.images import SUFFIXES
from maenas.errors import MaenasError
from maenas.files import read_text

CLASS: Final = "face"
FEWEST, INVALID = 4, 7  # numbers of a face: left, top, width, height, and maybe six marks, of which one says "invalid"


def is_wider(start: str) -> bool:
    """Whether a text that begins so is a list of faces."""
    name, count, face = (*start.splitlines()[:3], "", "", "")[:3]
    return _is_image(name) and count.strip().isdecimal() and _numbers(face) is not None


def wider_faces(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    """The faces in every image; those that are marked as invalid, and lines that are none, become `problems`.

    Raises MaenasError where a number of faces is missing.
    """
    lines = read_text(path, what="list of boxes", max_bytes=MAX_LIST_BYTES).splitlines()
    image = ""
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if _is_image(line):
            image = line.strip()
            count = lines[number].strip() if number < len(lines) else ""
            if not count.isdecimal():
                raise MaenasError(f"{where}: the number of faces of {image!r:.100} is not in the next line")
            if not int(count):
                yield Listed(image, None)
        elif line.strip() and not line.strip().isdecimal():
            yield from _face(line, image, where, problems)


def _face(line: str, image: str, where: str, problems: list[Problem]) -> Iterator[Listed]:
    numbers = _numbers(line)
    if numbers is None or not image:
        problems.append(Problem(BAD_LINE, where))
    elif len(numbers) > INVALID and numbers[INVALID]:
        problems.append(Problem(UNLABELLED_AREA, where))
    elif any(numbers):  # an image without faces has a line of zeros
        left, top, width, height = numbers[:FEWEST]
        yield Listed(image, NamedBox(CLASS, (left, top, left + width, top + height), where))


def _is_image(line: str) -> bool:
    return PurePosixPath(line.strip()).suffix.lower() in SUFFIXES


def _numbers(line: str) -> list[float] | None:
    numbers = numbers_in(line.split())
    return numbers if numbers is not None and len(numbers) >= FEWEST else None
