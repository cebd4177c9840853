"""The backend of a runtime by its name, and the one that a stored table was measured with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maenas.errors import MaenasError
from maenas.profiler.cpu import clock_called

if TYPE_CHECKING:
    from maenas.choices import Clock, Hardware, KernelRuntime
    from maenas.latency.measured import MeasuredTable
    from maenas.profiler.backend import Backend


def make_backend(
    device: Hardware,
    runtime: KernelRuntime,
    *,
    threads: int = 1,
    clock: Clock = "wall",
    opt_level: int = 3,
    timing_cache: Path | None = None,
) -> Backend:
    """The backend that measures `device` with `runtime`.

    `threads` and `clock` are for the CPU, `opt_level` (0 to 5) and `timing_cache` for TensorRT. Raises `MaenasError`
    where the runtime is not for the device, or is not installed.
    """
    if runtime == "onnxruntime":
        from maenas.profiler.onnxruntime import OnnxRuntime

        return OnnxRuntime(device, threads=threads, clock=clock)
    if (runtime == "openvino") != (device == "cpu"):
        raise MaenasError(
            f"--runtime is {runtime!r} on {device}; choose onnxruntime or openvino on cpu, onnxruntime, torch or "
            "tensorrt on cuda"
        )
    if runtime == "openvino":
        from maenas.profiler.openvino import OpenVino

        return OpenVino(threads=threads, clock=clock)
    if runtime == "tensorrt":
        from maenas.profiler.tensorrt import TensorRt

        return TensorRt(opt_level=opt_level, timing_cache=timing_cache)
    from maenas.profiler.torch_cuda import TorchCuda

    return TorchCuda()


def backend_of_table(table: MeasuredTable) -> Backend:
    """The backend that measured `table`, set up as it was then. Raises `MaenasError` where it is not installed."""
    conditions = table.conditions
    if "-cpu " in table.runtime:
        runtime = "openvino" if table.runtime.startswith("openvino") else "onnxruntime"
        clock, threads = clock_called(conditions.get("clock")), int(conditions.get("threads", "1"))
        return make_backend("cpu", runtime, threads=threads, clock=clock)
    if table.runtime.startswith("onnxruntime"):
        return make_backend("cuda", "onnxruntime")
    if table.runtime.startswith("tensorrt"):
        return make_backend("cuda", "tensorrt", opt_level=int(conditions.get("opt_level", "3")))
    return make_backend("cuda", "torch")
