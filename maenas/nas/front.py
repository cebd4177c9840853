"""The whole Pareto front of one limit against the score, by the means of `exact`: every budget in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maenas.errors import MaenasError
from maenas.nas.exact import BEAM, FACTORS, FIRST_REACH, ROUGH_STEPS, TIGHT_STEPS, below, bounds_of, within
from maenas.nas.label_setting import Labels, set_labels, trace
from maenas.nas.layered import Floats, Layers, Solution, make_layers
from maenas.nas.problem import Problem, effectiveness_of
from maenas.nas.relaxation import Bound, Test, cheapest_completions, fix_options, make_test

ROUGH_BOUNDS, FRONT_BOUNDS = 8, 32  # budgets at which a front is bounded


@dataclass(frozen=True)
class FrontResult:
    """Pareto front of the first limit's cost against score, by rising cost.

    The first point is the best at the lowest budget asked for; each other one is the best from its own cost on.
    `proven` is false if the search grew too large, or if `max_effectiveness` took points out of the front.
    """

    solutions: tuple[Solution, ...]
    proven: bool
    labels: int


def front(problem: Problem, low: float) -> FrontResult:
    """Best score for every budget from `low` to the limit of the first constraint, in one pass.

    Raises `MaenasError` if the objective is not additive, or nothing is limited.
    """
    if not problem.constraints:
        raise MaenasError("a Pareto front needs a budget to be drawn against")
    layers = make_layers(problem)
    cheapest = cheapest_completions(layers)
    if any(bound.value < 0 for bound in cheapest):
        return FrontResult((), True, 0)
    high = layers.limits[0]
    low = max(low, high - cheapest[0].value)
    limits = [np.r_[budget, layers.limits[1:]] for budget in np.geomspace(low, high, FRONT_BOUNDS)]
    rough_limits = [limits[0], *limits[:: len(limits) // ROUGH_BOUNDS], limits[-1]]
    rough, paths = bounds_of(layers, rough_limits, ROUGH_STEPS)

    def tests(graph: Layers, bounds: Sequence[Bound], floors: Floats) -> list[Test]:
        pairs = zip(bounds, floors, strict=True)
        return [make_test(graph, bound, float(floor), FACTORS) for bound, floor in pairs if floor < np.inf]

    def steps(graph: Layers, history: list[Labels]) -> dict[tuple[int, ...], Solution]:
        rows = _steps(history[-1].cost[0], history[-1].score, low)
        return within([trace(graph, history, row) for row in rows], layers.limits)

    def explore(graph: Layers, tests: list[Test]) -> int:
        """Add what a beam finds to the archive; returns the labels made."""
        history, labels = set_labels(graph, tests, cheapest, k=1, beam=BEAM)
        archive.update(steps(graph, history) if history is not None else {})
        return labels

    archive = within(paths, layers.limits)
    near = np.array(
        [below(layers, b, FIRST_REACH) - b.mu[0] * row[0] for b, row in zip(rough, rough_limits, strict=True)]
    )
    small, total = fix_options(layers, tests(layers, rough, near)), 0
    total += explore(small, tests(small, rough, near))
    # From here on nothing is left out that could improve on what is known at any budget.
    floors = _floors(_staircase(archive, low), low, rough, rough_limits)
    small = fix_options(layers, tests(layers, rough, floors))
    tight, _ = bounds_of(small, limits, TIGHT_STEPS)
    total += explore(small, tests(small, tight, _floors(_staircase(archive, low), low, tight, limits)))
    final = tests(small, tight, _floors(_staircase(archive, low), low, tight, limits))
    small = fix_options(small, final)
    history, labels = set_labels(small, final, cheapest, k=1)
    if history is None:
        return FrontResult(tuple(_staircase(archive, low)), False, total + labels)
    archive |= steps(small, history)
    return _front_result(problem, _staircase(archive, low), total + labels)


def _steps(cost: Floats, score: Floats, low: float) -> list[int]:
    """Rows that are the best at `low`, and from their cost on, for some budget."""
    if not len(cost):
        return []
    order = np.lexsort((-score, np.maximum(cost, low)))
    best = np.maximum.accumulate(score[order])
    return [int(row) for row in order[np.flatnonzero(np.r_[True, best[1:] > best[:-1]])]]


def _staircase(known: dict[tuple[int, ...], Solution], low: float) -> list[Solution]:
    """The steps among `known`, by rising cost; of equals the first by genome."""
    solutions = [known[key] for key in sorted(known)]
    cost = np.array([float(solution.cost[0]) for solution in solutions])
    score = np.array([float(solution.score) for solution in solutions])
    return [solutions[row] for row in _steps(cost, score, low)]


def _floors(staircase: Sequence[Solution], low: float, bounds: Sequence[Bound], limits: Sequence[Floats]) -> Floats:
    """For each bound the `score - mu[0] cost[0]` above which nothing may be left out if the staircase is the front.

    Just before each step the staircase is furthest below the bounds' envelope; the bound that is tightest there has to
    reach down to it. inf for bounds that are tightest nowhere; -inf where the staircase begins above `low`.
    """
    if not staircase or staircase[0].cost[0] > low:
        return np.full(len(bounds), -np.inf)
    ends = np.array([*(s.cost[0] - 1 for s in staircase[1:]), limits[-1][0]], dtype=np.float64)
    slopes = np.array([bound.mu[0] for bound in bounds])
    at_zero = np.array([b.value - b.mu[0] * row[0] for b, row in zip(bounds, limits, strict=True)])
    tightest = (at_zero[:, None] + slopes[:, None] * ends).argmin(axis=0)
    floors = np.full(len(bounds), np.inf)
    np.minimum.at(floors, tightest, np.array([s.score for s in staircase]) - slopes[tightest] * ends)
    return floors


def _front_result(problem: Problem, solutions: Sequence[Solution], labels: int) -> FrontResult:
    kept = tuple(solutions)
    if problem.max_effectiveness is not None and kept:
        fits = effectiveness_of(problem, np.array([s.genome for s in kept])) <= problem.max_effectiveness
        kept = tuple(solution for solution, fit in zip(kept, fits, strict=True) if fit)
    return FrontResult(kept, len(kept) == len(solutions), labels)
