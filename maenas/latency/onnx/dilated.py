"""Dilated convolutions: runtimes on CPUs compute nothing for taps that lie outside of the image."""

from __future__ import annotations

from dataclasses import replace

from maenas.kernels import Kernel
from maenas.latency.onnx.apart import ONNXRUNTIME, OPENVINO, runs_in
from maenas.latency.onnx.lower import Lowered
from maenas.latency.predictor import AnyPredictor


def without_outside(lowered: Lowered, predictor: AnyPredictor) -> Lowered:
    """The network with as many input channels less as the runtime skips taps, where it does so."""
    if not lowered.inside or not any(runs_in(predictor, runtime) for runtime in (ONNXRUNTIME, OPENVINO)):
        return lowered
    kernels = tuple(_narrowed(kernel, lowered.inside.get(index, 1.0)) for index, kernel in enumerate(lowered.kernels))
    return replace(lowered, kernels=kernels)


def _narrowed(kernel: Kernel, share: float) -> Kernel:
    if kernel.groups > 1 or share == 1.0:
        return kernel
    name = f"{kernel.name}: {share:.0%} of its taps in the image"
    return replace(kernel, name=name, in_channels=max(1, round(share * kernel.in_channels)))
