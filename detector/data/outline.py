"""The box around an outline of COCO: polygons, or the lengths of runs down the columns of a mask (RLE)."""

from __future__ import annotations

from typing import Any

import numpy as np

from detector.data.sample import box_around


def box_of_outline(outline: Any) -> list[float] | None:
    """Left, top, width and height in pixels of a `segmentation`; None where it is none, or has nothing in it."""
    try:
        around = _around_runs(**outline) if isinstance(outline, dict) else _around_polygons(outline)
    except (TypeError, ValueError, OverflowError):
        return None
    left, top, right, bottom = around
    return [left, top, right - left, bottom - top]


def _around_polygons(polygons: list[list[float]]) -> tuple[float, float, float, float]:
    return box_around(np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons]))


def _around_runs(size: list[int], counts: list[int] | str) -> tuple[float, float, float, float]:
    """`counts` are lengths of runs outside and inside, in turn; `size` is height and width."""
    height, width = size
    runs = np.array(_unpacked(counts) if isinstance(counts, str) else counts, np.int64)
    ends = np.cumsum(runs)
    if min(runs.min(), height, width) < 0 or ends[-1] > height * width:
        raise ValueError("runs that do not fit into the mask")
    first, last = (ends - runs)[1::2], ends[1::2] - 1
    first, last = first[last >= first], last[last >= first]
    (left, top), (right, bottom) = divmod(first, height), divmod(last, height)
    over = bool((right > left).any())  # a run that goes on in the next column
    tops = (0, height) if over else (int(top.min()), int(bottom.max()) + 1)
    return int(left.min()), tops[0], int(right.max()) + 1, tops[1]


def _unpacked(text: str) -> list[int]:
    """Numbers of a COCO text: 5 bits a character, the lowest first, a sixth where more follow; the last one's highest
    bit is the sign. From the fourth number on they are differences to the last but one."""
    numbers: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            value -= (code & 16) << (bits - 4)
            numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
            value = bits = 0
    return numbers
