"""`maenas.profile` and `maenas.validate`: measure this machine, and check predictions against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maenas.choices import Precision, Scope
from maenas.latency.measured import MeasuredTable
from maenas.latency.predictor import load_predictor
from maenas.profiler import validate as validation
from maenas.profiler.job import ProfileRequest, open_job, run_job
from maenas.profiler.profile import Progress
from maenas.profiler.validate import Agreement, Checked
from maenas.profiler.verify import clock_of_table, measured_predictor_of
from maenas.spec import DetectorSpec


def profile(
    request: ProfileRequest = ProfileRequest(),  # noqa: B008
    *,
    path: str | Path | None = None,
    minutes: float = 14.0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> MeasuredTable:
    """Measure the kernels of this machine into a latency table, going on where its file stops.

    `path` defaults to a file in the folder `latency_tables`. Raises `MaenasError` as the backend and the file do.
    """
    job = open_job(request, None if path is None else Path(path))
    return run_job(job, minutes=minutes, on_progress=on_progress)


@dataclass(frozen=True)
class Validation:
    """Detectors measured whole on this machine beside their predictions."""

    rows: tuple[Checked, ...]
    scope: Scope
    conditions: Mapping[str, Any]
    device_name: str
    runtime: str

    @property
    def agreement(self) -> Agreement:
        """Mean and worst error, rank correlation, share inside the interval."""
        return validation.agreement(self.rows)

    def document(self) -> dict[str, Any]:
        """All of it as JSON data."""
        return validation.document(self.rows, self.scope, self.conditions)


def validate(
    specs: Mapping[str, DetectorSpec] | None = None,
    *,
    device: str = "cpu",
    precision: Precision | None = None,
    scope: Scope = "detector",
    on_measured: Callable[[Checked], None] = lambda row: None,
    on_rows: Callable[[Validation], None] = lambda so_far: None,
) -> Validation:
    """Measure `specs` on this machine and compare with their predictions from a table that was measured here.

    Without `specs`: the published detectors and 16 random ones. `on_measured` hears of every row, `on_rows` of all rows
    so far. Raises `MaenasError` where the table is of another machine.
    """
    chosen = validation.networks_to_validate() if specs is None else specs
    predictor = measured_predictor_of(load_predictor(device, precision=precision))
    clock = clock_of_table(predictor)
    rows: list[Checked] = []

    def so_far() -> Validation:
        return Validation(tuple(rows), scope, predictor.conditions, predictor.device.name, clock.backend.runtime)

    def keep(row: Checked) -> None:
        rows.append(row)
        on_measured(row)
        on_rows(so_far())

    validation.validate(chosen, predictor, clock, scope, keep)
    return so_far()
