"""What a small network gains in a loop of its own, where it stays in the processor's caches from image to image.

A table's rows are of kernels whose weights, code and descriptors other kernels have driven out of the caches: as they
are in a network that is larger than these, and in one that shares its processor with other work. A small one that runs
again and again finds them where the last image left them, and each of its kernels is sooner done:

    saved = warmth * min(start + weights * byte_s, MOST_SAVED * seconds)
    warmth = 1 up to WARM_SHARE * cache, 0 from COLD_SHARE * cache on, linear in footprint between

`footprint` is the bytes of the network's weights and of its largest kernel's input and output, `cache` those of the
last level. `start` and `byte_s` are measured with the table (`maenas/profiler/caches.py`); the shares were chosen
on networks of others (docs/lab/latency.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from maenas.cost import kernel_activations, kernel_params, right_operand
from maenas.errors import MaenasError
from maenas.kernels import PRODUCTS, Kernel
from maenas.strict import STRICT

MOST_SAVED = 0.75  # of a kernel's time
WARM_SHARE, COLD_SHARE = 0.125, 0.5  # of the last level: what a network may fill and stay whole, and not stay at all


@dataclass(frozen=True)
class Caches:
    """Of a CPU, as one runtime feels them: bytes of the last level; seconds that a product (a convolution, a product of
    matrices) and any other kernel take longer from memory than from the caches, and those for each byte of weights."""

    __pydantic_config__: ClassVar = STRICT
    bytes: int
    product_s: float
    other_s: float
    byte_s: float

    def __post_init__(self) -> None:
        if not 0 < self.bytes < 1 << 40:
            raise MaenasError(f"caches: {self.bytes} bytes are out of range")
        for name in ("product_s", "other_s", "byte_s"):
            if not 0 <= getattr(self, name) < 1:
                raise MaenasError(f"caches: {name} is {getattr(self, name):g}; it must be from 0 to 1")

    def warmth(self, footprint: float) -> float:
        """How much of what could be saved a network of so many bytes saves: 0 to 1."""
        share = footprint / self.bytes
        return min(1.0, max(0.0, (COLD_SHARE - share) / (COLD_SHARE - WARM_SHARE)))

    def saved(self, kernel: Kernel, seconds: float, *, element_bytes: int) -> float:
        """Seconds that a scalar `kernel`, of so many by the table, saves where the network stays in the caches."""
        cold = self.other_s
        if kernel.op in PRODUCTS:
            cold = self.product_s + self.byte_s * element_bytes * int(right_operand(kernel))
        return min(cold, MOST_SAVED * seconds)

    def saved_by(self, kernels: Sequence[Kernel], seconds: Sequence[float], *, element_bytes: int, batch: int) -> float:
        """Seconds that a network of scalar kernels saves, each of so many by the table."""
        warmth = self.warmth(footprint(kernels, element_bytes=element_bytes, batch=batch))
        if not warmth:
            return 0.0
        rows = zip(kernels, seconds, strict=True)
        return warmth * math.fsum(self.saved(kernel, value, element_bytes=element_bytes) for kernel, value in rows)


def footprint(kernels: Sequence[Kernel], *, element_bytes: int, batch: int) -> float:
    """Bytes that a network of scalar kernels goes through for an image: weights, and the most that a kernel holds."""
    weights = sum(int(kernel_params(kernel)) for kernel in kernels)
    most = max(
        int(kernel.in_channels) * kernel.in_height * kernel.in_width + int(kernel_activations(kernel))
        for kernel in kernels
    )
    return element_bytes * (weights + batch * most)
