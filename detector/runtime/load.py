"""Any file of a detector to the runtime that it is for.

runtime = load_runtime("damo-yolo-t.onnx", device="cpu")
scores, boxes = runtime.network(images)
"""

from __future__ import annotations

from pathlib import Path

import torch

from detector.choices import RuntimeName
from detector.device import choose_device
from detector.model.deploy import deploy
from detector.model.net import DetectorNet
from detector.model.weights import load_net
from detector.runtime.interface import Runtime
from maenas.deploy.graphed import GraphedNetwork
from maenas.errors import MaenasError
from maenas.run_files import weights_hint, weights_path


def load_runtime(
    path: str | Path, device: str = "auto", *, threads: int | None = None, runtime: RuntimeName | None = None
) -> Runtime:
    """From weights (.safetensors), the folder of a training run, an ONNX file of `maenas export`, or an engine.

    `device` as for `choose_device`, `auto` among those that the library has, too; `threads` are those of ONNX Runtime
    and OpenVINO on the CPU (PyTorch's belong to the process), None for as many as there are cores. `runtime` chooses
    the library, and for OpenVINO whether it computes in bf16; None: PyTorch for weights, ONNX Runtime for ONNX files.
    Raises `MaenasError` for a file that cannot be used, or not by that library, a missing package, and a device that is
    not there.
    """
    path = weights_path(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        net, weights = load_net(path)
        return net_runtime(net, weights.names, device, threads=threads, runtime=runtime, where=str(path))
    if suffix == ".onnx":
        from detector.runtime.exported import read_file

        where = f"ONNX file {path}"
        if runtime == "torch":
            raise MaenasError(f"{where}: runs in onnxruntime or openvino, not in torch; give the weights to run there")
        return model_runtime(read_file(path, where), device, threads=threads, runtime=runtime, where=where)
    if suffix == ".engine":
        if runtime is not None:
            raise MaenasError(f"engine {path}: runs in TensorRT only, not in {runtime}; leave --runtime out")
        from detector.runtime.tensorrt import load_engine

        return load_engine(path, device)
    raise MaenasError(f"{path}: a detector is a file .safetensors, .onnx or .engine{weights_hint(path)}")


def torch_runtime(net: DetectorNet, names: tuple[str, ...], device: torch.device) -> Runtime:
    """The deployed form of a `DetectorNet` in PyTorch, channels-last; on CUDA as captured graphs."""
    network = GraphedNetwork(torch, deploy(net).to(device).to(memory_format=torch.channels_last))
    library = "torch-cudagraph" if device.type == "cuda" else "torch"  # as tables call it
    return Runtime(network, net.spec, names, device, f"{library} {torch.__version__}", "fp32", None, None)


def net_runtime(
    net: DetectorNet,
    names: tuple[str, ...],
    device: str,
    *,
    threads: int | None,
    runtime: RuntimeName | None,
    where: str,
) -> Runtime:
    """A `DetectorNet` in any library, None for PyTorch; others run its export, which is made in memory."""
    if runtime in (None, "torch"):
        return torch_runtime(net, names, choose_device(device))
    from detector.export.onnx import ExportSettings, to_onnx

    model = to_onnx(deploy(net), names, ExportSettings(batch=None))
    return model_runtime(model.SerializeToString(), device, threads=threads, runtime=runtime, where=where)


def model_runtime(
    model: bytes, device: str, *, threads: int | None, runtime: RuntimeName | None, where: str
) -> Runtime:
    """An ONNX model of `maenas export` in OpenVINO or, without a choice, in ONNX Runtime."""
    if runtime in ("openvino", "openvino-bf16"):
        from detector.runtime.openvino import openvino_runtime

        arithmetic = "bf16" if runtime == "openvino-bf16" else "fp32"
        return openvino_runtime(model, device, threads=threads, where=where, arithmetic=arithmetic)
    from detector.runtime.onnx import onnx_runtime

    return onnx_runtime(model, device, threads=threads, where=where)
