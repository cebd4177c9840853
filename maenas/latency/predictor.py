"""Latency of kernels and networks on a device, with an interval and a statement of what the number is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from maenas.cost import PRECISION_BYTES
from maenas.errors import MaenasError
from maenas.files import FileStamp, file_stamp
from maenas.kernels import Kernel
from maenas.latency.device import Device, Precision, get_device
from maenas.latency.find import find_measured, is_measured
from maenas.latency.intervals import student_t95
from maenas.latency.kernel_model import Constants, Seconds, kernel_seconds
from maenas.latency.measured import read_measured
from maenas.latency.measured_predictor import MeasuredPredictor, measured_predictor
from maenas.latency.table import (
    SETUPS,
    LatencyTable,
    familiar_attention,
    read_table,
    shipped_precisions,
    shipped_table,
)
from maenas.latency.transfer import Transfer, read_transfer

DEFAULT_DEVICE = "t4"
DEFAULT_PRECISION = "fp16"
SHARED = "shared"  # in place of a table's id and setup: constants that devices share
HOST_BOUND = "bound by the host"  # in the conditions of a setup whose small inputs are
LEAST_SAVED = 0.02  # of a network's time, to be told
PARTS = ("backbone", "neck", "head")


@dataclass(frozen=True)
class Predictor:
    """The kernel model on one device in one setup. Latencies are of one batch, in seconds, without NMS
    unless `conditions` say otherwise.

    `table_id` is the id of the table that the constants come from, or "shared". `calibrated` is false where they were
    fitted on another device, precision or batch: then the error is that of devices left out whole.
    """

    device: Device
    precision: Precision
    batch: int
    constants: Constants
    network_seconds: float
    table_id: str
    description: str
    calibrated: bool
    conditions: dict[str, Any]
    log_half_width: float

    def kernel_seconds(self, kernel: Kernel) -> Seconds:
        """Seconds of one fused kernel; an array where its widths are arrays."""
        return kernel_seconds(
            kernel, device=self.device, precision=self.precision, batch=self.batch, constants=self.constants
        )

    def interval(self, seconds: float) -> tuple[float, float]:
        """90 % prediction interval around a network's predicted seconds.

        e^(+-w), w = t s sqrt(1 + 1/n), s the root mean square of the left-out log errors and t the 95 % quantile of
        Student's t with n degrees of freedom: the errors are taken as normal around zero. n counts what was left out
        together: families of networks; kinds of devices where the device is not calibrated.
        """
        factor = math.exp(self.log_half_width)
        return seconds / factor, seconds * factor

    def for_others(self, kernels: Sequence[Kernel], seconds: Sequence[float]) -> Predictor:
        """This predictor for a network of others that has `kernels`, of so many seconds each.

        Where more of the time is what attention consists of than in any network of the setup it is not calibrated. The
        published latencies of nine detectors with transformers are 25 to 30 % below what the T4's first setup says of
        them (docs/lab/latency.md).
        """
        pairs = zip(kernels, seconds, strict=True)
        share = math.fsum(value for kernel, value in pairs if _is_attention(kernel)) / (math.fsum(seconds) or 1.0)
        device, spent = self.device.id, f"{share:.0%} of its time in products over positions, softmax and reordering"
        if not self.calibrated or share <= familiar_attention(device, self.conditions["setup"]):
            return self
        others = [f"{device}@{name}" for name in SETUPS.get(device, ()) if share <= familiar_attention(device, name)]
        instead = f"; {others[0]} is" if others and any(kernel.op == "softmax" for kernel in kernels) else ""
        half_width = read_transfer().log_half_width
        stated = {"mean_abs_error_left_out": None, "interval": _interval_text(half_width, False)}
        return replace(
            self,
            description=f"{self.description}; NOT for a network that spends {spent}{instead}",
            calibrated=False,
            conditions={**self.conditions, "calibrated": False, **stated},
            log_half_width=half_width,
        )


def _is_attention(kernel: Kernel) -> bool:
    """Whether a kernel is one that attention consists of: a product over positions, a softmax or a reordering."""
    if kernel.op == "matmul":
        return kernel.out_height * kernel.out_width > 1
    return kernel.op == "softmax" or (kernel.op == "concat" and len(kernel.inputs) == 1)


AnyPredictor = Predictor | MeasuredPredictor


def provenance_word(predictor: AnyPredictor) -> str:
    """What a network's latency from `predictor` is to be called wherever it is shown."""
    return "modelled" if predictor.conditions["kind"] == "modelled" else "predicted from measured kernels"


