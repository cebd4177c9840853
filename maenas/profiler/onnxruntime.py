"""ONNX Runtime on the CPU or, where onnxruntime-gpu is installed, on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from maenas.choices import Clock
from maenas.deploy.gpu_state import gpu_limits, gpu_name, visible_gpu
from maenas.deploy.program import Program
from maenas.deploy.session import PROVIDERS, TF32, Target, import_onnxruntime, session_errors, session_options
from maenas.errors import MaenasError
from maenas.latency.device import Precision
from maenas.latency.find import processor
from maenas.profiler.cpu import CLOCKS, cpu_conditions, require_clock

CUDA_OPTIONS = {"cudnn_conv_algo_search": "EXHAUSTIVE", "enable_cuda_graph": "1", "use_tf32": str(int(TF32))}
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}  # of inputs and outputs


class OnnxRuntime:
    """Sessions of one process: threads are of one operator, operators run one after another."""

    merges = False

    def __init__(self, target: Target = "cpu", *, threads: int = 1, clock: Clock = "wall") -> None:
        require_clock(clock, threads=threads, on_cpu=target == "cpu")
        self._ort = import_onnxruntime(target)
        self.target: Target = target
        self.threads = threads
        self.clock: Clock = clock
        available = self._ort.get_available_providers()
        if PROVIDERS[target] not in available:
            raise MaenasError(
                f"this onnxruntime has no {PROVIDERS[target]} (it has {', '.join(available)}); "
                "pip uninstall onnxruntime and pip install onnxruntime-gpu: never install both"
            )

    @property
    def runtime(self) -> str:
        return f"onnxruntime-{self.target} {self._ort.__version__}"

    @property
    def device_name(self) -> str:
        if self.target == "cpu":
            return processor()
        return gpu_name(self.gpu) or "CUDA device 0"

    @property
    def gpu(self) -> str | None:
        return visible_gpu() if self.target == "cuda" else None

    @property
    def conditions(self) -> dict[str, str]:
        if self.target == "cuda":
            options = ", ".join(f"{key}={value}" for key, value in CUDA_OPTIONS.items())
            return {"provider_options": options, "tf32": str(TF32), **gpu_limits(self.gpu)}
        return cpu_conditions(self.clock, threads=self.threads)

    def build(self, program: Program, *, precision: Precision, batch: int) -> OrtRunner:
        from maenas.deploy.onnx_writer import write_onnx

        model = write_onnx(program, precision=precision, batch=batch)
        return self.build_model(model.SerializeToString())

    def build_model(self, model: bytes) -> OrtRunner:
        """A runner of a serialised ONNX model with static shapes; inputs are random."""
        ort = self._ort
        options = session_options(ort, self.threads)
        provider = PROVIDERS[self.target]
        wanted = [(provider, CUDA_OPTIONS)] if self.target == "cuda" else [provider]
        try:
            session = ort.InferenceSession(model, options, providers=wanted)
        except (*session_errors(ort), RuntimeError) as error:  # its providers raise nothing better
            raise MaenasError(f"{self.runtime} cannot build a model: {str(error).splitlines()[0]}") from None
        active = session.get_providers()
        if active[0] != provider:
            raise MaenasError(
                f"the session fell back to {active[0]} instead of {provider}: check driver, CUDA and cuDNN"
            )
        try:
            return OrtRunner(session, ort, self.target, CLOCKS[self.clock])
        except (*session_errors(ort), RuntimeError) as error:  # no memory left on the GPU
            raise MaenasError(f"{self.runtime} cannot hold a model: {str(error).splitlines()[0]}") from None


class OrtRunner:
    """A session with its inputs and outputs bound."""

    def __init__(self, session: Any, ort: Any, target: Target, clock: Callable[[], float]) -> None:
        self._session: Any = session
        self._binding: Any = session.io_binding()
        self._clock = clock
        self._failures = (*session_errors(ort), RuntimeError)
        self._images: list[np.ndarray] = []  # on a CPU, what is bound is their memory
        rng = np.random.default_rng(0)
        for value in session.get_inputs():
            image = rng.random(value.shape, dtype=np.float32).astype(DTYPES[value.type])
            self._images.append(image)
            self._binding.bind_ortvalue_input(value.name, ort.OrtValue.ortvalue_from_numpy(image, target, 0))
        for value in session.get_outputs():
            if target == "cpu":
                self._binding.bind_output(value.name, "cpu")
            else:  # a CUDA graph replays into fixed addresses
                empty = ort.OrtValue.ortvalue_from_shape_and_type(value.shape, DTYPES[value.type], target, 0)
                self._binding.bind_ortvalue_output(value.name, empty)

    def run(self) -> None:
        try:
            self._binding.synchronize_inputs()
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
        except self._failures as error:
            raise MaenasError(f"the runtime cannot run a model: {str(error).splitlines()[0]}") from None

    def time_once(self) -> float:
        begin = self._clock()
        self.run()
        return self._clock() - begin

    def outputs(self) -> list[np.ndarray]:
        """Results of the last run."""
        return [value.numpy() for value in self._binding.get_outputs()]

    def close(self) -> None:
        self._binding = None
        self._session = None
