"""Base and correction of a measured table's predictor, fitted to its rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maenas.errors import MaenasError
from maenas.kernels import IMAGE, Kernel
from maenas.latency.device import Device, Figure, get_device
from maenas.latency.forest import grow_forest
from maenas.latency.interpolation.features import (
    TERMS,
    Array,
    codes_of,
    features,
    kernel_classes,
    log_position,
    pick_work,
    scaled_work,
    site_key,
    with_widths,
)
from maenas.latency.interpolation.predict import SPREAD_FLOOR, HeldOut, Interpolator, Site, base_seconds
from maenas.latency.kernel_model import KernelWork
from maenas.latency.measured import MeasuredTable

TREES = 30
MIN_ROWS = 20
COVERAGE = 0.9
NEUTRAL = {  # a hardware that the catalogue does not know: within a factor of 100 of a CPU's rates, as BOUNDS asks
    "sm_count": 1.0,  # by which `scaled_work` knows that there are no waves of tiles
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


def fit_table(table: MeasuredTable, *, trees: int = TREES, seed: int = 0) -> Interpolator:
    """Fit base and correction to a table; the same table and seed give the same predictor. Raises `MaenasError`."""
    if len(table.rows) < MIN_ROWS:
        raise MaenasError(f"latency table {table.id} has {len(table.rows)} rows; predictions need at least {MIN_ROWS}")
    device = _hardware(table.device)
    parts = list(row_kernels(table))
    measured = np.array([table.rows[n].median_s for _, rows in parts for n in rows])
    classes = np.concatenate([kernel_classes(kernel) for kernel, _ in parts])
    works = [scaled_work(kernel, table, device) for kernel, _ in parts]
    terms = [np.concatenate([getattr(w, name) for w in works]) for name in TERMS]
    work = KernelWork(terms[0], terms[1], terms[2], 1)
    constants, base = {}, np.empty(len(measured))
    for name in np.unique(classes).tolist():
        here = classes == name
        constants[name] = _fit_base(pick_work(work, here), measured[here])
        base[here] = base_seconds(pick_work(work, here), constants[name])
    X = np.concatenate([features(kernel, table, device) for kernel, _ in parts])
    target = np.log(measured / base)
    forests, said = {}, np.empty((trees, len(target)))
    for name in constants:
        here = np.flatnonzero(classes == name)
        forests[name], said[:, here] = grow_forest(X[here], target[here], trees=trees, seed=seed)
    held_out, width_factor = _held_out(said, target)
    epilogues = {op: tuple(sorted({r.epilogue for r in table.rows if r.op == op})) for op in {r.op for r in table.rows}}
    return Interpolator(
        table=table,
        device=device,
        constants=constants,
        forests=forests,
        held_out=held_out,
        width_factor=width_factor,
        sites=_sites(table, parts),
        epilogues=epilogues,
        ranges=_ranges(parts, classes),
    )


def _hardware(name: str) -> Device:
    """Figures of the catalogue, or neutral ones: the fit scales every rate, so that only their proportions matter."""
    try:
        return get_device(name)
    except MaenasError:
        neutral: dict[str, Any] = {
            key: Figure(value, "neutral figure, scaled by the fit", False) for key, value in NEUTRAL.items()
        }
        return Device(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device", name, **neutral)


def _fit_base(work: KernelWork, measured: Array) -> tuple[float, float, float, float]:
    """Constants of least mean |log error|, by a pattern search; the launch is what the fastest kernels take."""
    launch = float(np.quantile(measured, LAUNCH_QUANTILE))

    def loss(constants: Array) -> float:
        c0, c1, c2 = constants.tolist()
        return float(np.abs(np.log(base_seconds(work, (c0, c1, c2, launch)) / measured)).mean())

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


def _ranges(
    parts: list[tuple[Kernel, NDArray[np.int64]]], classes: NDArray
) -> dict[str, tuple[Array, Array, frozenset[tuple[int, int]]]]:
    """What was measured, by class: the box of `log_position`, and the pairs of kernel size and stride."""
    position = np.concatenate([log_position(kernel) for kernel, _ in parts])
    sizes = np.concatenate([np.tile((kernel.kernel, kernel.stride), (len(rows), 1)) for kernel, rows in parts])
    ranges = {}
    for name in np.unique(classes).tolist():
        here = classes == name
        pairs = frozenset((int(k), int(s)) for k, s in np.unique(sizes[here], axis=0))
        ranges[name] = (position[here].min(axis=0), position[here].max(axis=0), pairs)
    return ranges


def _sites(table: MeasuredTable, parts: list[tuple[Kernel, NDArray[np.int64]]]) -> dict[tuple, Site]:
    sites = {}
    for kernel, numbers in parts:
        codes = codes_of(np.stack([kernel.in_channels, kernel.out_channels, kernel.groups], axis=1))
        order = np.argsort(codes)
        rows = [table.rows[n] for n in numbers[order]]
        seconds = np.array([row.median_s for row in rows])
        spread = np.array([row.iqr_s or 0.0 for row in rows])
        half_width = np.log1p(1.6449 / 1.349 * spread / seconds)  # of normal times with this interquartile range
        sites[site_key(kernel, rows[0].epilogue)] = Site(codes[order], seconds, half_width)
    return sites


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
        yield with_widths(kernel, triples), np.array(numbers)


def _out_size(op: str, height: int, width: int, stride: int) -> tuple[int, int]:
    if op == "resize":
        return 2 * height, 2 * width
    if op == "mean":
        return 1, 1
    return -(-height // stride), -(-width // stride)
