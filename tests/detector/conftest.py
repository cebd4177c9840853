"""Golden arrays, too large for the repository, what the golden networks are filled with, and networks that detect."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from detector import train as trainer
from detector.model.net import DetectorNet
from maenas.spec import BackboneSpec, DetectorSpec, HeadSpec, InputSpec, NeckSpec, StageSpec, StemSpec
from tests.conftest import golden_file

# A detector that trains in seconds.
TINY_STAGES = tuple(StageSpec("k1kx", a, b, 16, 3, 2, 1) for a, b in ((8, 8), (8, 16), (16, 16), (16, 16)))
TINY = DetectorSpec(
    InputSpec(64, 64),
    BackboneSpec(StemSpec("focus", 8), TINY_STAGES, "relu", (2, 3, 4)),
    NeckSpec((16, 16, 16), 1, 1.0, "basic", "relu"),
    HeadSpec(4, 7, 3),
)

GoldenArrays = Callable[[str], dict[str, np.ndarray]]
GoldenTensor = Callable[[str, tuple[int, ...], float], Tensor]
Lively = Callable[[DetectorSpec], DetectorNet]


@contextmanager
def quick_training() -> Iterator[None]:
    """One thread, so that sums are bit-identical, and no plots at the ends of runs, which take longer than the runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "curves_plot", lambda out: b"")
        patch.setattr(trainer, "label_plot", lambda data: b"")
        patch.setattr(trainer, "write_report", lambda *_: None)
        yield
    torch.set_num_threads(before)


@pytest.fixture
def quick() -> Iterator[None]:
    """As `quick_training` says."""
    with quick_training():
        yield


@pytest.fixture(scope="session")
def golden_arrays() -> GoldenArrays:
    """The arrays of an .npz file of golden numbers, by its name; skips where that file is not at hand."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(golden_file(f"{name}.npz")) as arrays:
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


@pytest.fixture(scope="session")
def lively() -> Lively:
    """Networks whose random weights give scores all over 0..1 and boxes of all shapes."""

    def make(spec: DetectorSpec) -> DetectorNet:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            net = DetectorNet(spec).eval()
            for module in net.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_var.fill_(0.3)
            features = net.features(torch.rand(1, 3, spec.input.height, spec.input.width) * 255)
            for level, feature in enumerate(features):
                for kind, spread in (("cls", 2.0), ("reg", 2.0)):
                    convolution = getattr(net.head, f"{kind}{level}")
                    fan_in = convolution.weight[0].numel()
                    convolution.weight.normal_(std=spread / (fan_in**0.5 * feature.square().mean().sqrt().item()))
                getattr(net.head, f"cls{level}").bias.fill_(-3.0)
                getattr(net.head, f"scale{level}").fill_(0.8)
        return net

    return make
