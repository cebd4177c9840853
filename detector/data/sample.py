"""What a data set is to the detector: class names, and samples with clean boxes.

Boxes are xyxy in pixels of the image, float32. Legend: N boxes.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from PIL import Image

from detector.images import BOMB, BROKEN, FORMATS, SIDEWAYS
from maenas.errors import MaenasError
from maenas.files import read_text

MAX_LIST_BYTES: Final = 2**30  # of a list for many images
_PLACES: Final = 3  # shown of a kind of problem
# Kinds of problems that leave no doubt about the rest of the data: a sample or an annotation is put aside.
MISSING_IMAGE: Final = "missing image"
BROKEN_IMAGE: Final = "unreadable image"
ODD_IMAGE: Final = "image with a fault (used)"
OUTSIDE_BOX: Final = "box outside its image"
CLIPPED_BOX: Final = "box partly outside its image (clipped)"
DEGENERATE_BOX: Final = "box without area"
BAD_LINE: Final = "label line that is no box"
UNKNOWN_IMAGE: Final = "annotation of an image that is not listed"
DUPLICATE_ANNOTATION: Final = "annotation id used twice"
UNUSED_CLASS: Final = "class without a box"
UNANNOTATED: Final = "image without an annotation"
UNLABELLED_AREA: Final = "area that nobody labelled (background to training)"
# Kinds that make labels wrong: such data are not trained on.
UNKNOWN_CLASS: Final = "annotation of a class that is not listed"
DUPLICATE_IMAGE: Final = "image id used twice"
FATAL: Final = (UNKNOWN_CLASS, DUPLICATE_IMAGE)


class Problem(NamedTuple):
    """One thing wrong with the data: its kind, and where it is."""

    kind: str
    where: str


@dataclass(frozen=True, eq=False)
class Sample:
    """An image and its boxes, all within the image and of some area; row i of the arrays belongs together.

    `areas` are those of the annotated shapes where the data tell them (COCO rates small, medium and large by them).
    Crowds are not trained on; the evaluation leaves detections on them out of the count.
    """

    path: Path
    id: int
    width: int
    height: int
    boxes: np.ndarray  # float32 [N, 4]
    labels: np.ndarray  # int64 [N]
    areas: np.ndarray  # float32 [N]
    crowd_boxes: np.ndarray  # float32 [K, 4]
    crowd_labels: np.ndarray  # int64 [K]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split: class names (a label is an index into them), samples, and the problems that were found on the way."""

    names: tuple[str, ...]
    samples: Sequence[Sample]
    problems: tuple[Problem, ...] = ()
    source: str = ""  # what was read, for messages

    def __len__(self) -> int:
        return len(self.samples)


class NamedBox(NamedTuple):
    """One annotation in a file that names classes."""

    name: str
    xyxy: tuple[float, float, float, float]
    where: str
    unit: Literal["pixel", "side"] = "pixel"  # side: in parts of the image's width and height
    crowd: bool = False
    size: tuple[int, int] | None = None  # width and height of the image that it was drawn on, where the file tells them


def list_text(path: Path) -> str:
    """The text of a list for many images; raises MaenasError where it cannot be read."""
    return read_text(path, what="list of boxes", max_bytes=MAX_LIST_BYTES).removeprefix("\ufeff")


