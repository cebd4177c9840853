"""Memory that is used for one image after the other: fresh memory from the system costs more time than the warps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


class Buffer:
    """Memory for one array at a time; it grows to the largest that was asked for."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def array(self, *shape: int) -> np.ndarray:
        """A uint8 array of this shape with anything in it; the array given before is no longer to be used."""
        size = math.prod(shape)
        if len(self._bytes) < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size].reshape(shape)


@dataclass(frozen=True)
class Scratch:
    """What the painting of a training image needs; one for each process."""

    canvas: Buffer = field(default_factory=Buffer)
    second: Buffer = field(default_factory=Buffer)  # of a mixup
    patch: Buffer = field(default_factory=Buffer)  # part of an image that is warped
    warped: Buffer = field(default_factory=Buffer)
    mask: Buffer = field(default_factory=Buffer)
