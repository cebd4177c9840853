"""A measured table as a predictor: the members of `predictor.Predictor`, from measurements instead of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from maenas.errors import MaenasError
from maenas.latency.device import Device, Precision
from maenas.latency.interpolate import Interpolator, KernelPrediction, fit_table
from maenas.latency.measured import MeasuredTable
from maenas.lowering import Kernel


@dataclass(frozen=True, eq=False)
class MeasuredPredictor:
    """Latencies are of one batch, in seconds. `calibrated` says that an error is known, which it always is here."""

    interpolator: Interpolator
    device: Device
    precision: Precision
    batch: int
    network_seconds: float
    table_id: str
    description: str
    calibrated: bool
    conditions: dict[str, Any]
    log_half_width: float

    def kernel_seconds(self, kernel: Kernel) -> Any:
        """Seconds of one fused kernel; an array where its widths are arrays. Raises `MaenasError` for an unmeasured
        op."""
        return self.interpolator.seconds(kernel)

    def kernel_prediction(self, kernel: Kernel) -> KernelPrediction:
        """Seconds with an interval, and whether measured, inside the measured range, or neither."""
        return self.interpolator.predict(kernel)

    def interval(self, seconds: float) -> tuple[float, float]:
        """90 % interval of one predicted kernel of the table's kind, put around any time.

        For a network it takes all kernels to err together. It does not cover what a lone launch costs more than one
        inside a network.
        """
        factor = math.exp(self.log_half_width)
        return seconds / factor, seconds * factor


def measured_predictor(
    table: MeasuredTable, *, precision: str | None = None, batch: int | None = None
) -> MeasuredPredictor:
    """Predictor of a table, fitted in seconds. Raises `MaenasError` where another precision or batch is asked for."""
    for name, wanted, own in (("precision", precision, table.precision), ("batch", batch, table.batch)):
        if wanted not in (None, own):
            raise MaenasError(f"table {table.id} was measured at {name} {own}, not {wanted}; ask for {name} {own}")
    interpolator = fit_table(table)
    held_out = interpolator.held_out
    return MeasuredPredictor(
        interpolator=interpolator,
        device=interpolator.device,
        precision=table.precision,
        batch=table.batch,
        network_seconds=0.0,
        table_id=table.id,
        description=(
            f"measured: {interpolator.device.name}, {table.runtime}, {table.precision}, batch {table.batch}, "
            f"{len(table.rows)} rows; predicted kernels within {held_out.median_error:.1%} at the median, "
            f"{held_out.mean_error:.1%} at the mean (held out)"
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
            "interval": f"90 % of a kernel's, x/÷ {math.exp(held_out.log_error_90):.3f}",
            **{f"measured_{name}": text for name, text in table.conditions.items()},
        },
        log_half_width=held_out.log_error_90,
    )
