"""Predicted against measured: whole detectors, timed by the clock of the table that predicts them."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maenas.choices import Scope
from maenas.cost import total_cost
from maenas.deploy.clock import Timing
from maenas.errors import MaenasError
from maenas.latency.measured_predictor import MeasuredPredictor
from maenas.latency.predictor import Prediction, predict
from maenas.nas.depth_bound import kernels_in_scope
from maenas.nas.sampling import random_detectors
from maenas.nas.space import load_space, space_names
from maenas.profiler.plan import DRAW_SEED
from maenas.profiler.profile import time_networks
from maenas.profiler.setup import Setup
from maenas.spec import DetectorSpec, load_spec, published_specs, resized


@dataclass(frozen=True)
class Checked:
    """One detector; `ratio` is predicted over measured."""

    name: str
    spec: DetectorSpec
    prediction: Prediction
    timing: Timing
    flops: float

    @property
    def ratio(self) -> float:
        return self.prediction.seconds / self.timing.median_s

    @property
    def is_inside(self) -> bool:
        """Whether the measurement lies in the prediction's 90 % interval."""
        return self.prediction.low <= self.timing.median_s <= self.prediction.high


@dataclass(frozen=True)
class Agreement:
    """Over several detectors: mean and worst absolute relative error, Kendall's tau, share inside the interval.

    `flops_tau` is what ranking by operations gives instead.
    """

    count: int
    mean_error: float
    worst_error: float
    kendall_tau: float
    flops_tau: float
    inside: float


def validate(
    specs: Mapping[str, DetectorSpec],
    predictor: MeasuredPredictor,
    setup: Setup,
    scope: Scope = "detector",
    on_measured: Callable[[Checked], None] = lambda checked: None,
) -> tuple[Checked, ...]:
    """Measure every spec, all of it or its backbone, and compare; `setup` must be the one of the predictor's table."""
    rows = []
    kernels = {name: kernels_in_scope(spec, scope) for name, spec in specs.items()}
    for name, timing in time_networks(kernels, setup):
        rows.append(
            Checked(name, specs[name], predict(kernels[name], predictor), timing, total_cost(kernels[name]).flops)
        )
        on_measured(rows[-1])
    return tuple(rows)


def networks_to_validate(
    names: Sequence[str] = (),
    spaces: Sequence[str] = (),
    *,
    random: int = 16,
    input_size: int | None = None,
    seed: int = 0,
) -> dict[str, DetectorSpec]:
    """Detectors by name: `names` (spec files or published ones; all published where there are none), random ones.

    `random` detectors are drawn from `spaces` (all shipped ones where none is named). Raises `MaenasError` for an
    unknown name, and for the seed that drew the networks that are in every table.
    """
    if seed == DRAW_SEED:
        raise MaenasError(f"--seed {seed} draws the networks that are in the table; choose another")
    specs = {} if names else published_specs(input_size)
    for name in names:
        stored = load_spec(name)
        specs[name if stored.name in specs else stored.name] = resized(stored.detector, input_size)
    drawn = random_detectors(
        [load_space(name) for name in spaces or space_names()], random, seed=seed, input_size=input_size
    )
    return specs | dict(drawn)


def document(rows: Sequence[Checked], scope: Scope, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison as JSON data; both tau are None for one network."""
    networks = [
        {
            "name": row.name,
            "id": row.spec.id,
            "gflops": row.flops / 1e9,
            "measured_ms": row.timing.median_s * 1e3,
            "iqr_ms": row.timing.iqr_s * 1e3,
            "predicted_ms": row.prediction.seconds * 1e3,
            "low_ms": row.prediction.low * 1e3,
            "high_ms": row.prediction.high * 1e3,
        }
        for row in rows
    ]
    found = dataclasses.asdict(agreement(rows))
    summary = {name: None if math.isnan(value) else value for name, value in found.items()}  # JSON has no NaN
    return {"command": "validate", "scope": scope, "conditions": conditions, "summary": summary, "networks": networks}


def agreement(rows: Sequence[Checked]) -> Agreement:
    """Raises `ValueError` for no rows; tau needs two and is NaN for one."""
    if not rows:
        raise ValueError("nothing to compare")
    errors = [abs(row.ratio - 1) for row in rows]
    measured = [row.timing.median_s for row in rows]
    tau = kendall_tau([row.prediction.seconds for row in rows], measured)
    flops_tau = kendall_tau([row.flops for row in rows], measured)
    inside = statistics.fmean(row.is_inside for row in rows)
    return Agreement(len(rows), statistics.fmean(errors), max(errors), tau, flops_tau, inside)


def kendall_tau(left: Sequence[float], right: Sequence[float]) -> float:
    """Kendall's tau-a in [-1, 1]; NaN for fewer than two pairs of values."""
    first, second = np.triu_indices(len(left), 1)
    x, y = np.array(left), np.array(right)
    signs = np.sign(x[first] - x[second]) * np.sign(y[first] - y[second])
    return float(signs.mean()) if len(signs) else math.nan
