"""Necks and heads of the published detectors, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maenas.errors import MaenasError
from maenas.spec import Activation, HeadSpec, NeckSpec


@dataclass(frozen=True)
class NeckPreset:
    """A neck without its widths: `out_channels` of None means that they follow the backbone's taps."""

    out_channels: tuple[int, int, int] | None
    depth: int
    hidden_ratio: float
    block: Literal["basic", "mobile"]
    act: Activation
    reg_max: int
    head_kernel: int

    @property
    def description(self) -> str:
        """One line for people."""
        widths = "as the backbone's taps" if self.out_channels is None else "/".join(map(str, self.out_channels))
        return f"RepGFPN, {self.block} blocks, depth {self.depth}, hidden ratio {self.hidden_ratio:g}, widths {widths}"


NECK_PRESETS = {
    "t": NeckPreset((64, 128, 256), 3, 1.0, "basic", "relu", 16, 3),
    "s": NeckPreset(None, 3, 0.75, "basic", "relu", 16, 3),
    "m": NeckPreset(None, 4, 1.0, "basic", "silu", 16, 3),
    "l": NeckPreset(None, 6, 1.0, "basic", "silu", 16, 3),
    "nano": NeckPreset(None, 2, 3.0, "mobile", "silu", 7, 1),
}


def get_neck_preset(name: str) -> NeckPreset:
    """The preset called `name`; raises `MaenasError` listing the known ones."""
    if name not in NECK_PRESETS:
        raise MaenasError(f"unknown neck {name!r}; the presets are {', '.join(NECK_PRESETS)}")
    return NECK_PRESETS[name]


def make_neck(preset: NeckPreset, taps: tuple[int, int, int]) -> NeckSpec:
    """Neck for a backbone with the given tap widths."""
    return NeckSpec(preset.out_channels or taps, preset.depth, preset.hidden_ratio, preset.block, preset.act)


def make_head(preset: NeckPreset, num_classes: int) -> HeadSpec:
    """The head that the published detectors put on this neck."""
    return HeadSpec(num_classes, preset.reg_max, preset.head_kernel)
