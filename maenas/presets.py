"""Necks and heads of the published detectors, by name."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from maenas.errors import MaenasError
from maenas.kernels import Width
from maenas.spec import (
    MOST_BINS,
    OUTPUT_STRIDES,
    Activation,
    BackboneSpec,
    DetectorSpec,
    HeadSpec,
    InputSpec,
    NeckSpec,
)

NECK_MULTIPLE = 16  # of scaled widths: a merge halves them


@dataclass(frozen=True)
class NeckPreset:
    """A neck without its widths: with `out_channels` of None they are `ratios` times the backbone's taps."""

    out_channels: tuple[int, int, int] | None
    depth: int
    hidden_ratio: float
    block: Literal["basic", "mobile"]
    act: Activation
    reg_max: int
    head_kernel: int
    ratios: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def description(self) -> str:
        """One line for people."""
        if self.out_channels is not None:
            widths = "/".join(map(str, self.out_channels))
        elif self.ratios == (1.0, 1.0, 1.0):
            widths = "as the backbone's taps"
        else:
            widths = f"{'/'.join(f'{ratio:g}' for ratio in self.ratios)} of the backbone's taps"
        return f"RepGFPN, {self.block} blocks, depth {self.depth}, hidden ratio {self.hidden_ratio:g}, widths {widths}"


NECK_PRESETS = {
    "t": NeckPreset((64, 128, 256), 3, 1.0, "basic", "relu", 16, 3),
    "s": NeckPreset(None, 3, 0.75, "basic", "relu", 16, 3),
    "m": NeckPreset(None, 4, 1.0, "basic", "silu", 16, 3),
    "l": NeckPreset(None, 6, 1.0, "basic", "silu", 16, 3),
    "nano": NeckPreset(None, 2, 3.0, "mobile", "silu", 7, 1),
}

# Widths of a neck's outputs in units of the taps, strides 8, 16, 32: all of them rise, as the published ones do.
PROFILES = {
    "wide": (1.5, 1.5, 1.5),
    "full": (1.0, 1.0, 1.0),
    "narrow": (0.75, 0.75, 0.75),
    "half": (0.5, 0.5, 0.5),
}


def get_neck_preset(name: str) -> NeckPreset:
    """The preset called `name`, or one with another depth and width profile ("s-d2-half").

    Raises `MaenasError` listing the known ones.
    """
    base, *shape = name.split("-")
    preset = NECK_PRESETS.get(base)
    match shape:
        case [] if preset is not None:
            return preset
        case [depth, profile] if preset is not None and profile in PROFILES and re.fullmatch(r"d[1-9]", depth):
            return replace(preset, out_channels=None, depth=int(depth[1:]), ratios=PROFILES[profile])
    raise MaenasError(
        f"unknown neck {name!r}; the presets are {', '.join(NECK_PRESETS)}, also with a depth of 1 to 9 and a width "
        f"profile ({', '.join(PROFILES)}), for example s-d2-half"
    )


def neck_name(base: str, depth: int, profile: str) -> str:
    """Name of the preset `base` with this depth and profile: the shortest that `get_neck_preset` reads."""
    name = f"{base}-d{depth}-{profile}"
    return base if get_neck_preset(base) == get_neck_preset(name) else name


def neck_widths(preset: NeckPreset, taps: tuple[Width, Width, Width]) -> tuple[Width, Width, Width]:
    """Output widths of a neck behind taps of these widths, which may be arrays."""
    if preset.out_channels is not None:
        return preset.out_channels
    n3, n4, n5 = (_scaled(tap, ratio) for tap, ratio in zip(taps, preset.ratios, strict=True))
    return n3, n4, n5


def _scaled(tap: Width, ratio: float) -> Width:
    if ratio == 1:
        return tap
    widths = np.maximum(1, np.rint(np.asarray(tap) * ratio / NECK_MULTIPLE)).astype(np.int64) * NECK_MULTIPLE
    return widths if widths.ndim else int(widths)


def make_neck(preset: NeckPreset, taps: tuple[int, int, int]) -> NeckSpec:
    """Neck for a backbone with the given tap widths."""
    return NeckSpec(neck_widths(preset, taps), preset.depth, preset.hidden_ratio, preset.block, preset.act)


def reaching(preset: NeckPreset, side: int) -> NeckPreset:
    """`preset` with the bins that boxes as large as a square input of `side` pixels need.

    A distance is at most `reg_max` cells of the last level, and the nearest prior may lie half a cell beside the
    middle of a box. At the inputs of the published detectors the published bins are enough.
    """
    needed = math.ceil(side / (2 * OUTPUT_STRIDES[-1]) + 0.5)
    return replace(preset, reg_max=max(preset.reg_max, min(needed, MOST_BINS)))


def make_head(preset: NeckPreset, num_classes: int) -> HeadSpec:
    """The head that the published detectors put on this neck."""
    return HeadSpec(num_classes, preset.reg_max, preset.head_kernel)


def detector_around(backbone: BackboneSpec, preset: NeckPreset, *, side: int, num_classes: int) -> DetectorSpec:
    """The detector with this neck and its head behind `backbone`, for square images of `side` pixels."""
    neck, head = make_neck(preset, backbone.tap_channels), make_head(preset, num_classes)
    return DetectorSpec(InputSpec(side, side), backbone, neck, head)
