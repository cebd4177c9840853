"""Any kernel's time from a measured table: measured where the kernel is in the table, predicted elsewhere.

    seconds = base * exp(correction)
    base = max(compute / c0, serial * c1) + memory / c2 + c3      terms of `kernel_model`, constants of this table
    correction = median over extremely randomised trees grown on log(measured / base)

The base carries what varies by orders of magnitude, so that the trees only learn how far a runtime's choice of kernels
is from it. It never falls with any width; the correction may. Choices and errors: docs/latency.md.

An activation's kind is a feature only where the table tells it. A kernel whose epilogue is not in the table is looked
up under one with the same residual add, since an activation of a finished output moves no bytes.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maenas.cost import PRECISION_BYTES
from maenas.errors import MaenasError
from maenas.latency.device import Device, Figure, get_device
from maenas.latency.forest import Forest, grow_forest
from maenas.latency.kernel_model import TILES, KernelWork, kernel_work
from maenas.latency.measured import MAX_SIZE, MeasuredTable
from maenas.lowering import IMAGE, Kernel

TREES = 30
MIN_ROWS = 20
COVERAGE = 0.9
SPREAD_FLOOR = 0.05  # log units; trees that agree are not that certain
OUTSIDE_FACTOR = 1.0  # log half-width added for each log unit outside the measured range
ALIGNMENTS = (8, 16, 32, 64)  # channels
NEUTRAL = {  # a hardware that the catalogue does not know: within a factor of 100 of a CPU's rates, as BOUNDS asks
    "sm_count": 1.0,
    "boost_clock_mhz": 1000.0,
    "memory_bandwidth_gbs": 100.0,
    "l2_cache_mb": 4.0,
    "fp32_tflops": 0.5,
    "fp16_tflops": 1.0,
    "int8_tops": 2.0,
}
START = (0.5, 30.0, 0.6)  # constants of the base: compute, serial, memory
BOUNDS = ((0.01, 1.0), (1.0, 1000.0), (0.01, 1.0))
LAUNCH_QUANTILE = 0.01

Array = NDArray[np.float64]


class KernelPrediction(NamedTuple):
    """Seconds with a 90 % interval; arrays where the kernel's widths are arrays.

    `measured`: the value is a row of the table; then the interval is that of the row, of no width where the table has
    no spread. `hull_distance` is 0 inside the measured range, else the distance from it in log units.
    """

    seconds: Any
    low: Any
    high: Any
    measured: Any
    hull_distance: Any

    @property
    def inside(self) -> Any:
        return self.hull_distance == 0


class HeldOut(NamedTuple):
    """Errors of rows, each predicted by the trees that did not see it (a fifth of the trees)."""

    rows: int
    median_error: float
    mean_error: float
    log_error_90: float  # 90 % quantile of |log(predicted / measured)|


@dataclass(frozen=True, eq=False)
class _Site:
    """Measured rows that differ in their widths only: sorted codes, medians, log half-widths of their intervals."""

    codes: NDArray[np.int64]
    seconds: Array
    log_half_width: Array


@dataclass(frozen=True, eq=False)
class Interpolator:
    """A table made ready for predictions by `fit_table`."""

    table: MeasuredTable
    device: Device
    constants: dict[str, tuple[float, float, float, float]]  # of the base, by class
    forest: Forest
    held_out: HeldOut
    width_factor: float  # log half-width for each unit of the trees' spread
    sites: dict[tuple, _Site]
    epilogues: dict[str, tuple[str, ...]]  # measured ones, by op
    ranges: dict[str, tuple[Array, Array, frozenset[tuple[int, int]]]]  # by class: low, high, (kernel, stride)

    def seconds(self, kernel: Kernel) -> Any:
        """Seconds of one kernel; an array where its widths are arrays. Raises `MaenasError` for an unmeasured op."""
        return self.predict(kernel).seconds

    def seconds_of_all(self, kernels: Sequence[Kernel]) -> Array:
        """Seconds of kernels with scalar widths; those that differ in their widths only are predicted together."""
        groups: dict[tuple, list[int]] = {}
        for number, kernel in enumerate(kernels):
            size = (kernel.in_height, kernel.in_width, kernel.out_height, kernel.out_width)
            key = (kernel.op, *size, kernel.kernel, kernel.stride, kernel.epilogue, kernel.residual is None)
            groups.setdefault(key, []).append(number)
        seconds = np.empty(len(kernels))
        for numbers in groups.values():
            alike = [kernels[n] for n in numbers]
            triples = np.array([(k.in_channels, k.out_channels, k.groups) for k in alike], np.int64)
            seconds[numbers] = self.predict(_with_widths(alike[0], triples)).seconds
        return seconds

    def predict(self, kernel: Kernel) -> KernelPrediction:
        """Prediction with its interval. Raises `MaenasError` for an op that the table did not measure."""
        widths = np.broadcast_arrays(kernel.in_channels, kernel.out_channels, kernel.groups)
        shape = widths[0].shape
        triples = np.stack([w.ravel() for w in widths], axis=1).astype(np.int64)
        codes, back = np.unique(_codes(triples), return_inverse=True)
        first = np.zeros(len(codes), np.int64)
        first[back] = np.arange(len(back))
        unique = _with_widths(kernel, triples[first])
        columns = [column[back].reshape(shape) for column in self._predict(unique, codes)]
        return KernelPrediction(*(column if shape else column.item() for column in columns))

    def _predict(self, kernel: Kernel, codes: NDArray[np.int64]) -> tuple[NDArray, ...]:
        classes = _classes(kernel)
        for name in np.unique(classes):
            if name not in self.constants:
                raise MaenasError(
                    f"latency table {self.table.id} ({self.table.device}) has no {name} kernels, which {kernel.name!r} "
                    f"needs; it measured {', '.join(sorted(self.constants))}. Profile the missing ones."
                )
        seconds, width = self._modelled(kernel, classes)
        distance = self._hull_distance(kernel, classes)
        width = width + OUTSIDE_FACTOR * distance
        measured = np.zeros(len(codes), bool)
        site = self.sites.get(_site_key(kernel, _resolved_epilogue(kernel, self.epilogues.get(kernel.op, ()))))
        if site is not None:
            at = np.minimum(np.searchsorted(site.codes, codes), len(site.codes) - 1)
            measured = site.codes[at] == codes
            seconds = np.where(measured, site.seconds[at], seconds)
            width = np.where(measured, site.log_half_width[at], width)
            distance = np.where(measured, 0.0, distance)
        return seconds, seconds / np.exp(width), seconds * np.exp(width), measured, distance

    def base_seconds(self, kernel: Kernel, classes: NDArray | None = None) -> Array:
        """The prediction without correction; widths must be arrays [n]."""
        classes = _classes(kernel) if classes is None else classes
        work = _work(kernel, self.table, self.device)
        base = np.empty(len(classes))
        for name in np.unique(classes):
            here = classes == name
            base[here] = _base_seconds(_pick(work, here), self.constants[name])
        return base

    def _modelled(self, kernel: Kernel, classes: NDArray) -> tuple[Array, Array]:
        """Seconds and log half-width, as if no row were the kernel's own."""
        base = self.base_seconds(kernel, classes)
        code = np.searchsorted(sorted(self.constants), classes)
        said = self.forest.leaves(_features(kernel, self.table, self.device, code))
        width = self.width_factor * (np.std(said, axis=0, dtype=np.float64) + SPREAD_FLOOR)
        return base * np.exp(np.median(said, axis=0).astype(np.float64)), width

    def _hull_distance(self, kernel: Kernel, classes: NDArray) -> Array:
        position = _position(kernel)
        distance = np.empty(len(classes))
        for name in np.unique(classes):
            here = classes == name
            low, high, sizes = self.ranges[name]
            excess = np.maximum(0.0, np.maximum(low - position[here], position[here] - high))
            missing = min(abs(math.log(kernel.kernel / k)) + abs(math.log(kernel.stride / s)) for k, s in sizes)
            distance[here] = np.linalg.norm(excess, axis=1) + missing
        return np.where(distance < 1e-9, 0.0, distance)


