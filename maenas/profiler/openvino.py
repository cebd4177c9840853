"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from maenas.choices import Clock, CpuArithmetic
from maenas.deploy.openvino import compile_model, import_openvino, library, read_model, reason
from maenas.deploy.program import Program
from maenas.errors import MaenasError
from maenas.latency.device import Precision
from maenas.latency.find import processor
from maenas.profiler.cpu import CLOCKS, cpu_conditions, require_clock


class OpenVino:
    """Compiled models of one process, one image or batch after another; int8 by explicit quantisation of fp32."""

    merges = False

    def __init__(self, *, threads: int = 1, clock: Clock = "wall") -> None:
        require_clock(clock, threads=threads)
        self._ov = import_openvino()
        self.threads = threads
        self.clock: Clock = clock

    @property
    def runtime(self) -> str:
        return library(self._ov)

    @property
    def device_name(self) -> str:
        return processor()

    @property
    def gpu(self) -> str | None:
        return None

    @property
    def conditions(self) -> dict[str, str]:
        return cpu_conditions(self.clock, threads=self.threads)

    def build(self, program: Program, *, precision: Precision, batch: int) -> OvRunner:
        """bf16 is a file in fp32, computed so. Raises `MaenasError` for fp16, in which no CPU calculates here, and for
        what OpenVINO does not take."""
        from maenas.deploy.onnx_writer import write_onnx
        from maenas.deploy.quantize import quantize

        if precision == "fp16":
            raise MaenasError("OpenVINO computes fp16 files in fp32 on a CPU; choose fp32, bf16 or int8")
        model = write_onnx(program, batch=batch)
        if precision == "int8":
            model = quantize(model, form="cpu")
        return self.build_model(model.SerializeToString(), "bf16" if precision == "bf16" else "fp32")

    def build_model(self, model: bytes, arithmetic: CpuArithmetic = "fp32") -> OvRunner:
        """A runner of a serialised ONNX model with static shapes; inputs are random."""
        where = "a model to be timed"
        read = read_model(self._ov, model, where=where)
        compiled = compile_model(self._ov, read, threads=self.threads, where=where, arithmetic=arithmetic)
        return OvRunner(self._ov, compiled, CLOCKS[self.clock])


class OvRunner:
    """A compiled model with its inputs in place; the outputs stay where OpenVINO puts them."""

    def __init__(self, ov: Any, compiled: Any, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._request: Any = compiled.create_infer_request()
        rng = np.random.default_rng(0)
        for port in compiled.inputs:
            image = rng.random(tuple(port.shape), dtype=np.float32).astype(port.element_type.to_dtype())
            self._request.set_tensor(port, ov.Tensor(image))
        self._ports = compiled.outputs

    def run(self) -> None:
        try:
            self._request.infer()
        except RuntimeError as error:
            raise MaenasError(f"OpenVINO cannot run a model: {reason(error)}") from None

    def time_once(self) -> float:
        begin = self._clock()
        self.run()
        return self._clock() - begin

    def outputs(self) -> list[np.ndarray]:
        """Results of the last run."""
        return [self._request.get_tensor(port).data.copy() for port in self._ports]

    def close(self) -> None:
        self._request = None