@dataclass(frozen=True)
class Prediction:
    """Predicted latency of a network, in seconds; `parts` sums the kernels by the first word of their names.

    `estimated_seconds` is the part of it whose ops a measured table lacks: estimated from bytes. `saved_seconds` is
    what a network that is small for the processor's caches saves in a loop of its own.
    """

    seconds: float
    low: float
    high: float
    kernel_seconds: tuple[float, ...]
    parts: dict[str, float]
    estimated_seconds: float = 0.0
    saved_seconds: float = 0.0

    @property
    def warm_seconds(self) -> float | None:
        """What the network takes in a loop of its own; None where it saves next to nothing."""
        return self.seconds - self.saved_seconds if self.saved_seconds > LEAST_SAVED * self.seconds else None


def load_predictor(device: str, *, precision: str | None = None, batch: int = 1) -> AnyPredictor:
    """Predictor for `device`: a catalogue name, a name with a setup ("t4@damo-yolo-report"), a table file (.json), the
    name of a measured table, or "cpu" for the table measured on this machine's processor (see `find_measured`).

    A measured table gives a `MeasuredPredictor`, for the table's own precision and batch only. A device without a table
    of its own gets the constants that devices share, with its own figures. Without `precision`: the measured table's
    own, else fp16. Raises `MaenasError` for an unknown device or setup, and for a precision that the device lacks.
    """
    if precision is not None and precision not in PRECISION_BYTES:
        raise MaenasError(f"unknown precision {precision!r}; the known ones are {', '.join(PRECISION_BYTES)}")
    if batch < 1:
        raise MaenasError(f"batch is {batch}; it must be at least 1")
    path = device if device.lower().endswith(".json") else find_measured(device, precision=precision, batch=batch)
    if path is not None and is_measured(path):
        return _measured(str(path), file_stamp(Path(path)), precision, batch)
    return _modelled(device, precision or DEFAULT_PRECISION, batch)


@lru_cache(maxsize=4)
def _measured(path: str, _stamp: FileStamp, precision: str | None, batch: int) -> MeasuredPredictor:
    """Fitting takes seconds, and a shortlist asks a dozen times; a file that has changed is read anew."""
    return measured_predictor(read_measured(path), precision=precision, batch=batch)


def _modelled(device: str, precision: str, batch: int) -> Predictor:
    table, hardware = _find(device, cast(Precision, precision))
    _require_precision(hardware, precision)
    transfer = read_transfer()
    calibrated = table is not None and (table.precision, table.batch) == (precision, batch)
    half_width = _log_half_width(table) if table and calibrated else transfer.log_half_width
    return Predictor(
        device=hardware,
        precision=cast(Precision, precision),
        batch=batch,
        constants=table.constants if table else transfer.constants.on(hardware),
        network_seconds=0.0,
        table_id=table.id if table else SHARED,
        description=_description(table, transfer, hardware, precision, batch),
        calibrated=calibrated,
        conditions=_conditions(table, hardware, precision, batch, half_width),
        log_half_width=half_width,
    )


def predict(kernels: Sequence[Kernel], predictor: AnyPredictor) -> Prediction:
    """Latency of a network of scalar kernels: their sum, plus the predictor's part per network."""
    seconds = tuple(float(predictor.kernel_seconds(kernel)) for kernel in kernels)
    total = math.fsum(seconds) + predictor.network_seconds
    parts: dict[str, float] = {}
    for kernel, value in zip(kernels, seconds, strict=True):
        prefix = kernel.name.partition(".")[0]
        part = prefix if prefix in PARTS else "other"
        parts[part] = parts.get(part, 0.0) + value
    estimated = estimated_seconds(kernels, seconds, predictor)
    low, high = widened_interval(predictor, total, estimated)
    saved = saved_seconds(predictor, kernels, seconds)
    return Prediction(total, low * (1 - saved / total), high, seconds, parts, estimated, saved)


def saved_seconds(predictor: AnyPredictor, kernels: Sequence[Kernel], seconds: Sequence[float]) -> float:
    """What the network saves in a loop of its own, where its caches are known."""
    return predictor.saved_seconds(kernels, seconds) if isinstance(predictor, MeasuredPredictor) else 0.0


def estimated_seconds(kernels: Sequence[Kernel], seconds: Sequence[float], predictor: AnyPredictor) -> float:
    """What kernels take whose op is not in a measured table."""
    ops = predictor.estimated_ops if isinstance(predictor, MeasuredPredictor) else frozenset()
    return math.fsum(value for kernel, value in zip(kernels, seconds, strict=True) if kernel.op in ops)