def _hardware(name: str) -> Device:
    """Figures of the catalogue, or neutral ones: the fit scales every rate, so that only their proportions matter."""
    try:
        return get_device(name)
    except MaenasError:
        neutral: dict[str, Any] = {
            key: Figure(value, "neutral figure, scaled by the fit", False) for key, value in NEUTRAL.items()
        }
        return Device(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device", name, **neutral)


def fit_table(table: MeasuredTable, *, trees: int = TREES, seed: int = 0) -> Interpolator:
    """Fit base and correction to a table; the same table and seed give the same predictor. Raises `MaenasError`."""
    if len(table.rows) < MIN_ROWS:
        raise MaenasError(f"latency table {table.id} has {len(table.rows)} rows; predictions need at least {MIN_ROWS}")
    device = _hardware(table.device)
    parts = list(row_kernels(table))
    measured = np.array([table.rows[n].median_s for _, rows in parts for n in rows])
    classes = np.concatenate([_classes(kernel) for kernel, _ in parts])
    works = [_work(kernel, table, device) for kernel, _ in parts]
    terms = [np.concatenate([getattr(w, name) for w in works]) for name in _TERMS]
    work = KernelWork(terms[0], terms[1], terms[2], 1)
    constants, base = {}, np.empty(len(measured))
    for name in np.unique(classes).tolist():
        here = classes == name
        constants[name] = _fit_base(_pick(work, here), measured[here])
        base[here] = _base_seconds(_pick(work, here), constants[name])
    code = np.searchsorted(sorted(constants), classes)
    ends = np.cumsum([len(rows) for _, rows in parts])[:-1]
    X = np.concatenate(
        [_features(k, table, device, part) for (k, _), part in zip(parts, np.split(code, ends), strict=True)]
    )
    target = np.log(measured / base)
    forest, said = grow_forest(X, target, trees=trees, seed=seed)
    held_out, width_factor = _held_out(said, target)
    epilogues = {op: tuple(sorted({r.epilogue for r in table.rows if r.op == op})) for op in {r.op for r in table.rows}}
    return Interpolator(
        table=table,
        device=device,
        constants=constants,
        forest=forest,
        held_out=held_out,
        width_factor=width_factor,
        sites=_sites(table, parts),
        epilogues=epilogues,
        ranges=_ranges(parts, classes),
    )


def _ranges(
    parts: list[tuple[Kernel, NDArray[np.int64]]], classes: NDArray
) -> dict[str, tuple[Array, Array, frozenset[tuple[int, int]]]]:
    """What was measured, by class: the box of `_position`, and the pairs of kernel size and stride."""
    position = np.concatenate([_position(kernel) for kernel, _ in parts])
    sizes = np.concatenate([np.tile((kernel.kernel, kernel.stride), (len(rows), 1)) for kernel, rows in parts])
    ranges = {}
    for name in np.unique(classes).tolist():
        here = classes == name
        pairs = frozenset((int(k), int(s)) for k, s in np.unique(sizes[here], axis=0))
        ranges[name] = (position[here].min(axis=0), position[here].max(axis=0), pairs)
    return ranges


_TERMS = ("compute_s", "serial_s", "memory_s")


def _held_out(said: Array, target: Array) -> tuple[HeldOut, float]:
    """Errors of rows by the trees that left them out, and the factor from spread to half-width (split conformal)."""
    seen = np.isfinite(said).sum(axis=0) >= 2
    said, target = said[:, seen], target[seen]
    error = np.nanmedian(said, axis=0) - target
    score = np.sort(np.abs(error) / (np.nanstd(said, axis=0) + SPREAD_FLOOR))
    n = len(score)
    factor = float(score[min(n - 1, math.ceil((n + 1) * COVERAGE) - 1)])
    relative = np.abs(np.expm1(error))
    quantile = float(np.quantile(np.abs(error), COVERAGE))
    return HeldOut(n, float(np.median(relative)), float(relative.mean()), quantile), factor


def _base_seconds(work: KernelWork, constants: tuple[float, float, float, float]) -> Array:
    compute, serial, memory, launch = constants
    return np.maximum(work.compute_s / compute, work.serial_s * serial) + work.memory_s / memory + launch


def _fit_base(work: KernelWork, measured: Array) -> tuple[float, float, float, float]:
    """Constants of least mean |log error|, by a pattern search; the launch is what the fastest kernels take."""
    launch = float(np.quantile(measured, LAUNCH_QUANTILE))

    def loss(constants: Array) -> float:
        c0, c1, c2 = constants.tolist()
        return float(np.abs(np.log(_base_seconds(work, (c0, c1, c2, launch)) / measured)).mean())

    constants = np.array(START)
    best, factor = loss(constants), 2.0
    while factor > 1.01:
        improved = False
        for index, (low, high) in enumerate(BOUNDS):
            for step in (factor, 1 / factor):
                trial = constants.copy()
                trial[index] = min(max(trial[index] * step, low), high)
                if (value := loss(trial)) < best - 1e-9:
                    constants, best, improved = trial, value, True
        if not improved:
            factor = math.sqrt(factor)
    c0, c1, c2 = constants.tolist()
    return c0, c1, c2, launch


def row_kernels(table: MeasuredTable) -> Iterator[tuple[Kernel, NDArray[np.int64]]]:
    """Kernels with array widths that stand for all rows, each with the numbers of its rows."""
    groups: dict[tuple, list[int]] = {}
    for number, row in enumerate(table.rows):
        groups.setdefault((row.op, row.height, row.width, row.kernel, row.stride, row.epilogue), []).append(number)
    for (op, height, width, size, stride, epilogue), numbers in groups.items():
        out_height, out_width = _out_size(op, height, width, stride)
        kernel = Kernel(
            op=op,
            name=f"row {numbers[0]}",
            inputs=(IMAGE,),
            in_channels=1,
            out_channels=1,
            in_height=height,
            in_width=width,
            out_height=out_height,
            out_width=out_width,
            kernel=size,
            stride=stride,
            epilogue=tuple(part for part in epilogue.split("+") if part),  # type: ignore[arg-type]
            residual=IMAGE if "add" in epilogue.split("+") else None,
        )
        triples = np.array(
            [(table.rows[n].in_channels, table.rows[n].out_channels, table.rows[n].groups) for n in numbers]
        )
        yield _with_widths(kernel, triples), np.array(numbers)


def _out_size(op: str, height: int, width: int, stride: int) -> tuple[int, int]:
    if op == "resize":
        return 2 * height, 2 * width
    return -(-height // stride), -(-width // stride)


def _with_widths(kernel: Kernel, triples: NDArray[np.int64]) -> Kernel:
    """The kernel with these (in, out, groups) as arrays [n], and nothing that depends on its neighbours."""
    inputs, outputs, groups = triples.T
    return dataclasses.replace(
        kernel, in_channels=inputs, out_channels=outputs, groups=groups, inputs=(IMAGE,), signal_fan_in=0
    )


def _codes(triples: NDArray[np.int64]) -> NDArray[np.int64]:
    if (triples > MAX_SIZE).any() or (triples < 1).any():
        raise MaenasError(f"a width is not 1 to {MAX_SIZE}")
    base = MAX_SIZE + 1
    return (triples[:, 0] * base + triples[:, 1]) * base + triples[:, 2]


def _site_key(kernel: Kernel, epilogue: str | None) -> tuple:
    return kernel.op, kernel.in_height, kernel.in_width, kernel.kernel, kernel.stride, epilogue


def _sites(table: MeasuredTable, parts: list[tuple[Kernel, NDArray[np.int64]]]) -> dict[tuple, _Site]:
    sites = {}
    for kernel, numbers in parts:
        codes = _codes(np.stack([kernel.in_channels, kernel.out_channels, kernel.groups], axis=1))
        order = np.argsort(codes)
        rows = [table.rows[n] for n in numbers[order]]
        seconds = np.array([row.median_s for row in rows])
        spread = np.array([row.iqr_s or 0.0 for row in rows])
        half_width = np.log1p(1.6449 / 1.349 * spread / seconds)  # of normal times with this interquartile range
        sites[_site_key(kernel, rows[0].epilogue)] = _Site(codes[order], seconds, half_width)
    return sites


def _resolved_epilogue(kernel: Kernel, known: tuple[str, ...]) -> str | None:
    """The kernel's epilogue if it is among the known ones, else one of them that moves the same bytes."""
    wanted = "+".join(kernel.epilogue)
    if wanted in known:
        return wanted
    alike = [epilogue for epilogue in known if ("add" in epilogue.split("+")) == ("add" in kernel.epilogue)]
    same_kind = [epilogue for epilogue in alike if _is_smooth(epilogue) == _is_smooth(wanted)]
    return next(iter(same_kind or alike), None)


def _is_smooth(epilogue: str) -> bool:
    """Whether an activation in it needs an exponential."""
    return bool({"silu", "sigmoid"} & set(epilogue.split("+")))


def _classes(kernel: Kernel) -> NDArray:
    """[n] names of kinds of kernels that share constants. Widths are arrays here and below."""
    if kernel.op != "conv":
        return np.full(len(kernel.in_channels), kernel.op)
    grouped = np.where(kernel.groups == kernel.in_channels, "depthwise conv", "grouped conv")
    return np.where(kernel.groups > 1, grouped, "conv")


def _work(kernel: Kernel, table: MeasuredTable, device: Device) -> KernelWork:
    work = kernel_work(kernel, device=device, precision=table.precision, batch=table.batch)
    n = len(kernel.in_channels)
    terms = [np.broadcast_to(getattr(work, name), n).astype(np.float64) for name in _TERMS]
    return KernelWork(terms[0], terms[1], terms[2], 1)


def _pick(work: KernelWork, here: NDArray[np.bool_]) -> KernelWork:
    return KernelWork(work.compute_s[here], work.serial_s[here], work.memory_s[here], 1)


def _position(kernel: Kernel) -> Array:
    """[n, 7] log coordinates whose measured ranges make up the box inside which a prediction is no extrapolation."""
    inputs, outputs = np.log(kernel.in_channels), np.log(kernel.out_channels)
    height, width = math.log(kernel.in_height), math.log(kernel.in_width)
    same = np.ones(len(inputs))
    work = np.log(kernel.out_channels * (kernel.in_channels / kernel.groups)) + height + width
    return np.stack(
        [inputs, outputs, inputs - outputs, height * same, width * same, (height - width) * same, work], axis=1
    )


def _features(kernel: Kernel, table: MeasuredTable, device: Device, code: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n, F]: log shape, operations and bytes, their ratios, waves of tiles, alignment of the channels, kind."""
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
    ]
    features = [np.log(np.broadcast_to(size, n).astype(np.float64)) for size in sizes]
    for tile_rows, tile_columns in TILES[:4]:
        tiles = -(-rows // tile_rows) * -(-columns // tile_columns)
        waves = -(-tiles // int(device.sm_count.value))
        features += [np.log(waves), tiles / (waves * device.sm_count.value)]
    flags = [kernel.kernel, kernel.stride, residual, _is_smooth("+".join(kernel.epilogue)), code]
    flags += [channels % size == 0 for channels in (kernel.in_channels, columns) for size in ALIGNMENTS]
    features += [np.broadcast_to(flag, n) for flag in flags]
    return np.stack(features, axis=1).astype(np.float32)
