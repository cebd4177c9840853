"""What distinguishes kernels for the predictor: classes, log coordinates, features. Widths are arrays [n] here."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from maenas.cost import PRECISION_BYTES, kernel_flops
from maenas.errors import MaenasError
from maenas.kernels import IMAGE, Kernel, Op
from maenas.latency.device import Device, peak_ops_per_s
from maenas.latency.kernel_model import TILES, KernelWork, kernel_work
from maenas.latency.measured import MAX_SIZE, MeasuredTable

Array = NDArray[np.float64]
ALIGNMENTS = (4, 8, 16, 32, 64)  # channels
BLOCKS = (4, 8, 16)  # channels of a group: CPUs lay tensors out in blocks of them
TERMS = ("compute_s", "serial_s", "memory_s")
# Where a table lacks the op.
STAND_INS: dict[Op, Op] = {"matmul": "conv", "mean": "maxpool", "pointwise": "decode", "softmax": "decode"}


def kernel_classes(kernel: Kernel) -> NDArray:
    """[n] names of kinds of kernels that share constants. Widths are arrays here and below."""
    if kernel.op != "conv":
        return np.full(len(kernel.in_channels), kernel.op)
    grouped = np.where(kernel.groups == kernel.in_channels, "depthwise conv", "grouped conv")
    return np.where(kernel.groups > 1, grouped, "conv")


def is_smooth(epilogue: str) -> bool:
    """Whether an activation in it needs an exponential."""
    return bool({"silu", "sigmoid"} & set(epilogue.split("+")))


def scaled_work(kernel: Kernel, table: MeasuredTable, device: Device) -> KernelWork:
    """The terms of the base, arrays [n]. Without multiprocessors no tiles run in waves: operations count as such."""
    work = kernel_work(kernel, device=device, precision=table.precision, batch=table.batch)
    n = len(kernel.in_channels)
    terms = [np.broadcast_to(getattr(work, name), n).astype(np.float64) for name in TERMS]
    if device.sm_count.value == 1:
        flops = np.broadcast_to(kernel_flops(kernel), n) * float(table.batch)
        terms[:2] = flops / peak_ops_per_s(device, precision=table.precision), np.zeros(n)
    return KernelWork(terms[0], terms[1], terms[2], 1)


def pick_work(work: KernelWork, here: NDArray[np.bool_]) -> KernelWork:
    return KernelWork(work.compute_s[here], work.serial_s[here], work.memory_s[here], 1)


def log_position(kernel: Kernel) -> Array:
    """[n, 7] log coordinates whose measured ranges make up the box inside which a prediction is no extrapolation."""
    inputs, outputs = np.log(kernel.in_channels), np.log(kernel.out_channels)
    height, width = math.log(kernel.in_height), math.log(kernel.in_width)
    same = np.ones(len(inputs))
    work = np.log(kernel.out_channels * (kernel.in_channels / kernel.groups)) + height + width
    return np.stack(
        [inputs, outputs, inputs - outputs, height * same, width * same, (height - width) * same, work], axis=1
    )


def features(kernel: Kernel, table: MeasuredTable, device: Device) -> NDArray[np.float32]:
    """[n, F]: log shape, operations and bytes, their ratios, waves of tiles, alignment of channels and of groups."""
    n = len(kernel.in_channels)
    depth = kernel.in_channels // kernel.groups * kernel.kernel**2  # K of the matrix product
    columns = np.asarray(kernel.out_channels)
    in_plane, out_plane = kernel.in_height * kernel.in_width, kernel.out_height * kernel.out_width
    rows = table.batch * out_plane
    residual = kernel.residual is not None
    effective_in = kernel.in_channels // kernel.groups
    moved = (
        table.batch * in_plane * kernel.in_channels + depth * columns + rows * columns * (2 if residual else 1)
    ) * PRECISION_BYTES[table.precision]
    sizes = [
        *(kernel.in_channels, columns, in_plane, rows, depth, 2.0 * rows * depth * columns, moved),
        *(effective_in * (in_plane * table.batch), rows * columns, depth * columns),
        *(depth / columns, rows / columns, kernel.in_channels / columns, kernel.in_height / kernel.in_width),
        kernel.groups,
    ]
    features = [np.log(np.broadcast_to(size, n).astype(np.float64)) for size in sizes]
    for tile_rows, tile_columns in TILES[:4]:
        tiles = -(-rows // tile_rows) * -(-columns // tile_columns)
        waves = -(-tiles // int(device.sm_count.value))
        features += [np.log(waves), tiles / (waves * device.sm_count.value)]
    flags = [kernel.kernel, kernel.stride, residual, is_smooth("+".join(kernel.epilogue))]
    flags += [channels % size == 0 for channels in (kernel.in_channels, columns) for size in ALIGNMENTS]
    flags += [effective_in % size == 0 for size in BLOCKS]
    features += [np.broadcast_to(flag, n) for flag in flags]
    return np.stack(features, axis=1).astype(np.float32)


def with_widths(kernel: Kernel, triples: NDArray[np.int64]) -> Kernel:
    """The kernel with these (in, out, groups) as arrays [n], and nothing that depends on its neighbours."""
    inputs, outputs, groups = triples.T
    return dataclasses.replace(
        kernel, in_channels=inputs, out_channels=outputs, groups=groups, inputs=(IMAGE,), signal_fan_in=0
    )


def codes_of(triples: NDArray[np.int64]) -> NDArray[np.int64]:
    if (triples > MAX_SIZE).any() or (triples < 1).any():
        raise MaenasError(f"a width is not 1 to {MAX_SIZE}")
    base = MAX_SIZE + 1
    return (triples[:, 0] * base + triples[:, 1]) * base + triples[:, 2]


def site_key(kernel: Kernel, epilogue: str | None) -> tuple:
    return kernel.op, kernel.in_height, kernel.in_width, kernel.kernel, kernel.stride, epilogue


def resolved_epilogue(kernel: Kernel, known: tuple[str, ...]) -> str | None:
    """The kernel's epilogue if it is among the known ones, else one of them that moves the same bytes."""
    wanted = "+".join(kernel.epilogue)
    if wanted in known:
        return wanted
    alike = [epilogue for epilogue in known if ("add" in epilogue.split("+")) == ("add" in kernel.epilogue)]
    same_kind = [epilogue for epilogue in alike if is_smooth(epilogue) == is_smooth(wanted)]
    return next(iter(same_kind or alike), None)