def widened_interval(predictor: AnyPredictor, seconds: float, estimated: float) -> tuple[float, float]:
    """90 % interval of a network, `estimated` seconds of which have the wider range of an estimate."""
    low, high = predictor.interval(seconds - estimated)
    if not isinstance(predictor, MeasuredPredictor) or not estimated:
        return low, high
    factor = math.exp(predictor.estimate_log_half_width)
    return low + estimated / factor, high + estimated * factor


def _find(device: str, precision: Precision) -> tuple[LatencyTable | None, Device]:
    """The table that the constants come from, None for the shared ones, and the device."""
    if device.lower().endswith(".json"):
        table = read_table(device)
        return table, get_device(table.device)
    name, at, setup = device.partition("@")
    hardware = get_device(name)
    if not at and hardware.id not in SETUPS:
        return None, hardware
    setup = setup if at else SETUPS[hardware.id][0]
    own = precision in shipped_precisions(hardware.id, setup)
    return shipped_table(hardware.id, setup, precision if own else "fp16"), hardware


def _require_precision(device: Device, precision: str) -> None:
    rates = {"fp32": device.fp32_tflops, "fp16": device.fp16_tflops, "int8": device.int8_tops}
    if precision == "bf16":
        raise MaenasError(
            f"bf16 is not modelled for {device.name}, only measured on CPUs (`maenas profile --runtime openvino`); "
            "choose fp16, which is as fast where a GPU has both"
        )
    if rates[precision] is None:
        has = ", ".join(name for name, rate in rates.items() if rate is not None)
        raise MaenasError(f"{device.name} has no {precision} arithmetic; it has {has}")


def _log_half_width(table: LatencyTable) -> float:
    errors = [math.log(r.left_out_ms / r.measured_ms) for r in table.calibration.scored]
    n = table.calibration.families
    return student_t95(n) * math.sqrt(sum(e * e for e in errors) / len(errors)) * math.sqrt(1 + 1 / n)


def _description(table: LatencyTable | None, transfer: Transfer, device: Device, precision: str, batch: int) -> str:
    error = f"devices left out whole were off by {transfer.mean_error:.0%} on average"
    if table is None:
        return (
            f"modelled: {device.name}, {precision}, batch {batch}; NOT calibrated: constants that "
            f"{len(transfer.tables)} other devices share (fp16, batch 1); {error}"
        )
    if (table.precision, table.batch) != (precision, batch):
        return (
            f"modelled: {device.name}, {precision}, batch {batch}; NOT calibrated: constants of {table.device} "
            f"({table.runtime}, {table.precision}, batch {table.batch}); {error}"
        )
    record = table.calibration
    scored, alone = len(record.scored), record.families == len(record.scored)
    counted = f"{scored} {'networks' if alone else f'latencies in {record.families} series'}"
    return (
        f"modelled: {device.name}, {table.runtime}, {precision}, batch {batch}; calibrated on {counted}, "
        f"mean abs error {record.mean_error_left_out:.1%} {'leave-one-out' if alone else 'leave-one-series-out'}"
        + ("; with NMS" if table.nms_included else "")
        + ("; bound by the host at small inputs" if HOST_BOUND in table.conditions else "")
    )


def _conditions(
    table: LatencyTable | None, device: Device, precision: str, batch: int, half_width: float
) -> dict[str, Any]:
    """What a file that quotes a prediction says about it."""
    calibrated = table is not None and (table.precision, table.batch) == (precision, batch)
    return {
        "kind": "modelled",
        "device": device.id,
        "precision": precision,
        "batch": batch,
        "nms_included": table.nms_included if table else False,
        "calibrated": calibrated,
        "table": table.id if table else SHARED,
        "table_device": table.device if table else SHARED,
        "setup": table.setup if table else SHARED,
        "runtime": table.runtime if table else "TensorRT",
        "table_precision": table.precision if table else "fp16",
        "table_batch": table.batch if table else 1,
        "mean_abs_error_left_out": table.calibration.mean_error_left_out if table and calibrated else None,
        "interval": _interval_text(half_width, calibrated),
    }


def _interval_text(log_half_width: float, calibrated: bool) -> str:
    left_out = "" if calibrated else ": what devices left out whole were off by"
    return f"90 %, x/÷ {math.exp(log_half_width):.3f}{left_out}"
