"""Where the names of points go, so that they neither leave the plot nor cover each other.

Lengths are in pixels of a plot of assumed size; x grows to the right and y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LETTER = 7.0  # mean width of a letter of the page's font at 13 pixels
LINE = 17.0  # height of a line
LONGEST = 22  # letters of a name
GAP = 9.0  # from a point to its text
SIDES = (
    "top center",
    "bottom center",
    "top right",
    "bottom right",
    "top left",
    "bottom left",
    "middle right",
    "middle left",
)  # plotly's words for where a text stands, the better ones first
SAME = 6.0  # points that are nearer to each other share one label
OUTSIDE, COVERS_TEXT, COVERS_POINT = 20.0, 40.0, 1.0  # how bad each is, by area

Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Label:
    """Lines of text at a point, and on which side of it they stand; no line where another label has them."""

    lines: tuple[str, ...]
    side: str


def place_labels(
    points: Sequence[Point], names: Sequence[str], curve: Sequence[Point], size: tuple[float, float]
) -> list[Label]:
    """A label for each of `points`, in a plot of `size`, that keeps off the others and, if it can, off the `curve`.

    Points at nearly the same place share the label of the first.
    """
    owners = [_owner(points, index) for index in range(len(points))]
    marks = [_around(point, SAME) for point in (*points, *curve)]
    placed: list[Box] = []
    labels = []
    for index, point in enumerate(points):
        lines = tuple(_short(names[other]) for other, owner in enumerate(owners) if owner == index)
        if not lines:
            labels.append(Label((), SIDES[0]))
            continue
        boxes = {side: _box(point, lines, side) for side in SIDES}
        best = min(SIDES, key=lambda side: _badness(boxes[side], placed, marks, size))
        placed.append(boxes[best])
        labels.append(Label(lines, best))
    return labels


def _owner(points: Sequence[Point], index: int) -> int:
    x, y = points[index]
    near = (other for other in range(index) if abs(points[other][0] - x) < SAME and abs(points[other][1] - y) < SAME)
    return next(near, index)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _around(point: Point, reach: float) -> Box:
    return point[0] - reach, point[1] - reach, point[0] + reach, point[1] + reach


def _box(point: Point, lines: Sequence[str], side: str) -> Box:
    width, height = LETTER * max(map(len, lines)), LINE * len(lines)
    vertical, horizontal = side.split()
    x = point[0] + {"left": -width - GAP, "center": -width / 2, "right": GAP}[horizontal]
    y = point[1] + {"top": -height - GAP, "middle": -height / 2, "bottom": GAP}[vertical]
    return x, y, x + width, y + height


def _badness(box: Box, placed: Sequence[Box], marks: Sequence[Box], size: tuple[float, float]) -> float:
    inside = _shared(box, (0.0, 0.0, *size))
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    texts = sum(_shared(box, other) for other in placed)
    return OUTSIDE * outside + COVERS_TEXT * texts + COVERS_POINT * sum(_shared(box, mark) for mark in marks)


def _shared(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
