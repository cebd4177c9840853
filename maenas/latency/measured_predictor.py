"""A measured table as a predictor: the members of `predictor.Predictor`, from measurements instead of the model.

What networks measured whole take, over the sum of their predicted kernels, gives one factor for all of the table's
predictions, and the interval of the next network: with r the log ratios of n wholes, s their standard deviation and t
the 95 % quantile of Student's t with n - 1 degrees of freedom,

    factor = exp(mean r)        90 % interval = x/÷ exp(t s sqrt(1 + 1/n))

An int8 network also converts tensors to int8 and back, at its ends and around what stays in float, which no kernel
does alone. So its wholes give a time of the network's own, too: factor and time are the least squares of the relative
errors, n - 2 the degrees of freedom, and r the log ratios to the corrected sums.

The interval is the wider of the networks' and the blocks'. Networks alone are too few, and measured too close together
in time, to show what the device's state does between two runs (docs/latency.md has the coverage of both).

A network of others has kernels far from any row, which the wholes say nothing about. With w the mean log half-width of
its kernels, weighted by their seconds, its own is sqrt(wholes^2 + (w / 2)^2): kernels err together, but not wholly
(`ERR_TOGETHER`).

A table of convolutions only, as published ones are, has no rows for pools, resize, space-to-depth and their kin. These
are estimated from the bytes they move, by the constants that devices share, and never pass for measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from maenas.cost import PRECISION_BYTES
from maenas.errors import MaenasError
from maenas.kernels import Kernel, Op
from maenas.latency.caches import Caches
from maenas.latency.device import Device, Precision, load_devices
from maenas.latency.interpolation.features import STAND_INS
from maenas.latency.interpolation.fit import fit_table
from maenas.latency.interpolation.predict import Interpolator
from maenas.latency.intervals import student_t95
from maenas.latency.kernel_model import Constants, Seconds
from maenas.latency.kernel_model import kernel_seconds as model_seconds
from maenas.latency.measured import MeasuredTable, block_kernels
from maenas.latency.transfer import read_transfer
from maenas.lowering import lower

MIN_NETWORKS = 5
ERR_TOGETHER = 0.5  # chosen on networks of others in ONNX Runtime, checked in OpenVINO: docs/lab/latency.md
MOVEMENTS: tuple[Op, ...] = (  # of bytes
    *("maxpool", "mean", "concat", "resize", "space_to_depth", "integral", "softmax", "pointwise", "decode"),
)


@dataclass(frozen=True)
class Whole:
    """How whole networks or blocks compare with the sums of their kernels: `factor` times those plus `seconds`, and
    `log_half_width` of a 90 % interval."""

    count: int
    factor: float
    seconds: float
    log_half_width: float

    @property
    def own_text(self) -> str:
        return f" + {self.seconds * 1e3:.3f} ms" if self.seconds else ""

    @property
    def text(self) -> str:
        return f"{self.factor:.3f}{self.own_text}"


@dataclass(frozen=True, eq=False)
class MeasuredPredictor:
    """Latencies are of one batch, in seconds. `calibrated` says that an error is known, which it always is here.

    `estimated_ops` are those that the table lacks; their times carry `estimate_log_half_width`.
    """

    interpolator: Interpolator
    device: Device
    precision: Precision
    batch: int
    network_seconds: float
    table_id: str
    description: str
    calibrated: bool
    conditions: dict[str, Any]
    factor: float
    log_half_width: float
    estimated_ops: frozenset[str]
    estimate_constants: Constants
    estimate_log_half_width: float
    caches: Caches | None = None

    def kernel_seconds(self, kernel: Kernel) -> Seconds:
        """Seconds of one fused kernel in a network; an array where its widths are arrays. Raises `MaenasError` for a
        kind of convolution that was not measured."""
        if kernel.op in self.estimated_ops:
            return model_seconds(
                kernel,
                device=self.device,
                precision=self.precision,
                batch=self.batch,
                constants=self.estimate_constants,
            )
        return self.interpolator.seconds(kernel) * self.factor

    def saved_seconds(self, kernels: Sequence[Kernel], seconds: Sequence[float]) -> float:
        """What a network of these scalar kernels, of so many seconds each, saves in a loop of its own."""
        if self.caches is None:
            return 0.0
        size = {"element_bytes": PRECISION_BYTES[self.precision], "batch": self.batch}
        return self.caches.saved_by(kernels, seconds, **size)

    def interval(self, seconds: float) -> tuple[float, float]:
        """90 % interval of a network's latency, from the networks and blocks that were measured whole.

        A table without them has that of one predicted kernel, which takes all kernels of a network to err together and
        does not cover what a lone launch costs more than one inside a network.
        """
        spread = math.exp(self.log_half_width)
        return seconds / spread, seconds * spread

    def for_others(self, kernels: Sequence[Kernel], seconds: Sequence[float]) -> MeasuredPredictor:
        """This predictor with the interval of a network of others that has `kernels`, of so many seconds each."""
        rows = [pair for pair in zip(kernels, seconds, strict=True) if pair[0].op not in self.estimated_ops]
        if not rows:
            return self
        found = [self.interpolator.predict(kernel) for kernel, _ in rows]
        logs = [math.log(one.high / one.seconds) for one in found]
        mean = float(np.average(logs, weights=[value for _, value in rows]))
        return replace(self, log_half_width=math.hypot(self.log_half_width, ERR_TOGETHER * mean))


def measured_predictor(
    table: MeasuredTable, *, precision: str | None = None, batch: int | None = None
) -> MeasuredPredictor:
    """Predictor of a table, fitted in seconds. Raises `MaenasError` where another precision or batch is asked for."""
    for name, wanted, own in (("precision", precision, table.precision), ("batch", batch, table.batch)):
        if wanted not in (None, own):
            raise MaenasError(f"table {table.id} was measured at {name} {own}, not {wanted}; ask for {name} {own}")
    interpolator = fit_table(table)
    held_out = interpolator.held_out
    networks, blocks = whole_networks(interpolator), whole_blocks(interpolator)
    wholes = [whole for whole in (networks, blocks) if whole is not None]
    transfer = read_transfer()
    missing = tuple(op for op in MOVEMENTS if not {op, STAND_INS.get(op, op)} & interpolator.constants.keys())
    estimated = missing if table.device in load_devices() else ()  # other hardware has no figures to go by
    log_half_width = max((whole.log_half_width for whole in wholes), default=held_out.log_error_90)
    return MeasuredPredictor(
        interpolator=interpolator,
        device=interpolator.device,
        precision=table.precision,
        batch=table.batch,
        network_seconds=networks.seconds if networks else 0.0,
        table_id=table.id,
        description=(
            f"measured: {interpolator.device.name}, {table.runtime}, {table.precision}, batch {table.batch}, "
            f"{len(table.rows)} rows; predicted kernels within {held_out.median_error:.1%} at the median, "
            f"{held_out.mean_error:.1%} at the mean (held out)"
            + (f"; {', '.join(estimated)} not in it, estimated from bytes" if estimated else "")
            + (f"; sums x {networks.text}, from {networks.count} networks measured whole" if networks else "")
        ),
        calibrated=True,
        conditions={
            "kind": table.kind,
            "device": table.device,
            "precision": table.precision,
            "batch": table.batch,
            "nms_included": False,
            "calibrated": True,
            "table": table.id,
            "table_device": table.device,
            "runtime": table.runtime,
            "rows": len(table.rows),
            "median_abs_error_left_out": held_out.median_error,
            "mean_abs_error_left_out": held_out.mean_error,
            "interval": (
                f"90 %, x/÷ {math.exp(log_half_width):.3f}, from networks and blocks measured whole"
                if wholes
                else f"90 % of a kernel's, x/÷ {math.exp(log_half_width):.3f}"
            ),
            **({"estimated_ops": list(estimated)} if estimated else {}),
            "factor": networks.factor if networks else 1.0,
            "network_seconds": networks.seconds if networks else 0.0,
            **{f"measured_{name}": text for name, text in table.conditions.items()},
        },
        factor=networks.factor if networks else 1.0,
        log_half_width=log_half_width,
        estimated_ops=frozenset(estimated),
        estimate_constants=transfer.constants.on(interpolator.device),
        estimate_log_half_width=transfer.log_half_width,
        caches=table.caches,
    )


def whole_networks(interpolator: Interpolator) -> Whole | None:
    """What the table's networks say about sums of kernels; None where there are fewer than `MIN_NETWORKS`."""
    rows = [(lower(row.detector), row.median_s) for row in interpolator.table.networks]
    return _compare(rows, interpolator, own_time=interpolator.table.precision == "int8")


