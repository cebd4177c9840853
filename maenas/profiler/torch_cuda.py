"""PyTorch on CUDA: channels-last, cuDNN autotuned, replayed as one CUDA graph, timed with CUDA events.

Operators run as eager PyTorch runs them: bias in the convolution, activations and residuals as passes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from maenas.deploy.gpu_state import gpu_limits
from maenas.deploy.graphed import Captured, capture
from maenas.deploy.program import Program, is_flatten
from maenas.deploy.session import TF32
from maenas.errors import MaenasError
from maenas.kernels import PRODUCTS, Kernel
from maenas.latency.device import Precision
from maenas.spec import OUTPUT_STRIDES

DTYPES = {"fp32": "float32", "fp16": "float16"}


class TorchCuda:
    """The current CUDA device."""

    merges = False

    def __init__(self) -> None:
        self._torch = cuda_torch()
        self._torch.backends.cudnn.allow_tf32 = TF32

    @property
    def runtime(self) -> str:
        return f"torch-cudagraph {self._torch.__version__}"

    @property
    def device_name(self) -> str:
        return self._torch.cuda.get_device_name()

    @property
    def gpu(self) -> str | None:
        return str(self._torch.cuda.get_device_properties().uuid)

    @property
    def conditions(self) -> dict[str, str]:
        torch = self._torch
        return {
            **gpu_limits(self.gpu),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "layout": "channels last",
            "cudnn_benchmark": "on",
            "tf32": str(TF32),
        }

    def build(self, program: Program, *, precision: Precision, batch: int) -> GraphRunner:
        if precision not in DTYPES:
            raise MaenasError(f"the torch backend measures {' or '.join(DTYPES)}, not {precision}")
        try:
            network = TorchProgram(program, dtype=DTYPES[precision], batch=batch, device="cuda")
        except self._torch.OutOfMemoryError as error:
            raise MaenasError(f"CUDA cannot hold a network: {str(error).splitlines()[0]}") from None
        return GraphRunner(self._torch, network)


class GraphRunner:
    """One captured graph of what calling `network` launches on the current stream; time by CUDA events around a replay.

    Raises `MaenasError` where the device cannot run it, for want of memory for example.
    """

    def __init__(self, torch: Any, network: Callable[[], Any]) -> None:
        self._torch: Any = torch
        self._network: Any = network  # what it holds, the graph reads
        try:
            self._capture()
        except RuntimeError as error:  # torch has no other class for what CUDA and cuDNN refuse
            raise MaenasError(f"CUDA cannot run a network: {str(error).splitlines()[0]}") from None

    def _capture(self) -> None:
        torch, network = self._torch, self._network
        self._stream = torch.cuda.Stream()
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        scratch = torch.zeros(1, device="cuda")  # a baseline may have no kernel; a graph must not be empty

        def run() -> Any:
            return scratch.zero_(), network()

        self._graph: Captured | None = capture(torch, run, self._stream)

    def time_once(self) -> float:
        assert self._graph is not None, "closed"
        with self._torch.cuda.stream(self._stream):
            self._begin.record()
            self._graph.replay()
            self._end.record()
        self._end.synchronize()
        return self._begin.elapsed_time(self._end) / 1e3

    def close(self) -> None:
        self._graph = self._network = None


class TorchProgram:
    """A program with random weights and inputs; calling it runs it and returns every kernel's result."""

    def __init__(self, program: Program, *, dtype: str, batch: int, device: str) -> None:
        torch = self._torch = _import_torch()
        self._program = program
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int) -> Any:
            tensor = torch.randn(*shape, generator=generator, device=device, dtype=getattr(torch, dtype))
            return tensor.to(memory_format=torch.channels_last)

        self._images = [random(batch, *shape) for shape in program.images]
        self._weights: dict[int, tuple[Any, Any]] = {}
        self._priors: dict[int, tuple[Any, Any]] = {}
        for index, kernel in enumerate(program.kernels):
            if kernel.op in PRODUCTS:
                out, fan_in, side = int(kernel.out_channels), int(kernel.in_channels // kernel.groups), kernel.kernel
                weight = random(out, fan_in, side, side) * (fan_in * side * side) ** -0.5
                self._weights[index] = (weight, weight.new_zeros(out))
            elif kernel.op == "decode":
                centre, stride = _priors(torch, [program.shape(source) for source in kernel.inputs])
                self._priors[index] = (centre.to(device), stride.to(device))

    def __call__(self) -> list[Any]:
        results: list[Any] = []
        for index, kernel in enumerate(self._program.kernels):
            inputs = [results[n] if n >= 0 else self._images[-n - 1] for n in kernel.inputs]
            n = kernel.residual
            residual = None if n is None else results[n] if n >= 0 else self._images[-n - 1]
            results.append(self._run(index, kernel, inputs, residual))
        return results

    def _run(self, index: int, kernel: Kernel, xs: Sequence[Any], residual: Any) -> Any:
        torch, functional = self._torch, self._torch.nn.functional
        if kernel.op == "conv":
            weight, bias = self._weights[index]
            groups, pad = int(kernel.groups), kernel.kernel // 2
            y = functional.conv2d(xs[0], weight, bias, kernel.stride, pad, 1, groups)
            return self._epilogue(kernel, y, residual)
        if kernel.op == "matmul":
            weight, bias = self._weights[index]
            rows = xs[0].flatten(2).mT  # [B, H W, C], as tokens lie where maps are channels last
            y = functional.linear(rows, weight.flatten(1), bias)
            return self._epilogue(kernel, y.mT.unflatten(2, (kernel.out_height, kernel.out_width)), residual)
        if kernel.op == "softmax":
            return xs[0].softmax(1)
        if kernel.op == "mean":
            return xs[0].mean((2, 3), keepdim=True)
        if kernel.op == "pointwise":
            return xs[0] * xs[-1]
        if kernel.op == "maxpool":
            return functional.max_pool2d(xs[0], kernel.kernel, kernel.stride, kernel.kernel // 2)
        if kernel.op == "concat":
            if is_flatten(self._program, kernel):
                return torch.cat([x.flatten(2) for x in xs], 2)
            return torch.cat(list(xs), 1)
        if kernel.op == "resize":
            return functional.interpolate(xs[0], scale_factor=2.0, mode="nearest")
        if kernel.op == "space_to_depth":
            x = xs[0]
            return torch.cat([x[..., r::2, c::2] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))], 1)
        if kernel.op == "integral":
            return _integral(torch, xs[0])
        centre, stride = self._priors[index]
        sides = torch.cat([x.flatten(2).float() for x in xs], 2) * stride
        return torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], 1)

    def _epilogue(self, kernel: Kernel, y: Any, residual: Any) -> Any:
        functional = self._torch.nn.functional
        for step in kernel.epilogue:
            if step == "add":
                y.add_(residual)
            elif step == "sigmoid":
                y.sigmoid_()
            else:
                y = {"relu": functional.relu, "silu": functional.silu}[step](y, inplace=True)
        return y


