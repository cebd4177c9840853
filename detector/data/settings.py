"""Settings of the training augmentation; the defaults are those of the published S, M and L detectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from maenas.errors import MaenasError
from maenas.strict import STRICT

_SHARES = (
    *("mosaic_prob", "mixup_prob", "flip_prob", "single_prob", "box_prob"),
    *("translate", "hue", "saturation", "brightness"),
)


@dataclass(frozen=True)
class AugmentSettings:
    """Mosaic, random affine, mixup, flip, colour and scale-aware box-level augmentation (SADA).

    Probabilities lie in 0..1, angles are in degrees, ranges are (low, high). The published T uses `shear` 0.2; Ns uses
    `shear` 0.2 and `mosaic_scale` (0.75, 1.25). Source: released DAMO-YOLO configurations.
    """

    __pydantic_config__: ClassVar = STRICT
    mosaic_prob: float = 1.0
    # Side of the mosaic in pixels, or that of the training image where that is longer. Boxes of up to two pixels there
    # are left out. The same warp then resizes it to the training image.
    mosaic_size: int = 640
    mosaic_scale: tuple[float, float] = (0.1, 2.0)  # zoom of the affine
    degrees: float = 10.0
    translate: float = 0.2  # of the side, both ways
    shear: float = 2.0
    keep_ratio: bool = False  # of the four images; false stretches each to a square
    mixup_prob: float = 0.15  # only drawn where the mosaic has a box
    mixup_scale: tuple[float, float] = (0.5, 1.5)
    flip_prob: float = 0.5
    single_prob: float = 0.0  # an affine, too, of an image without mosaic (the last, plain epochs have only such ones)
    single_scale: tuple[float, float] = (0.5, 1.5)  # its zoom; angle, shear and translation are those above
    hue: float = 0.0  # largest shift in turns of the colour circle
    saturation: float = 0.0  # largest change as a part of it; likewise
    brightness: float = 0.0
    box_prob: float = 0.3  # SADA: share of the boxes that an operation takes, before its weight by size; 0 turns it off

    def __post_init__(self) -> None:
        for name in _SHARES:
            require_range(name, getattr(self, name), 0, 1)
        require_range("degrees", self.degrees, 0, 180)
        require_range("shear", self.shear, 0, 60)
        require_range("mosaic_size", self.mosaic_size, 32, 8192)
        for name in ("mosaic_scale", "mixup_scale", "single_scale"):
            low, high = getattr(self, name)
            if not 0.01 <= low <= high <= 10:
                raise MaenasError(f"{name} is {low:g}, {high:g}; it must be a low and a high end in 0.01 to 10")


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise `MaenasError` where the setting `name` is outside of `low` to `high`."""
    if not low <= value <= high:
        raise MaenasError(f"{name} is {value:g}; it must be {low:g} to {high:g}")
