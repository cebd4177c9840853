"""TensorRT engines timed as one CUDA graph with CUDA events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maenas.deploy.engine import EngineBuilder, typed_model
from maenas.deploy.engine_types import check_precision, convolution_names, refuse_merged
from maenas.deploy.gpu_state import gpu_limits
from maenas.deploy.program import Program
from maenas.errors import MaenasError
from maenas.latency.device import Precision
from maenas.profiler.torch_cuda import GraphRunner, cuda_torch


class TensorRt:
    """The current CUDA device. `opt_level` is the builder's, 0 to 5; `timing_cache` is a file, made if missing."""

    def __init__(self, *, opt_level: int = 3, timing_cache: Path | None = None) -> None:
        self._builder = EngineBuilder(opt_level=opt_level, timing_cache=timing_cache)
        self._torch = cuda_torch()

    merges = True

    @property
    def runtime(self) -> str:
        return self._builder.runtime

    @property
    def device_name(self) -> str:
        return self._torch.cuda.get_device_name()

    @property
    def gpu(self) -> str | None:
        return str(self._torch.cuda.get_device_properties().uuid)

    @property
    def conditions(self) -> dict[str, str]:
        return {
            **self._builder.conditions,
            "copies": "each with an input of its own",
            "cuda": str(self._torch.version.cuda),
            **gpu_limits(self.gpu),
        }

    def build(self, program: Program, *, precision: Precision, batch: int) -> GraphRunner:
        """Raises `MaenasError` where TensorRT cannot build or load the engine, or chose another precision."""
        model = typed_model(program, precision=precision, batch=batch)
        engine = self._builder.load(self._builder.build_model(model.SerializeToString()))
        said = self._builder.describe(engine)
        refuse_merged(said, runtime=self.runtime)
        if convolutions := convolution_names(model):
            check_precision(said, precision, runtime=self.runtime, convolutions=convolutions)
        try:
            execution = _Execution(self._builder, self._torch, engine)
        except self._torch.OutOfMemoryError as error:
            raise MaenasError(f"CUDA cannot hold a network: {str(error).splitlines()[0]}") from None
        return GraphRunner(self._torch, execution)


class _Execution:
    """An engine with its tensors; calling it enqueues one run on the current stream."""

    def __init__(self, builder: EngineBuilder, torch: Any, engine: Any) -> None:
        trt = builder.trt
        dtypes = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}
        self._torch, self._engine = torch, engine
        self._context = builder.context(engine)
        self._tensors = []  # the engine knows addresses only
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape, dtype = tuple(engine.get_tensor_shape(name)), dtypes[engine.get_tensor_dtype(name)]
            self._tensors.append(torch.rand(shape, device="cuda").to(dtype))
            self._context.set_tensor_address(name, self._tensors[-1].data_ptr())

    def __call__(self) -> list[Any]:
        if not self._context.execute_async_v3(self._torch.cuda.current_stream().cuda_stream):
            raise MaenasError("TensorRT refused to run an engine that it built")
        return self._tensors
