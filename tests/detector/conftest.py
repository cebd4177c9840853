"""Golden arrays, which are too large for the repository, and the tensors that the golden networks are filled with."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

SHARED_GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"

GoldenArrays = Callable[[str], dict[str, np.ndarray]]
GoldenTensor = Callable[[str, tuple[int, ...], float], Tensor]


@pytest.fixture(scope="session")
def golden_arrays() -> GoldenArrays:
    """The arrays of an .npz file of golden numbers, by its name; skips where that folder is not at hand."""
    if not SHARED_GOLDEN.is_dir():
        pytest.skip(f"the golden numbers are not here ({SHARED_GOLDEN})")

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(SHARED_GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def golden_tensor() -> GoldenTensor:
    """A weight of the golden networks: a normal draw that its released name seeds, scaled by its kind and the gain."""

    def draw(name: str, shape: tuple[int, ...], gain: float) -> Tensor:
        z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        leaf = name.rpartition(".")[2]
        if leaf == "running_var":
            value = 1 + 0.1 * np.abs(z)
        elif leaf in ("running_mean", "bias"):
            value = 0.1 * z
        elif len(shape) < 2:
            value = 1 + 0.1 * z
        else:
            value = z * np.sqrt((2.0 if ".gfl_" in name else gain) / np.prod(shape[1:]))
        return torch.from_numpy(np.asarray(value, dtype=np.float32))

    return draw
