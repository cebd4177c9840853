"""What a search space is made of: the choices of its stem and of a stage, and what bounds the depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from maenas.errors import MaenasError
from maenas.spec import CHANNEL_MULTIPLE, MAX_CHANNELS, MAX_DEPTH
from maenas.strict import STRICT

MAX_CHOICES = 1024


def require(condition: bool, message: str) -> None:
    """Raise `MaenasError` with `message` unless the condition holds."""
    if not condition:
        raise MaenasError(message)


@dataclass(frozen=True)
class Range:
    """`min`, `min + step`, ... up to `max`."""

    __pydantic_config__: ClassVar = STRICT
    min: int
    max: int
    step: int = CHANNEL_MULTIPLE

    def __post_init__(self) -> None:
        require(
            0 < self.min <= self.max <= MAX_CHANNELS,
            f"min {self.min}, max {self.max}: not 0 < min <= max <= {MAX_CHANNELS}",
        )
        require(
            self.step > 0 and (self.max - self.min) % self.step == 0,
            f"step {self.step} does not lead from {self.min} to {self.max}",
        )
        require(len(self.values) <= MAX_CHOICES, f"{len(self.values)} choices; at most {MAX_CHOICES}")

    @property
    def values(self) -> range:
        return range(self.min, self.max + 1, self.step)


@dataclass(frozen=True)
class StemSpace:
    """Choices of the stem."""

    __pydantic_config__: ClassVar = STRICT
    kind: Literal["focus", "conv"]
    width: Range
    kernel: int = 3


@dataclass(frozen=True)
class StageSpace:
    """Choices of one stage."""

    __pydantic_config__: ClassVar = STRICT
    stride: int
    width: Range
    bottleneck: Range
    max_depth: int
    kernels: tuple[int, ...] = (3,)
    min_depth: int = 1

    def __post_init__(self) -> None:
        require(
            1 <= self.min_depth <= self.max_depth <= MAX_DEPTH,
            f"depth {self.min_depth} to {self.max_depth} is not within 1 to {MAX_DEPTH}",
        )
        require(self.stride in (1, 2), f"stride is {self.stride}; it must be 1 or 2")
        require(
            len(self.kernels) > 0 and tuple(sorted(set(self.kernels))) == self.kernels,
            f"kernels {list(self.kernels)} must be given, rising",
        )


@dataclass(frozen=True)
class DepthBound:
    """What keeps an optimiser from buying score with depth alone; see docs/concepts.md.

    `max_layers` counts convolutions on the main path; "published" follows the budget: as many as the published
    detectors spend at that cost, and then also limits each stage. `max_effectiveness` is DeepMAD's rho.
    """

    __pydantic_config__: ClassVar = STRICT
    max_layers: int | Literal["published"] | None = None
    max_effectiveness: float | None = None

    def __post_init__(self) -> None:
        require(
            self.max_layers is not None or self.max_effectiveness is not None,
            "give max_layers or max_effectiveness: the score alone rewards depth without limit",
        )
        require(
            not isinstance(self.max_layers, int) or self.max_layers > 0,
            f"max_layers is {self.max_layers}; it must be positive",
        )
        require(
            self.max_effectiveness is None or self.max_effectiveness > 0,
            f"max_effectiveness is {self.max_effectiveness}; it must be positive",
        )
