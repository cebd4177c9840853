"""Any file of a detector to the runtime that it is for.

runtime = load_runtime("damo-yolo-t.onnx", device="cpu")
scores, boxes = runtime.network(images)
"""

from __future__ import annotations

from pathlib import Path

import torch

from detector.device import choose_device
from detector.model.deploy import deploy
from detector.model.net import DetectorNet
from detector.model.weights import load_net
from detector.runtime.interface import Runtime
from maenas.errors import MaenasError

WEIGHTS = "weights.safetensors"  # in the folder of a training run


def load_runtime(path: str | Path, device: str = "auto", *, threads: int | None = None) -> Runtime:
    """From weights (.safetensors), the folder of a training run, an ONNX file of `maenas export`, or an engine.

    `device` as for `choose_device`, `auto` among those that the library has, too; `threads` are
    those of ONNX Runtime on the CPU (PyTorch's belong to the process), None for as many as there are cores.
    Raises `MaenasError` for a file that cannot be used, a missing package, and a device that is not there.
    """
    path = weights_path(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _load_weights(path, device)
    if suffix == ".onnx":
        from detector.runtime.onnx import load_onnx

        return load_onnx(path, device, threads=threads)
    if suffix == ".engine":
        from detector.runtime.tensorrt import load_engine

        return load_engine(path, device)
    raise MaenasError(
        f"{path}: a detector is a file .safetensors, .onnx or .engine (`maenas weights convert` reads a released .pth)"
    )


def weights_path(path: str | Path) -> Path:
    """`path`, or the weights in it where it is the folder of a training run; raises `MaenasError` if it has none."""
    path = Path(path)
    if not path.is_dir():
        return path
    inside = path / WEIGHTS
    if not inside.is_file():
        raise MaenasError(f"{path}: there is no {WEIGHTS} in this folder; name the folder of a training run, or a file")
    return inside


def torch_runtime(net: DetectorNet, names: tuple[str, ...], device: torch.device) -> Runtime:
    """The deployed form of a `DetectorNet` in PyTorch, channels-last."""
    network = deploy(net).to(device).to(memory_format=torch.channels_last)
    return Runtime(network, net.spec, names, device, f"torch {torch.__version__}", "fp32", None, None)


def _load_weights(path: str | Path, device: str) -> Runtime:
    place = choose_device(device)
    net, weights = load_net(path)
    return torch_runtime(net, weights.names, place)
