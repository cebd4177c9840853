"""One interface over what runs a detector: PyTorch, ONNX Runtime and TensorRT.

runtime = load_runtime("damo-yolo-t.onnx", device="cpu")
scores, boxes = runtime.network(images)

A file says which detector it is; images and outputs are the same whatever runs it, so that everything before and after
the network is shared (`detector.predict`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.export.metadata import NmsSettings, Precision
from detector.model.deploy import deploy
from detector.model.weights import load_net
from maenas.errors import MaenasError
from maenas.spec import DetectorSpec

Network = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Runtime:
    """A network that is ready to run, and what there is to know about it.

    `network` takes float32 `[B, 3, H, W]` on `device`, as `spec.input` says, for any B, and returns scores `[B, A, C]`
    and boxes `[B, A, 4]`, xyxy in pixels of the input. With suppression in the file (`nms`), A is the most detections
    of an image, each has one score that is not 0, and what was suppressed has none. `batch` is the file's own, None
    where any will do; others are cut into parts or filled up to it.
    """

    network: Network
    spec: DetectorSpec
    names: tuple[str, ...]
    device: torch.device
    library: str  # name and version, for example "onnxruntime-cpu 1.32.0"
    precision: Precision
    nms: NmsSettings | None
    batch: int | None


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
        from detector.runtime_onnx import load_onnx

        return load_onnx(path, device, threads=threads)
    if suffix == ".engine":
        from detector.runtime_tensorrt import load_engine

        return load_engine(path, device)
    raise MaenasError(
        f"{path}: a detector is a file .safetensors, .onnx or .engine (`maenas weights convert` reads a released .pth)"
    )


def choose_device(name: str) -> torch.device:
    """The device called `name`, "auto" being CUDA where there is one; raises `MaenasError` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MaenasError(f"unknown device {name!r}; choose auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise MaenasError(f"device {name!r} is not supported; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MaenasError(f"device {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def torch_runtime(net: Any, names: tuple[str, ...], device: torch.device) -> Runtime:
    """The deployed form of a `DetectorNet` in PyTorch, channels-last."""
    network = deploy(net).to(device).to(memory_format=torch.channels_last)
    return Runtime(network, net.spec, names, device, f"torch {torch.__version__}", "fp32", None, None)


def _load_weights(path: str | Path, device: str) -> Runtime:
    place = choose_device(device)
    net, weights = load_net(path)
    return torch_runtime(net, weights.names, place)


def in_batches(run: Callable[[Tensor], dict[str, Tensor]], images: Tensor, batch: int | None) -> dict[str, Tensor]:
    """Outputs of `run` for any number of images, where it takes exactly `batch` of them (None: any number)."""
    if batch is None or len(images) == batch:
        return run(images)
    parts = []
    for part in images.split(batch):
        missing = batch - len(part)
        filled = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
        parts.append({name: value[: len(part)] for name, value in run(filled).items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def scores_and_boxes(outputs: dict[str, Tensor], num_classes: int) -> tuple[Tensor, Tensor]:
    """Scores `[B, A, C]` and boxes `[B, A, 4]`, float32, of the outputs of an exported model.

    Where suppression is in it, every detection becomes a row whose score stands under its label.
    """
    scores, boxes = outputs["scores"].float(), outputs["boxes"].float()
    if "num" not in outputs:
        return scores.transpose(1, 2), boxes.transpose(1, 2)
    rows = scores.new_zeros(*scores.shape, num_classes)  # [B, M, C]
    labels = outputs["labels"].long().clamp(0, num_classes - 1)  # of a file that was changed they may be any
    return rows.scatter_(2, labels[:, :, None], scores[:, :, None]), boxes
