"""Time of one fused kernel on a GPU, from its shape and the device's figures.

    t = max(max(arithmetic, memory) + launch, issue)
    arithmetic = max(tiles in waves over the SMs / compute efficiency, serial chain of the depth loop)
    memory = bytes moved once / memory efficiency

A dense convolution is a matrix product, M = batch Ho Wo by N = Cout by K = k^2 Cin, cut into tiles; the device runs
whole waves of tiles, so the last wave is paid in full, and small tiles reuse less of what they load (`TILE_REUSE`).
However few tiles there are, each walks through K step by step: that chain has a latency that no idle SM shortens.
The shape of this model was chosen on measured V100 kernels (docs/latency.md); only the numbers in `Constants` are
fitted to whole networks. `issue` is what the host needs from one launch to the next, where it launches kernels one by
one.

Data movements (pool, resize, space-to-depth, copies, box decoding) pay memory and launch. A concat of several tensors
is free where the runtime lets its producers write in place; `concat_passes` says what it costs elsewhere. Activations
and residual adds ride in the epilogue; a residual costs its bytes.

Widths may be integer arrays that broadcast (see `lowering`). The constants only scale the terms, so `kernel_work` is
computed once and `work_seconds` is cheap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from maenas.cost import PRECISION_BYTES, kernel_flops
from maenas.errors import MaenasError
from maenas.kernels import PRODUCTS, Kernel, Width
from maenas.latency.device import Device, Precision, peak_ops_per_s
from maenas.strict import STRICT

Seconds = Any  # float, or float array where the kernel's widths are arrays
Floats = NDArray[np.float64]

TILES = ((128, 128), (128, 64), (64, 64), (256, 64), (64, 32), (128, 32), (64, 128), (256, 128))  # rows x columns
TILE_REUSE = 16.0  # half-saturation of a tile's operations per loaded element, area / (rows + columns)
EXTRA_DEPTH = 128  # elements of K that prologue and epilogue of a tile are worth
DEPTHWISE_SHARE = 0.12  # of the fp32 rate that a depthwise convolution reaches, before compute efficiency
LOOKUP_SIZE = 4096  # more widths than this are looked up in a table of all widths


@dataclass(frozen=True)
class Constants:
    """What is fitted. Efficiencies are shares of the device's peak figures; `launch_s` is in seconds a kernel.

    `serial_cycles` is the latency of one element of K in clock cycles at boost. `issue_s` is the least time from one
    launch to the next: 0 where the host is never waited for. `concat_passes` is how often a concat of several tensors
    moves its bytes in and out, at the full bandwidth: 0 where they are written in place.
    """

    __pydantic_config__: ClassVar = STRICT
    compute_efficiency: float
    memory_efficiency: float
    launch_s: float
    serial_cycles: float
    issue_s: float = 0.0
    concat_passes: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("compute_efficiency", 0.01, 1.5),
            ("memory_efficiency", 0.01, 3.0),
            ("launch_s", 1e-8, 1e-3),
            ("serial_cycles", 0.0, 1000.0),
            ("issue_s", 0.0, 1e-3),
            ("concat_passes", 0.0, 50.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise MaenasError(f"{name} is {value}; it must be {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class KernelWork:
    """Seconds at full efficiency (`serial_s`: at one cycle an element of K), and the number of launches.

    `concat_s` is one pass of a concat of several tensors: its bytes in and out.
    """

    compute_s: Seconds
    serial_s: Seconds
    memory_s: Seconds
    launches: int
    concat_s: Seconds = 0.0


def kernel_seconds(
    kernel: Kernel, *, device: Device, precision: Precision, batch: int, constants: Constants
) -> Seconds:
    """Predicted time of `kernel` in seconds; an array where its widths are arrays. Raises `MaenasError`."""
    return work_seconds(kernel_work(kernel, device=device, precision=precision, batch=batch), constants)


def work_seconds(work: KernelWork, constants: Constants) -> Seconds:
    """Seconds of `work` with fitted constants."""
    arithmetic = np.maximum(work.compute_s / constants.compute_efficiency, work.serial_s * constants.serial_cycles)
    memory = work.memory_s / constants.memory_efficiency
    busy = np.maximum(arithmetic, memory) + work.launches * constants.launch_s
    seconds = np.maximum(busy, work.launches * constants.issue_s) + work.concat_s * constants.concat_passes
    return seconds if np.ndim(seconds) else float(seconds)


def kernel_work(kernel: Kernel, *, device: Device, precision: Precision, batch: int) -> KernelWork:
    """The part of the model that no fitted constant enters."""
    if batch < 1:
        raise MaenasError(f"batch is {batch}; it must be at least 1")
    peak = peak_ops_per_s(device, precision=precision)
    memory = _bytes(kernel, precision, batch) / (device.memory_bandwidth_gbs.value * 1e9)
    if kernel.op == "concat" and len(kernel.inputs) > 1:
        return KernelWork(0.0, 0.0, 0.0 * memory, 0, memory)
    if kernel.op not in PRODUCTS:
        return KernelWork(0.0, 0.0, memory, 1)
    depthwise = (np.asarray(kernel.groups) > 1) & (np.asarray(kernel.in_channels) == kernel.groups)
    light: Seconds = 0.0
    if depthwise.any():
        flops = batch * _as_float(kernel_flops(kernel))
        light = flops / (device.fp32_tflops.value * 1e12 * DEPTHWISE_SHARE)
        if depthwise.all():
            return KernelWork(light, 0.0, memory, 1)
    depth = _as_float(kernel.in_channels // kernel.groups) * kernel.kernel**2 + EXTRA_DEPTH
    dense = depth * _wave_area(kernel, int(device.sm_count.value), batch) * (2 * device.sm_count.value / peak)
    serial = depth / (device.boost_clock_mhz.value * 1e6)
    if not depthwise.any():
        return KernelWork(dense, serial, memory, 1)
    return KernelWork(np.where(depthwise, light, dense), np.where(depthwise, 0.0, serial), memory, 1)


def _as_float(width: Width) -> float | Floats:
    return width.astype(np.float64) if isinstance(width, np.ndarray) else float(width)


def _bytes(kernel: Kernel, precision: Precision, batch: int) -> float | Floats:
    """Bytes read and written once: inputs, residual, outputs and computed operands for every image, weights once."""
    in_plane, out_plane = kernel.in_height * kernel.in_width, kernel.out_height * kernel.out_width
    inputs, outputs = _as_float(kernel.in_channels), _as_float(kernel.out_channels)
    total = inputs * (batch * in_plane) + outputs * (batch * out_plane * (1 if kernel.residual is None else 2))
    if kernel.op in PRODUCTS:
        operand = _as_float(kernel.in_channels // kernel.groups) * kernel.kernel**2 * outputs
        total = total + (batch * operand if kernel.computed else operand)
    return total * PRECISION_BYTES[precision]


def _wave_area(kernel: Kernel, sms: int, batch: int) -> Floats:
    """Output elements that the busiest SM computes one after another, small tiles counted as slower."""
    rows = batch * kernel.out_height * kernel.out_width
    columns = np.asarray(kernel.out_channels // kernel.groups)
    if columns.size > LOOKUP_SIZE and isinstance(kernel.groups, int):
        table = _best_area(rows, np.arange(int(columns.max()) + 1), kernel.groups, sms)
        return table[columns]
    return _best_area(rows, columns, np.asarray(kernel.groups), sms)


def _best_area(rows: int, columns: NDArray[np.int64], groups: Width, sms: int) -> Floats:
    best = np.asarray(math.inf)
    for tile_rows, tile_columns in TILES:
        tiles = -(-rows // tile_rows) * -(-columns // tile_columns) * groups
        reuse = tile_rows * tile_columns / (tile_rows + tile_columns)
        area = tile_rows * tile_columns * (1 + TILE_REUSE / reuse)
        best = np.minimum(best, -(-tiles // sms) * area)
    return best
