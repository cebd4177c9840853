"""Measure the best candidates of a search on the device that its table was measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maenas.deploy.clock import Timing
from maenas.errors import MaenasError
from maenas.latency.measured_predictor import MeasuredPredictor
from maenas.latency.predictor import AnyPredictor
from maenas.nas.depth_bound import kernels_in_scope
from maenas.nas.request import Setup
from maenas.nas.run import Candidate, SearchResult, reordered
from maenas.profiler.backends import backend_of_table
from maenas.profiler.profile import time_networks
from maenas.profiler.setup import Setup as Clock


@dataclass(frozen=True)
class Verified:
    """One candidate, measured whole. `within` says whether it meets the latency budget so measured."""

    candidate: Candidate
    timing: Timing
    within: bool

    def document(self, clock: Clock) -> dict[str, Any]:
        """What a spec's provenance says about the measurement."""
        return {
            "ms": self.timing.median_s * 1e3,
            "iqr_ms": self.timing.iqr_s * 1e3,
            "samples": self.timing.samples,
            "runtime": clock.backend.runtime,
            **clock.backend.conditions,
        }


def clock_of(setup: Setup) -> Clock:
    """The clock that the search's table was measured with; raises `MaenasError` as `clock_of_table` does."""
    if not setup.request.latency_s:
        raise MaenasError("--verify compares measured latencies with a budget: give --budget")
    return clock_of_table(setup.predictors[0])


def clock_of_table(predictor: AnyPredictor) -> Clock:
    """The clock of the predictor's table; raises `MaenasError` where this machine or the runtime is another."""
    table = measured_predictor_of(predictor).interpolator.table
    backend = backend_of_table(table)
    if backend.device_name != table.conditions.get("hardware"):
        raise MaenasError(
            f"the table was measured on {table.conditions.get('hardware')}, this machine is {backend.device_name}: "
            "measure a table here (`maenas profile`)"
        )
    if backend.runtime != table.runtime:
        raise MaenasError(
            f"the table was measured with {table.runtime}, here is {backend.runtime}: install that version, or measure "
            "a table with this one (`maenas profile`)"
        )
    return Clock(backend, table.precision, table.batch)


def measured_predictor_of(predictor: AnyPredictor) -> MeasuredPredictor:
    """`predictor`, which must come from a measured table; raises `MaenasError`."""
    if not isinstance(predictor, MeasuredPredictor):
        raise MaenasError(
            "measuring happens on this machine: give a table measured here (`maenas profile`) as the first --device"
        )
    return predictor


def verify(
    result: SearchResult, clock: Clock, on_measured: Callable[[Verified], None]
) -> tuple[SearchResult, tuple[Verified, ...]]:
    """Measure every candidate; the result keeps those within the budget, the fastest first.

    Raises `MaenasError` if none is.
    """
    budget_s = result.setup.request.latency_s[0]
    rows = []
    scope = result.setup.request.scope
    networks = {
        str(number): kernels_in_scope(candidate.spec, scope) for number, candidate in enumerate(result.candidates)
    }
    for candidate, (_, timing) in zip(result.candidates, time_networks(networks, clock), strict=True):
        rows.append(Verified(candidate, timing, timing.median_s <= budget_s))
        on_measured(rows[-1])
    kept = sorted((row for row in rows if row.within), key=lambda row: row.timing.median_s)
    if not kept:
        fastest = min(row.timing.median_s for row in rows)
        raise MaenasError(
            f"none of the {len(rows)} candidates meets {budget_s * 1e3:g} ms when measured; the fastest takes "
            f"{fastest * 1e3:.3f} ms. Search with a budget lower by that much, or measure on a quieter machine"
        )
    return reordered(result, tuple(row.candidate for row in kept)), tuple(kept)
