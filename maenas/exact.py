"""Provable optimum of an additive score under additive limits, the k best, and the whole Pareto front.

The architectures are the paths of a layered graph (`layered`). A Lagrangian bound (`relaxation`) says how much any
path can score; label setting (`labels`) lists every path within a small gap of that bound. The gap starts tiny and
grows until the paths asked for are inside it: then they are optimal, since nothing better was left out. Scores and
costs are integers, so the result is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maenas.labels import Labels, set_labels, trace
from maenas.layered import Floats, Layers, Solution, make_layers
from maenas.problem import Problem, evaluate, feasible, genome_key
from maenas.relaxation import MARGIN, cheapest_completions, fix_options, minimise_bound
from maenas.space import Genome

FIRST_GAP = 1e-5  # of the bound
GAP_GROWTH = 4.0
FRONT_BOUNDS = 24
MULTIPLIER_STEPS = 16


@dataclass(frozen=True)
class ExactResult:
    """The k best solutions, best first, and an upper bound on every score.

    With `proven`, the first solution is the optimum and no other belongs among the k best; without solutions, no
    architecture meets the limits. Otherwise the solutions are what was found before the search grew too large.
    """

    solutions: tuple[Solution, ...]
    upper_bound: float
    proven: bool
    labels: int
    options_left: int
    options: int


def solve(problem: Problem, *, k: int = 1, known: Sequence[Genome] = ()) -> ExactResult:
    """The k best architectures of `problem`; `known` genomes (feasible or not) speed the proof up.

    Raises `MaenasError` if the objective is not additive.
    """
    layers = make_layers(problem)
    options = _count(layers)
    cheapest = cheapest_completions(layers)
    if any(bound.value < 0 for bound in cheapest):
        return ExactResult((), -np.inf, proven=True, labels=0, options_left=0, options=options)
    bound, paths = minimise_bound(layers)
    archive = _archive([*_solutions(problem, known), *paths], layers.limits)
    offset = float(bound.mu @ layers.limits)
    upper, total, gap = bound.value, 0, max(FIRST_GAP * abs(bound.value), MARGIN)
    while True:
        ranked = _ranked(archive)
        kth = float(ranked[k - 1].score) if len(ranked) >= k else 0.0
        threshold = max(kth, bound.value - gap, 0.0)  # no score is negative
        fixed = fix_options(layers, [bound], [threshold - offset])
        history, labels = set_labels(fixed, [bound], [threshold - offset], cheapest, k)
        total += labels
        if history is None:
            return ExactResult(ranked[:k], upper, False, total, _count(fixed), options)
        found = _best_labels(fixed, history, threshold, k)
        archive |= {genome_key(solution.genome): solution for solution in found}
        if len(found) == k or threshold in (kth, 0.0):
            best = _ranked(archive)[:k]
            upper = float(best[0].score) if best else -np.inf
            return ExactResult(best, upper, True, total, _count(fixed), options)
        upper = float(found[0].score) if found else threshold
        gap *= GAP_GROWTH


def _best_labels(layers: Layers, history: list[Labels], threshold: float, k: int) -> list[Solution]:
    score = history[-1].score
    best = np.argsort(-score, kind="stable")[:k]
    return [trace(layers, history, int(row)) for row in best if score[row] >= threshold]


def _count(layers: Layers) -> int:
    return sum(len(options.score) for options in layers.stages)


def _archive(solutions: Sequence[Solution], limits: Floats) -> dict[tuple[int, ...], Solution]:
    """The feasible ones, each once."""
    return {genome_key(s.genome): s for s in solutions if (np.array(s.cost) <= limits).all()}


def _ranked(archive: dict[tuple[int, ...], Solution]) -> tuple[Solution, ...]:
    """Best first; equal scores by cost, then by genome, so that the order is the same everywhere."""
    ranked = sorted(archive.items(), key=lambda item: (-item[1].score, item[1].cost, item[0]))
    return tuple(solution for _, solution in ranked)


def _solutions(problem: Problem, genomes: Sequence[Genome]) -> list[Solution]:
    """Scored form of the valid ones among `genomes`."""
    if not len(genomes) or problem.objective is None:
        return []
    rows = np.array(genomes)
    ok = feasible(problem, rows)
    scores = evaluate(problem.objective, problem.tables, rows)
    costs = [evaluate(c.tables, problem.tables, rows) for c in problem.constraints]
    return [Solution(rows[i], int(scores[i]), tuple(int(c[i]) for c in costs)) for i in np.flatnonzero(ok)]