def box_around(points: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of points `[N, 2]`."""
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def box_around_ellipse(x: float, y: float, rx: float, ry: float, angle: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an ellipse about (x, y) with the radii rx and ry, turned by `angle`, radians."""
    half_width = math.hypot(rx * math.cos(angle), ry * math.sin(angle))
    half_height = math.hypot(rx * math.sin(angle), ry * math.cos(angle))
    return x - half_width, y - half_height, x + half_width, y + half_height


def numbers_in(words: Sequence[str]) -> list[float] | None:
    """What `words` say if all are numbers."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


class Listed(NamedTuple):
    """One entry of a list for many images: an image's name, and a box in it, unless the list says that it has none."""

    image: str
    box: NamedBox | None


class Box(NamedTuple):
    """One annotation as it is in a file."""

    xyxy: tuple[float, float, float, float]  # pixels
    label: int
    where: str
    area: float | None = None  # None: that of the box
    crowd: bool = False


def make_sample(path: Path, id: int, width: int, height: int, boxes: Sequence[Box], problems: list[Problem]) -> Sample:
    """A sample whose boxes are clipped to the image; those without area are left out, with their labels.

    What was clipped or left out is appended to `problems`.
    """
    corners = np.array([box.xyxy for box in boxes], np.float64).reshape(-1, 4)
    clipped = np.clip(corners, 0, [width, height, width, height])
    with np.errstate(invalid="ignore", over="ignore"):  # not-a-number fails every comparison
        proper = (corners[:, 2:] - corners[:, :2]).min(axis=1) > 0
        kept = proper & ((clipped[:, 2:] - clipped[:, :2]).min(axis=1) >= 1e-3)
        # A pixel beyond the edge is how rounding and inclusive coordinates show, not a mistake.
        moved = kept & (np.abs(clipped - corners).max(axis=1) > 1)
    for index in np.flatnonzero(~kept | moved).tolist():
        kind = CLIPPED_BOX if kept[index] else OUTSIDE_BOX if proper[index] else DEGENERATE_BOX
        problems.append(Problem(kind, f"{boxes[index].where} {[round(float(x), 2) for x in corners[index]]}"))
    labels = np.array([box.label for box in boxes], np.int64)
    areas = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    areas = np.array([a if box.area is None else box.area for a, box in zip(areas, boxes, strict=True)], np.float32)
    crowd = np.array([box.crowd for box in boxes], bool)
    one, many = kept & ~crowd, kept & crowd
    clipped = clipped.astype(np.float32)
    return Sample(path, id, width, height, clipped[one], labels[one], areas[one], clipped[many], labels[many])


def path_inside(root: Path, name: str, *, where: str) -> Path:
    """`root / name`, absolute. Raises MaenasError where `name` leads out of `root`; symbolic links inside it may."""
    top = os.path.abspath(root)
    path = os.path.normpath(os.path.join(top, name.replace("\\", "/")))
    if path != top and not path.startswith(top.rstrip(os.sep) + os.sep):
        raise MaenasError(f"{where}: {name!r:.200} leads out of the data folder {top}; name files inside it")
    return Path(path)


def check_names(names: Sequence[str], where: str) -> None:
    """Raises MaenasError for a class name that cannot be printed on a line of its own."""
    for name in names:
        if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
            raise MaenasError(f"{where}: the class name {name!a:.80} has a control character; correct it")


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image as it is shown (EXIF orientation applied), from its header; None if unreadable."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            # Of a TIFF Pillow gives the size as it is shown.
            turned = image.format != "TIFF" and image.getexif().get(0x0112) in SIDEWAYS
    except (*BROKEN, *BOMB):
        return None
    return (height, width) if turned else (width, height)


def size_of(path: Path, problems: list[Problem]) -> tuple[int, int] | None:
    """What `image_size` says; None where there is no readable image, which `problems` is then told."""
    there = os.path.isfile(path)  # false, too, for a name that no file can have
    size = image_size(path) if there else None
    if size is None:
        problems.append(Problem(BROKEN_IMAGE if there else MISSING_IMAGE, str(path)))
    return size


def places_by_kind(problems: Sequence[Problem]) -> dict[str, list[str]]:
    """Where each kind of problem is."""
    places: dict[str, list[str]] = {}
    for problem in problems:
        places.setdefault(problem.kind, []).append(problem.where)
    return places


def summarise(problems: Sequence[Problem]) -> list[str]:
    """One line for each kind of problem: how often, and the first few places."""
    lines = []
    for kind, wheres in sorted(places_by_kind(problems).items(), key=lambda item: -len(item[1])):
        more = f", and {len(wheres) - _PLACES} more" if len(wheres) > _PLACES else ""
        lines.append(f"{len(wheres)} x {kind}: {'; '.join(f'{where:.300}' for where in wheres[:_PLACES])}{more}")
    return lines
