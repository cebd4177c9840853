"""Any kernel's time from a measured table: measured where the kernel is in the table, predicted elsewhere.

    seconds = base * exp(correction)
    base = max(compute / c0, serial * c1) + memory / c2 + c3      terms of `kernel_model`, constants of this table
    correction = median over extremely randomised trees grown on log(measured / base)

Constants and trees are those of the kernel's class. The base carries what varies by orders of magnitude, so that the
trees only learn how far a runtime's choice of kernels is from it. It never falls with any width; the correction may.
Choices and errors: docs/lab/latency.md.

An activation's kind is a feature only where the table tells it. A kernel whose epilogue is not in the table is looked
up under one with the same residual add, since an activation of a finished output moves no bytes. Three ops have a
stand-in where the table lacks them (`STAND_INS`): a product of matrices is then a 1x1 convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maenas.errors import MaenasError
from maenas.kernels import IMAGE, Kernel
from maenas.latency.device import Device
from maenas.latency.forest import Forest
from maenas.latency.interpolation.features import (
    STAND_INS,
    Array,
    codes_of,
    features,
    kernel_classes,
    log_position,
    pick_work,
    resolved_epilogue,
    scaled_work,
    site_key,
    with_widths,
)
from maenas.latency.kernel_model import KernelWork, Seconds
from maenas.latency.measured import MeasuredTable

SPREAD_FLOOR = 0.05  # log units; trees that agree are not that certain
OUTSIDE_FACTOR = 1.0  # log half-width added for each log unit outside the measured range
REMEMBERED = 1024  # kernels that may come again; a search has some five hundred


class KernelPrediction(NamedTuple):
    """Seconds with a 90 % interval; arrays where the kernel's widths are arrays.

    `measured`: the value is a row of the table; then the interval is that of the row, of no width where the table has
    no spread. `hull_distance` is 0 inside the measured range, else the distance from it in log units.
    """

    seconds: Seconds
    low: Seconds
    high: Seconds
    measured: bool | NDArray[np.bool_]
    hull_distance: float | Array

    @property
    def inside(self) -> bool | NDArray[np.bool_]:
        return self.hull_distance == 0


class HeldOut(NamedTuple):
    """Errors of rows, each predicted by the trees that did not see it (a fifth of the trees)."""

    rows: int
    median_error: float
    mean_error: float
    log_error_90: float  # 90 % quantile of |log(predicted / measured)|


@dataclass(frozen=True, eq=False)
class Site:
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
    forests: dict[str, Forest]  # of the correction, by class
    held_out: HeldOut
    width_factor: float  # log half-width for each unit of the trees' spread
    sites: dict[tuple, Site]
    epilogues: dict[str, tuple[str, ...]]  # measured ones, by op
    ranges: dict[str, tuple[Array, Array, frozenset[tuple[int, int]]]]  # by class: low, high, (kernel, stride)
    known: dict[tuple[Kernel, bytes], tuple[NDArray, ...]] = field(default_factory=dict)  # what was predicted before

    def seconds(self, kernel: Kernel) -> Seconds:
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
            seconds[numbers] = self.predict(with_widths(alike[0], triples)).seconds
        return seconds

    def predict(self, kernel: Kernel) -> KernelPrediction:
        """Prediction with its interval. Raises `MaenasError` for an op that the table did not measure."""
        if kernel.op in STAND_INS and kernel.op not in self.constants:
            kernel = replace(kernel, op=STAND_INS[kernel.op])
        if kernel.op == "conv" and kernel.kernel == kernel.stride == 1:  # one that is not square reads another plane
            kernel = replace(kernel, in_height=kernel.out_height, in_width=kernel.out_width)
        widths = np.broadcast_arrays(kernel.in_channels, kernel.out_channels, kernel.groups)
        shape = widths[0].shape
        triples = np.stack([w.ravel() for w in widths], axis=1).astype(np.int64)
        codes, back = np.unique(codes_of(triples), return_inverse=True)
        first = np.zeros(len(codes), np.int64)
        first[back] = np.arange(len(back))
        unique = with_widths(kernel, triples[first])
        columns = [column[back].reshape(shape) for column in self._remembered(unique, codes)]
        return KernelPrediction(*(column if shape else column.item() for column in columns))

    def _remembered(self, kernel: Kernel, codes: NDArray[np.int64]) -> tuple[NDArray, ...]:
        """`_predict`, once for kernels that differ in name and place only: the necks of a search share most."""
        residual = None if kernel.residual is None else IMAGE
        alike = replace(kernel, name="", in_channels=0, out_channels=0, groups=0, residual=residual, stage=0)
        key = alike, codes.tobytes()
        if key not in self.known:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            self.known[key] = self._predict(kernel, codes)
        return self.known[key]

    def _predict(self, kernel: Kernel, codes: NDArray[np.int64]) -> tuple[NDArray, ...]:
        classes = kernel_classes(kernel)
        for name in np.unique(classes):
            if name not in self.constants:
                raise MaenasError(
                    f"latency table {self.table.id} ({self.table.device}) has no {name} kernels, which {kernel.name!r} "
                    f"needs; it measured {', '.join(sorted(self.constants))}. Measure them: repeat its "
                    "`maenas profile` with more --minutes, or with the network as --spec"
                )
        seconds, width = self._modelled(kernel, classes)
        distance = self._hull_distance(kernel, classes)
        width = width + OUTSIDE_FACTOR * distance
        measured = np.zeros(len(codes), bool)
        site = self.sites.get(site_key(kernel, resolved_epilogue(kernel, self.epilogues.get(kernel.op, ()))))
        if site is not None:
            at = np.minimum(np.searchsorted(site.codes, codes), len(site.codes) - 1)
            measured = site.codes[at] == codes
            seconds = np.where(measured, site.seconds[at], seconds)
            width = np.where(measured, site.log_half_width[at], width)
            distance = np.where(measured, 0.0, distance)
        return seconds, seconds / np.exp(width), seconds * np.exp(width), measured, distance

    def base_seconds(self, kernel: Kernel, classes: NDArray | None = None) -> Array:
        """The prediction without correction; widths must be arrays [n]."""
        classes = kernel_classes(kernel) if classes is None else classes
        work = scaled_work(kernel, self.table, self.device)
        base = np.empty(len(classes))
        for name in np.unique(classes):
            here = classes == name
            base[here] = base_seconds(pick_work(work, here), self.constants[name])
        return base

    def _modelled(self, kernel: Kernel, classes: NDArray) -> tuple[Array, Array]:
        """Seconds and log half-width, as if no row were the kernel's own."""
        base = self.base_seconds(kernel, classes)
        X = features(kernel, self.table, self.device)
        correction, spread = np.empty(len(X)), np.empty(len(X))
        for name in np.unique(classes):
            here = classes == name
            said = self.forests[name].leaves(X[here])
            correction[here], spread[here] = np.median(said, axis=0), np.std(said, axis=0, dtype=np.float64)
        return base * np.exp(correction), self.width_factor * (spread + SPREAD_FLOOR)

    def _hull_distance(self, kernel: Kernel, classes: NDArray) -> Array:
        position = log_position(kernel)
        distance = np.empty(len(classes))
        for name in np.unique(classes):
            here = classes == name
            low, high, sizes = self.ranges[name]
            excess = np.maximum(0.0, np.maximum(low - position[here], position[here] - high))
            missing = min(abs(math.log(kernel.kernel / k)) + abs(math.log(kernel.stride / s)) for k, s in sizes)
            distance[here] = np.linalg.norm(excess, axis=1) + missing
        return np.where(distance < 1e-9, 0.0, distance)


def base_seconds(work: KernelWork, constants: tuple[float, float, float, float]) -> Array:
    compute, serial, memory, launch = constants
    return np.maximum(work.compute_s / compute, work.serial_s * serial) + work.memory_s / memory + launch