def _integral(torch: Any, x: Any) -> Any:
    """[B, 4 (R+1), H, W] -> [B, 4, H, W], in fp32."""
    batch, channels, height, width = x.shape
    bins = x.float().reshape(batch, 4, channels // 4, height, width).softmax(2)
    values = torch.arange(channels // 4, device=x.device, dtype=torch.float32)
    return (bins * values[:, None, None]).sum(2)


def _priors(torch: Any, shapes: Sequence[tuple[int, int, int]]) -> tuple[Any, Any]:
    """Corner of each cell in pixels [1, 2, A], and its stride [1, 1, A]."""
    centres, strides = [], []
    for stride, (_, height, width) in zip(OUTPUT_STRIDES, shapes, strict=False):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append(torch.stack([columns, rows]).flatten(1) * stride)
        strides.append(torch.full((1, height * width), stride))
    return torch.cat(centres, 1)[None].float(), torch.cat(strides, 1)[None].float()


def cuda_torch() -> Any:
    """The module torch, with a CUDA device. Raises `MaenasError` where either is missing."""
    torch = _import_torch()
    if not torch.cuda.is_available():
        raise MaenasError("this PyTorch finds no CUDA device; check the driver, or use --device cpu")
    return torch


def _import_torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise MaenasError("measuring with PyTorch needs a build with CUDA: pip install torch") from None
    return torch
