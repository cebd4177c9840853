"""Any file of a detector to the runtime that it is for.

runtime = load_runtime("damo-yolo-t.onnx", device="cpu")
scores, boxes = runtime.network(images)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from detector.device import choose_device
from detector.model.deploy import deploy
from detector.model.weights import load_net
from detector.runtime.interface import Runtime
from maenas.errors import MaenasError


def load_runtime(path: str | Path, device: str = "auto", *, threads: int | None = None) -> Runtime:
    """From weights (.safetensors), an ONNX file that `maenas export` wrote, or an engine.

    `device` is "auto" (CUDA where the library and the machine have it), "cpu", "cuda", "cuda:1" ...; `threads` are
    those of ONNX Runtime on the CPU (PyTorch's belong to the process), None for as many as there are cores.
    Raises `MaenasError` for a file that cannot be used, a missing package, and a device that is not there.
    """
    suffix = Path(path).suffix.lower()
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


def torch_runtime(net: Any, names: tuple[str, ...], device: torch.device) -> Runtime:
    """The deployed form of a `DetectorNet` in PyTorch, channels-last."""
    network = deploy(net).to(device).to(memory_format=torch.channels_last)
    return Runtime(network, net.spec, names, device, f"torch {torch.__version__}", "fp32", None, None)


def _load_weights(path: str | Path, device: str) -> Runtime:
    place = choose_device(device)
    net, weights = load_net(path)
    return torch_runtime(net, weights.names, place)
