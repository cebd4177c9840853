"""MOT: a folder for each sequence, with its images, `seqinfo.ini`, and the objects of all images in `gt/gt.txt`."""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from detector.data.sample import (
    BAD_LINE,
    UNLABELLED_AREA,
    Listed,
    NamedBox,
    Problem,
    list_text,
    numbers_in,
    path_inside,
)
from detector.images import SUFFIXES
from maenas.errors import MaenasError
from maenas.files import filled_lines, read_text

NUMBERS: Final = (9, 10)  # frame, object, left, top, width, height, whether it counts, class, visibility; or a point
IMAGES: Final = "img1"
CLASSES: Final = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person"),
    *("distractor", "occluder", "occluder on the ground", "occluder full", "reflection"),
)


def is_mot(start: str) -> bool:
    """Whether a text that begins so tells of objects; those without a number are what a detector found."""
    numbers = _numbers(start.partition("\n")[0])
    return numbers is not None and numbers[0] >= 1 and numbers[1] >= 0


def mot_objects(path: Path, problems: list[Problem]) -> Iterator[Listed]:
    """The objects in all images of the sequence of `path`; those that do not count, and lines of none, are `problems`.

    Classes have the names of `labels.txt` beside `path`, else those of the benchmark; where there is none, as in its
    first year, they are pedestrians. Raises MaenasError for files that cannot be read.
    """
    sequence = path.parent.parent
    inner = f"{sequence.name}/{_image_folder(sequence / 'seqinfo.ini')}"
    folder = path_inside(sequence.parent, inner, where=str(path))
    if not folder.is_dir():
        raise MaenasError(f"{path}: the images should be in {folder}, which is no folder; see imDir in seqinfo.ini")
    frames = {int(file.stem): file.name for file in sorted(folder.glob("*")) if _is_frame(file)}
    yield from (Listed(str(folder / name), None) for name in frames.values())
    names = _class_names(path.parent / "labels.txt")
    for number, line in enumerate(list_text(path).splitlines(), start=1):
        where = f"{path}:{number}"
        numbers = _numbers(line)
        if numbers is None:
            problems += [Problem(BAD_LINE, where)] if line.strip() else []
            continue
        frame, _, left, top, width, height, counts, kind = numbers[:8]
        label = 1 if kind == -1 else kind
        if label not in range(1, len(names) + 1):
            problems.append(Problem(BAD_LINE, f"{where} (class {kind:g} of {len(names)})"))
        elif not counts:
            problems.append(Problem(UNLABELLED_AREA, where))
        else:
            image = frames.get(int(frame), f"{int(frame):06}.jpg")
            box = NamedBox(names[int(label) - 1], (left - 1, top - 1, left - 1 + width, top - 1 + height), where)
            yield Listed(str(folder / image), box)


def _numbers(line: str) -> list[float] | None:
    numbers = numbers_in(line.strip().split(","))
    fits = numbers is not None and len(numbers) in NUMBERS and all(value.is_integer() for value in numbers[:2])
    return numbers if fits else None


def _is_frame(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.stem.isdecimal()


def _image_folder(path: Path) -> str:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path, what="description of a sequence") if path.is_file() else "")
        return parser.get("Sequence", "imDir", fallback=IMAGES)
    except configparser.Error as error:
        raise MaenasError(f"{path}: cannot be read: {' '.join(str(error).split()):.200}") from error


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return CLASSES
    return tuple(filled_lines(read_text(path, what="list of classes")))
