"""Structures of public trained networks as deployed kernels, so that the project's own code scores them.

Families and their sources: YOLOBench (arXiv 2307.13901), RegNets and ResNets as pycls trained them, NAS-Bench-Macro.
What comes before stride 4 is the stem (stage 0); the stages behind it are one a resolution. Necks and heads are left
out.
`tests/test_score_evidence.py` compares with the operations and parameters that were published.

Legend: C channels, N units.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from maenas.kernels import IMAGE, Graph, Kernel, Tensor

LETTERS = {"n": (0.33, 0.25), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}
FACTORS = {"25": 0.25, "33": 0.33, "5": 0.5, "6": 0.6, "67": 0.67, "75": 0.75, "1": 1.0}
YOLO_UNITS = {
    "yolo3": (1, 2, 8, 8, 4),
    "yolo4": (1, 2, 8, 8, 4),
    "yolo5": (3, 6, 9, 3),
    "yolo8": (3, 6, 6, 3),
    "yolo6s": (6, 12, 18, 6),
}
RESIDUAL_FAMILIES = ("yolo3", "yolo4", "yolo5", "yolo8")
PLAIN_FAMILIES = ("yolo6s",)  # re-parameterised chains; the structure of yolo6m, yolo6l and yolo7 is not given
MACRO_STAGES = (2, 3, 3)  # layers a resolution of NAS-Bench-Macro
MACRO_BLOCKS = {"1": (3, 3), "2": (6, 5)}  # expansion, kernel of an inverted residual; "0" is the identity
MACRO_LAST = 1280  # channels of the 1x1 convolution before the classifier


def parse_yolo(name: str) -> tuple[str, float, float, int]:
    """Family, depth and width factors, and input side of a name of YOLOBench such as `yolo5d33w25_320`."""
    match = re.fullmatch(r"(yolo\d[sml]?)-?(?:d(\d+)w(\d+)|([nsml]))_(\d+)", name)
    if match is None:
        raise ValueError(f"{name} is not a name of YOLOBench")
    family, depth, width, letter, side = match.groups()
    factors = LETTERS[letter] if letter else (FACTORS[depth], FACTORS[width])
    return family, *factors, int(side)


def yolo(name: str) -> tuple[Kernel, ...]:
    """Backbone of a YOLOBench network whose family is in `YOLO_UNITS`."""
    family, depth, width, side = parse_yolo(name)
    g, image = Graph(), Tensor(IMAGE, 3, side, side)
    units = [max(1, round(depth * n)) for n in YOLO_UNITS[family]]

    def channels(full: int) -> int:
        return 8 * math.ceil(full * width / 8)

    g.stage = 0
    if family in ("yolo3", "yolo4"):
        x = g.main_conv("stem", image, channels(32), kernel=3)
        for number, (full, n) in enumerate(zip((64, 128, 256, 512, 1024), units, strict=True)):
            g.stage = number  # the stage at stride 2 belongs to the stem
            x = g.main_conv("down", x, channels(full), kernel=3, stride=2)
            x = _joined(g, x, n, (1, 3)) if family == "yolo4" and number else _residual(g, x, n)
        return tuple(g.kernels)
    x = g.main_conv("stem", image, channels(64), kernel=6 if family == "yolo5" else 3, stride=2)
    for number, (full, n) in enumerate(zip((128, 256, 512, 1024), units, strict=True), start=1):
        g.stage = number
        x = g.main_conv("down", x, channels(full), kernel=3, stride=2)
        if family == "yolo6s":
            for _ in range(n):
                x = g.main_conv("unit", x, x.channels, kernel=3)
        else:
            x = _joined(g, x, n, (1, 3)) if family == "yolo5" else _split(g, x, n)
    return tuple(g.kernels)


def _residual(g: Graph, x: Tensor, units: int) -> Tensor:
    width = x.channels
    for _ in range(units):
        x = g.main_conv("conv2", g.main_conv("conv1", x, width // 2), width, kernel=3)
    return x


def _joined(g: Graph, x: Tensor, units: int, kernels: tuple[int, int]) -> Tensor:
    """CSP: units at half the width, joined with another 1x1 of the same input; half of the inputs carry the signal."""
    half = x.channels // 2
    y = g.main_conv("start", x, half)
    for _ in range(units):
        for kernel in kernels:
            y = g.main_conv("unit", y, half, kernel=kernel)
    side = g.conv("shortcut", x, half)
    return g.conv("fuse", g.concat("join", (y, side)), x.channels, signal_fan_in=half)


def _split(g: Graph, x: Tensor, units: int) -> Tensor:
    """C2f: a 1x1, two 3x3 a unit on half of its outputs; both halves and every unit's output are joined."""
    half = x.channels // 2
    start = g.main_conv("start", x, x.channels)
    y = Tensor(start.index, half, start.height, start.width)
    parts = [start]
    for _ in range(units):
        y = g.main_conv("conv2", g.main_conv("conv1", y, half, kernel=3), half, kernel=3)
        parts.append(y)
    return g.conv("fuse", g.concat("join", tuple(parts)), x.channels, signal_fan_in=half)


def regnet(row: Mapping[str, Any]) -> tuple[Kernel, ...]:
    """A RegNet of `imagenet_regnets.json` at 224 pixels, without squeeze-excitation and classifier."""
    g, image = Graph(), Tensor(IMAGE, 3, 224, 224)
    g.stage = 0
    x = g.main_conv("stem", image, row["stem"]["width"], kernel=row["stem"]["kernel"], stride=2)
    shapes = zip(row["widths"], row["depths"], row["bottleneck_multipliers"], row["group_widths"], strict=True)
    for number, (width, depth, ratio, group) in enumerate(shapes, start=1):
        g.stage = number
        inner = round(width * ratio)
        for unit in range(depth):
            stride = 2 if unit == 0 else 1
            if unit == 0:
                g.conv("project", x, width, stride=stride)
            y = g.main_conv("conv1", x, inner)
            y = g.main_conv("conv2", y, inner, kernel=3, stride=stride, groups=inner // group)
            x = g.main_conv("conv3", y, width)
    return tuple(g.kernels)


def macro(architecture: Sequence[str]) -> tuple[Kernel, ...]:
    """A network of NAS-Bench-Macro at 32 pixels, the last 1x1 convolution included."""
    g, image, layers = Graph(), Tensor(IMAGE, 3, 32, 32), iter(architecture)
    g.stage = 0
    x = g.main_conv("stem", image, 32, kernel=3)
    for number, count in enumerate(MACRO_STAGES, start=1):
        g.stage = number
        for layer in range(count):
            stride = 2 if layer == 0 else 1
            width, block = x.channels * stride, MACRO_BLOCKS.get(next(layers))
            if block is not None:
                expansion, kernel = block
                hidden = x.channels * expansion
                y = g.main_conv("conv1", x, hidden)
                y = g.main_conv("conv2", y, hidden, kernel=kernel, stride=stride, groups=hidden)
                x = g.main_conv("conv3", y, width)
            elif stride == 2:
                x = g.main_conv("down", x, width, stride=2)
    g.stage = -1
    g.conv("last", x, MACRO_LAST)
    return tuple(g.kernels)