def whole_blocks(interpolator: Interpolator) -> Whole | None:
    """What the table's blocks say about sums of kernels; None where there are fewer than `MIN_NETWORKS`."""
    rows = [(block_kernels(row.key), row.median_s) for row in interpolator.table.blocks]
    return _compare(rows, interpolator, own_time=False)


def _compare(
    rows: Sequence[tuple[Sequence[Kernel], float]], interpolator: Interpolator, *, own_time: bool
) -> Whole | None:
    if len(rows) < MIN_NETWORKS:
        return None
    seconds = interpolator.seconds_of_all([kernel for kernels, _ in rows for kernel in kernels])
    ends = np.cumsum([len(kernels) for kernels, _ in rows])
    sums = np.array([math.fsum(part) for part in np.split(seconds, ends[:-1])])
    measured = np.array([whole for _, whole in rows])
    factor, own = float(np.exp(np.log(measured / sums).mean())), 0.0
    if own_time:
        fitted = np.linalg.lstsq(np.column_stack([sums, np.ones_like(sums)]) / measured[:, None], np.ones_like(sums))[0]
        if fitted.min() > 0:
            factor, own = map(float, fitted)
    n, free = len(rows), len(rows) - (2 if own else 1)
    errors = np.log(measured / (factor * sums + own))
    half_width = student_t95(free) * math.sqrt((errors**2).sum() / free * (1 + 1 / n))
    return Whole(n, factor, own, half_width)


def whole_texts(table: MeasuredTable) -> list[str]:
    """How blocks and networks measured whole compare with the sums of their predicted kernels, for people."""
    if max(len(table.blocks), len(table.networks)) < MIN_NETWORKS:
        return []
    interpolator = fit_table(table)
    found = (("blocks", whole_blocks(interpolator)), ("networks", whole_networks(interpolator)))
    return [
        f"{whole.count} {name} measured whole: {whole.factor:.3f} of the sums of their predicted kernels"
        f"{whole.own_text}, 90 % of the next within x/÷ {math.exp(whole.log_half_width):.3f}"
        for name, whole in found
        if whole is not None
    ]
