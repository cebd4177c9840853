"""TensorRT 10.12 and later, and 11: strongly typed engines, timed as one CUDA graph with CUDA events.

Precision lies in the ONNX file (TensorRT 11 knows no other way), and what the engine made of it is asserted from its
inspector. Engines use no auxiliary streams, so that the times of their parts add up.

The environment variable MAENAS_TRT chooses the module: "tensorrt", or "tensorrt_rtx" (TensorRT for RTX), which builds
the same files without a GPU but chooses kernels by other rules: its name stands in `runtime`, and its times are not
TensorRT's.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maenas.deploy.engine_types import check_types
from maenas.deploy.program import Program
from maenas.deploy.session import TF32
from maenas.errors import MaenasError
from maenas.files import write_atomic
from maenas.latency.device import Precision

if TYPE_CHECKING:
    import onnx

MODULES = ("tensorrt", "tensorrt_rtx")
OLDEST = (10, 12)  # before it, a strongly typed network knew fewer operators
WORKSPACE_BYTES = 2 << 30


class EngineBuilder:
    """Programs and ONNX models to engines; needs no GPU with `tensorrt_rtx`.

    `opt_level` is the builder's, 0 to 5; `timing_cache` is a file, made if missing. Layers that one build has timed are
    not timed again by the next: what surrounds a kernel in its probe is the same in thousands of engines.
    """

    def __init__(
        self, *, opt_level: int = 3, timing_cache: Path | None = None, workspace_bytes: int = WORKSPACE_BYTES
    ) -> None:
        if not 0 <= opt_level <= 5:
            raise MaenasError(f"the builder's optimisation level is {opt_level}; it must be 0 to 5")
        self.trt = _import_tensorrt()
        self._log = _log(self.trt)
        self._opt_level, self._timing_cache, self._workspace_bytes = opt_level, timing_cache, workspace_bytes
        self._timings = timing_cache.read_bytes() if timing_cache is not None and timing_cache.exists() else b""
        self._builder = self._make(self.trt.Builder)

    @property
    def runtime(self) -> str:
        """Module and version."""
        return f"{self.trt.__name__} {self.trt.__version__}"

    @property
    def conditions(self) -> dict[str, str]:
        return {
            "opt_level": str(self._opt_level),
            "aux_streams": "0",
            "tf32": str(TF32),
            "workspace": f"{self._workspace_bytes >> 20} MiB",
            "typing": "strong; int8 by explicit quantisation of convolutions",
        }

    def _make(self, kind: Callable[[Any], Any]) -> Any:
        """A builder or a runtime. Raises `MaenasError` where there is no GPU that it can use."""
        try:
            return kind(self._log)
        except TypeError:  # what the bindings make of a null pointer
            default = "is there one, and is its driver new enough for the CUDA of this TensorRT?"
            raise self._failure("finds no GPU that it can use", default) from None

    def parse(self, model: bytes) -> Any:
        """The strongly typed network of an ONNX model. Raises `MaenasError`."""
        trt = self.trt
        network = self._builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(model):
            if parser.num_errors:
                self._log.errors.append(parser.get_error(0).desc())
            raise self._failure("cannot read a model")
        return network

    def build_model(self, model: bytes) -> bytes:
        """A serialised engine of an ONNX model. Raises `MaenasError`."""
        trt = self.trt
        network = self.parse(model)
        config = self._builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._workspace_bytes)
        config.builder_optimization_level = self._opt_level
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.max_aux_streams = 0
        (config.set_flag if TF32 else config.clear_flag)(trt.BuilderFlag.TF32)
        if trt.__name__ == "tensorrt":
            _set_timings(config, self._timings)
        elif hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # for RTX: it has no tactics to time, and without
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # this, what it launches cannot be captured
        plan = self._builder.build_serialized_network(network, config)
        if plan is None:
            raise self._failure("cannot build a model")
        if trt.__name__ == "tensorrt" and (timings := config.get_timing_cache()) is not None:
            self._timings = bytes(timings.serialize())
            if self._timing_cache is not None:
                write_atomic(self._timing_cache, self._timings)
        return bytes(plan)

    def check_model(self, model: bytes, precision: Precision) -> None:
        """Raise `MaenasError` unless the convolutions of an ONNX model are parsed in `precision`."""
        trt = self.trt
        network = self.parse(model)
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        makers = {layer.get_output(number).name: layer for layer in layers for number in range(layer.num_outputs)}
        names = {trt.DataType.FLOAT: "fp32", trt.DataType.HALF: "fp16", trt.DataType.INT8: "int8"}
        types: dict[str | None, str] = {}
        for layer in layers:
            if layer.type == trt.LayerType.CONVOLUTION:
                source = layer.get_input(0)
                maker = makers.get(source.name)
                if maker is not None and maker.type == trt.LayerType.DEQUANTIZE:
                    source = maker.get_input(0)
                types.setdefault(names.get(source.dtype, str(source.dtype)), layer.name)
        check_types(types, precision, runtime=self.runtime)

    def load(self, plan: bytes) -> Any:
        """The engine of a plan, which needs a GPU. Raises `MaenasError`."""
        engine = self._make(self.trt.Runtime).deserialize_cuda_engine(plan)
        if engine is None:
            raise self._failure("cannot load its own engine")
        return engine

    def context(self, engine: Any) -> Any:
        """Where an engine runs. Raises `MaenasError` where the GPU has no memory left for it."""
        context = engine.create_execution_context()
        if context is None:
            raise self._failure("cannot run its own engine")
        return context

    def describe(self, engine: Any) -> Any:
        """What the inspector says about an engine, parsed."""
        inspector = engine.create_engine_inspector()
        return json.loads(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    def _failure(self, what: str, default: str = "no reason given") -> MaenasError:
        said = self._log.errors[-1] if self._log.errors else default
        self._log.errors.clear()
        return MaenasError(f"{self.runtime} {what}: {said.strip():.300}")


def _set_timings(config: Any, stored: bytes) -> None:
    """Give a builder the timings of earlier builds, or none where these are of another version or GPU, or damaged."""
    timings = config.create_timing_cache(stored)
    if timings is None or not config.set_timing_cache(timings, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def typed_model(program: Program, *, precision: Precision, batch: int) -> onnx.ModelProto:
    """The ONNX model of a program with the precision in it: int8 is fp16 with quantised convolutions."""
    from maenas.deploy.onnx_writer import write_onnx
    from maenas.deploy.quantize import quantize

    model = write_onnx(program, precision="fp16" if precision == "int8" else precision, batch=batch)
    return quantize(model) if precision == "int8" else model


def _import_tensorrt() -> Any:
    name = os.environ.get("MAENAS_TRT", MODULES[0])
    if name not in MODULES:
        raise MaenasError(f"MAENAS_TRT is {name!r}; choose {', '.join(MODULES)}")
    wheels = {"tensorrt": "'tensorrt-cu13>=10.13,<12'", "tensorrt_rtx": "tensorrt-rtx-cu13"}
    try:
        import onnx  # noqa: F401

        trt = importlib.import_module(name)
    except ModuleNotFoundError as error:
        wheel = wheels[name] if error.name == name else error.name
        raise MaenasError(f"TensorRT needs the package {error.name}: pip install {wheel}") from None
    except ImportError as error:
        raise MaenasError(f"{name} is installed, but its libraries do not load: {error}") from None
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if name == "tensorrt" and version < OLDEST:
        raise MaenasError(f"tensorrt {trt.__version__} is too old; install {'.'.join(map(str, OLDEST))} or newer")
    return trt


def _log(trt: Any) -> Any:
    """A logger that keeps what went wrong and prints nothing."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()
