"""A calibrated table as text."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from maenas.latency.table import LatencyTable
from maenas.reports.text import columns

if TYPE_CHECKING:
    pass


def format_calibration(table: LatencyTable) -> str:
    """Constants, residuals and leave-one-out errors of a calibrated table."""
    record = table.calibration
    constants = ", ".join(f"{key} {value:.4g}" for key, value in asdict(table.constants).items())
    rows = [["network", "measured ms", "fitted ms", "error", "left out ms", "error"]]
    for r in record.residuals:
        name = r.network if r.scored else f"{r.network} (not scored)"
        fitted = [f"{r.fitted_ms:.3f}", f"{r.fit_error:+.1%}"]
        rows.append([name, f"{r.measured_ms:.3f}", *fitted, f"{r.left_out_ms:.3f}", f"{r.left_out_error:+.1%}"])
    return "\n".join(
        [
            f"{table.device} {table.setup} ({table.runtime}, {table.precision}, batch {table.batch}), id {table.id}",
            f"constants: {constants}",
            columns(rows),
            f"mean absolute error {record.mean_error_fit:.2%} fitted, {record.mean_error_left_out:.2%} leave-one-out",
        ]
    )
