"""The whole front of latency against score, also where the depth bound changes with the budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from maenas.errors import MaenasError
from maenas.nas.depth_bound import Depths, resolve_depths
from maenas.nas.exact import cheapest
from maenas.nas.front import FrontResult, front
from maenas.nas.layered import Solution
from maenas.nas.problem import Constraint
from maenas.nas.request import Setup, detector_of, shallowest
from maenas.score_names import SCORES
from maenas.units import format_latency

STEP = 0.01  # relative step at which changes of the depth bound are looked for before they are bisected


@dataclass(frozen=True)
class FrontPoint:
    """Best architecture from a latency on, up to the next point's; `max_layers` is the depth bound there."""

    solution: Solution
    latency_s: float
    score: float
    max_layers: int | None


@dataclass(frozen=True)
class Front:
    """Points by rising latency; `proven` says whether no better architecture exists at any budget between."""

    setup: Setup
    low_s: float
    high_s: float
    points: tuple[FrontPoint, ...]
    proven: bool


def pareto_front(setup: Setup, low_s: float) -> Front:
    """Front from `low_s` (0: the fastest architecture) to the latency budget of `setup`."""
    if setup.problem.objective is None:
        raise MaenasError(f"the {setup.request.score} score is not additive over stages, so there is no exact front")
    high_s = setup.request.latency_s[0]
    if low_s >= high_s:
        raise MaenasError(f"--from {format_latency(low_s)} is not below --budget {format_latency(high_s)}")
    begin_s = low_s or min(high_s, float(cheapest(setup.problem)[0].cost[0]) * 1e-12)
    unit = 1.0 if setup.request.score == "flops" else 1e-9
    points: list[FrontPoint] = []
    proven = True
    for begin, end, depths in _intervals(setup, begin_s, high_s):
        result = _front_between(setup, begin, end, depths)
        proven &= result.proven
        for solution in result.solutions:
            if not points or solution.score > points[-1].solution.score:
                points.append(FrontPoint(solution, solution.cost[0] * 1e-12, solution.score * unit, depths.max_layers))
    if not points:
        raise MaenasError(f"no architecture of {setup.space.name} is as fast as {format_latency(high_s)}")
    return Front(setup, low_s, high_s, tuple(points), proven)


def _front_between(setup: Setup, begin: float, end: float, depths: Depths) -> FrontResult:
    problem = setup.problem
    latency, *others = problem.constraints
    others = [c for c in others if c.name != "layers"]
    if depths.max_layers is not None:
        others.append(Constraint("layers", problem.tables.quantities["layers"], float(depths.max_layers)))
    constraints = (replace(latency, limit=float(np.floor(end * 1e12 + 1e-6))), *others)
    problem = replace(problem, constraints=constraints, max_depth=shallowest(setup.space, depths))
    return front(problem, float(np.ceil(begin * 1e12 - 1e-6)))


def _intervals(setup: Setup, low_s: float, high_s: float) -> list[tuple[float, float, Depths]]:
    """Parts of `[low_s, high_s]` with one depth bound each."""

    def depths_at(seconds: float) -> Depths:
        quantity, _ = setup.budgets[0]
        return resolve_depths(
            setup.space,
            [(quantity, seconds), *setup.budgets[1:]],
            input_size=setup.input_size,
            num_classes=setup.request.num_classes,
            scope=setup.request.scope,
            max_layers=setup.request.max_layers,
            max_effectiveness=setup.request.max_effectiveness,
            prices_layers=SCORES[setup.request.score].prices_layers,
        )

    parts, begin, here = [], low_s, depths_at(low_s)
    while begin < high_s:
        inside, outside = begin, begin
        while outside < high_s and depths_at(outside) == here:
            inside, outside = outside, min(outside * (1 + STEP), high_s)
        if depths_at(outside) == here:
            return [*parts, (begin, high_s, here)]
        while outside - inside > 1e-9:
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if depths_at(middle) == here else (inside, middle)
        parts.append((begin, inside, here))
        begin, here = outside, depths_at(outside)
    return parts


def front_document(front: Front) -> dict[str, Any]:
    """The whole front as JSON data."""
    return {
        "command": "pareto",
        "space": front.setup.space.name,
        "score": front.setup.request.score,
        "scope": front.setup.request.scope,
        "conditions": front.setup.predictors[0].conditions,
        "proven": front.proven,
        "points": [
            {
                "latency_ms": round(point.latency_s * 1e3, 9),
                "score": round(point.score, 9),
                "max_layers": point.max_layers,
                "id": detector_of(front.setup, point.solution.genome).id,
                "genome": [int(gene) for gene in point.solution.genome],
            }
            for point in front.points
        ],
    }
