"""Parameters, operations and memory of deployed kernels.

Every function takes one `Kernel` (whose widths may be arrays) and returns exact integers of the same shape, batch 1.

Conventions. Parameters: weights and biases after folding batch norm, RepConv and the head's scales. FLOPs: two per
multiply-add of a convolution, nothing for biases, activations, pools and copies. The published tables add a few
tenths of a percent (up to 4 % in the nano models) for biases and for the batch norms their tool left unfolded.
Activations: one element per output position and channel of every kernel, the residual and activation being fused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from maenas.kernels import IMAGE, PRODUCTS, Kernel, Width

PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


def kernel_params(k: Kernel) -> Width:
    """Weights and biases."""
    return 0 * k.out_channels if k.computed else right_operand(k)


def right_operand(k: Kernel) -> Width:
    """Elements that a product multiplies its input by: weights and biases, or a computed tensor."""
    if k.op not in PRODUCTS:
        return 0 * k.out_channels
    return k.in_channels // k.groups * k.kernel**2 * k.out_channels + (0 if k.computed else k.out_channels)


def kernel_flops(k: Kernel) -> Width:
    """Floating-point operations, a multiply-add as 2."""
    if k.op not in PRODUCTS:
        return 0 * k.out_channels
    return 2 * (k.in_channels // k.groups) * k.kernel**2 * k.out_channels * (k.out_height * k.out_width)


def kernel_activations(k: Kernel) -> Width:
    """Elements written."""
    return k.out_channels * (k.out_height * k.out_width)


def kernel_traffic(k: Kernel) -> Width:
    """Elements read and written once: inputs, right operand, residual, outputs."""
    read = k.in_channels * (k.in_height * k.in_width)
    residual = 0 if k.residual is None else kernel_activations(k)
    return read + residual + right_operand(k) + kernel_activations(k)


def kernel_layers(k: Kernel) -> int:
    """1 for a convolution of the backbone's main path, else 0 (the "layers" of the published layer budgets)."""
    return int(not isinstance(k.signal_fan_in, int) or k.signal_fan_in > 0)


@dataclass(frozen=True)
class Cost:
    """Totals of a list of kernels, batch 1."""

    params: int
    flops: int
    activations: int
    layers: int


def total_cost(kernels: Iterable[Kernel]) -> Cost:
    """Sum of every cost over `kernels`."""
    rows = [(kernel_params(k), kernel_flops(k), kernel_activations(k), kernel_layers(k)) for k in kernels]
    params, flops, activations, layers = (sum(column) for column in zip(*rows, strict=True))
    return Cost(params, flops, activations, layers)


def least_memory(kernels: Sequence[Kernel], *, precision: str, batch: int) -> int:
    """Bytes that it takes to run a network kernel by kernel: all weights, and the most of its maps that are needed at
    once. A map is needed from the kernel that writes it to the last one that reads it."""
    first = next(kernel for kernel in kernels if IMAGE in kernel.inputs)
    sizes = {number: int(kernel_activations(kernel)) for number, kernel in enumerate(kernels)}
    sizes[IMAGE] = int(first.in_channels) * first.in_height * first.in_width
    last = {source: n for n, k in enumerate(kernels) for source in (*k.inputs, k.residual) if source is not None}
    done: dict[int, int] = {}  # elements that nobody needs after a kernel; what nobody reads is a result and stays
    for source, number in last.items():
        done[number] = done.get(number, 0) + sizes[source]
    live = most = sizes[IMAGE]
    for number in range(len(kernels)):
        live += sizes[number]
        most = max(most, live)
        live -= done.get(number, 0)
    return PRECISION_BYTES[precision] * (batch * most + sum(int(kernel_params(kernel)) for kernel in kernels))
