"""Provable optimum of an additive score under additive limits, the k best, and the whole Pareto front.

The architectures are the paths of a layered graph (`layered`). A Lagrangian bound (`relaxation`) says how much any
path can score. A first label-setting pass (`labels`) with a beam finds good paths; a second, complete one keeps every
path that the bounds let improve on them, so that what it ends with is optimal. Scores and costs are integers and the
result is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from maenas.errors import MaenasError
from maenas.nas.label_setting import Labels, set_labels, trace
from maenas.nas.layered import Floats, Layers, Solution, make_layers
from maenas.nas.problem import Problem, effectiveness_of, evaluate, feasible, genome_key
from maenas.nas.relaxation import (
    Bound,
    Test,
    best_path,
    cheapest_completions,
    costs_only,
    evaluate_bound,
    fix_options,
    make_test,
    minimise_bound,
    minimise_near,
)
from maenas.nas.space import Genome

MAX_SIFTED = 4096
FIRST_REACH = 0.01  # how far below the bound the first, incomplete pass looks, of the range above the least score
GOOD = 0.001  # how far below the bound, of the same range, a known solution may lie to do without that pass
NEAR_REACH = 0.005  # how far below the bound a known solution may lie for a similar problem's multipliers to do
BEAM = 2000
ROUGH_STEPS, TIGHT_STEPS = 16, 48  # ellipsoid steps per limit
ROUGH_BOUNDS, FRONT_BOUNDS = 8, 32  # budgets at which a front is bounded
NEAR_FACTORS = (0.75, 1.35)  # how far the first multiplier of a similar problem may lie
FACTORS = (0.6, 0.8, 1.2, 1.5)  # of the multipliers on all limits but the first


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
    multipliers: tuple[float, ...] = ()  # of the tightest bound; a similar problem is solved faster from there


def solve(problem: Problem, *, k: int = 1, known: Sequence[Genome] = ()) -> ExactResult:
    """The k best architectures of `problem`; `known` genomes (feasible or not) speed the proof up.

    `max_effectiveness` is not additive: the k best are taken from as many of the best without it as that needs, and
    are proven if `MAX_SIFTED` of those suffice. Raises `MaenasError` if the objective is not additive.
    """
    layers, archive = make_layers(problem), _solutions(problem, known)
    return _sift(problem, k, lambda wanted: _solve_layers(layers, wanted, archive))


def solve_each(problems: Iterable[tuple[Problem, Sequence[Genome]]]) -> Iterator[ExactResult]:
    """The optima of problems that differ in neck and head only, each with genomes that are `known`.

    The search for each bound begins where the one before ended, so similar necks should follow each other. Raises
    `MaenasError` if the objective is not additive.
    """
    shared: Layers | None = None
    near: Floats | None = None
    for problem, known in problems:
        shared = make_layers(problem) if shared is None else shared
        tails = np.broadcast_arrays(*(c.tables.tail for c in problem.constraints))
        layers = replace(shared, tail_cost=np.array(tails).reshape(shared.tail_cost.shape))
        result = _sift(problem, 1, partial(_solve_near, layers, known=_solutions(problem, known), near=near))
        near = np.array(result.multipliers) if result.multipliers else near
        yield result


def _sift(problem: Problem, k: int, best: Callable[[int], ExactResult]) -> ExactResult:
    """The k best that satisfy `max_effectiveness`, of as many of the `best` as that needs."""
    if problem.max_effectiveness is None:
        return best(k)
    wanted = k
    while True:
        result = best(wanted)
        genomes = [solution.genome for solution in result.solutions]
        fits = effectiveness_of(problem, np.array(genomes)) <= problem.max_effectiveness if genomes else []
        kept = tuple(solution for solution, fit in zip(result.solutions, fits, strict=True) if fit)[:k]
        exhausted = len(result.solutions) < wanted
        if len(kept) == k or exhausted or not result.proven or wanted >= MAX_SIFTED:
            proven = result.proven and (len(kept) == k or exhausted)
            upper = float(kept[0].score) if proven and kept else -np.inf if proven else result.upper_bound
            return replace(result, solutions=kept, upper_bound=upper, proven=proven)
        wanted *= 16


def cheapest(problem: Problem) -> list[Solution]:
    """For each limit, the architecture that needs least of it (its score is not set)."""
    layers = make_layers(replace(problem, objective=problem.tables.quantities["flops"]))
    free = costs_only(layers)
    return [best_path(free, *evaluate_bound(free, unit)) for unit in np.eye(len(layers.limits))]


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
    rough, paths = _bounds(layers, rough_limits, ROUGH_STEPS)

    def tests(graph: Layers, bounds: Sequence[Bound], floors: Floats) -> list[Test]:
        pairs = zip(bounds, floors, strict=True)
        return [make_test(graph, bound, float(floor), FACTORS) for bound, floor in pairs if floor < np.inf]

    def steps(graph: Layers, history: list[Labels]) -> dict[tuple[int, ...], Solution]:
        rows = _steps(history[-1].cost[0], history[-1].score, low)
        return _archive([trace(graph, history, row) for row in rows], layers.limits)

    def explore(graph: Layers, tests: list[Test]) -> int:
        """Add what a beam finds to the archive; returns the labels made."""
        history, labels = set_labels(graph, tests, cheapest, k=1, beam=BEAM)
        archive.update(steps(graph, history) if history is not None else {})
        return labels

    archive = _archive(paths, layers.limits)
    near = np.array(
        [_below(layers, b, FIRST_REACH) - b.mu[0] * row[0] for b, row in zip(rough, rough_limits, strict=True)]
    )
    small, total = fix_options(layers, tests(layers, rough, near)), 0
    total += explore(small, tests(small, rough, near))
    # From here on nothing is left out that could improve on what is known at any budget.
    floors = _floors(_staircase(archive, low), low, rough, rough_limits)
    small = fix_options(layers, tests(layers, rough, floors))
    tight, _ = _bounds(small, limits, TIGHT_STEPS)
    total += explore(small, tests(small, tight, _floors(_staircase(archive, low), low, tight, limits)))
    final = tests(small, tight, _floors(_staircase(archive, low), low, tight, limits))
    small = fix_options(small, final)
    history, labels = set_labels(small, final, cheapest, k=1)
    if history is None:
        return FrontResult(tuple(_staircase(archive, low)), False, total + labels)
    archive |= steps(small, history)
    return _front_result(problem, _staircase(archive, low), total + labels)


def _bounds(layers: Layers, limits: Sequence[Floats], steps: int) -> tuple[list[Bound], list[Solution]]:
    """A bound for each of the limits, and all paths met."""
    pairs = [minimise_bound(replace(layers, limits=row), steps) for row in limits]
    return [bound for bound, _ in pairs], [path for _, paths in pairs for path in paths]


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


def _solve_near(layers: Layers, k: int, known: Sequence[Solution], near: Floats | None) -> ExactResult:
    """As `_solve_layers`, faster where `near`, the multipliers of a similar problem, are close to this one's."""
    if near is None:
        return _solve_layers(layers, k, known)
    rough, paths = minimise_near(layers, near, NEAR_FACTORS)
    archive = _archive([*known, *paths], layers.limits)
    floor = max(_below(layers, rough, FIRST_REACH), _kth(archive, k))
    small = fix_options(layers, [_test(layers, layers, rough, floor, ())])
    cheapest, total = cheapest_completions(small), 0
    if _kth(archive, k) < _below(layers, rough, GOOD):
        history, total = set_labels(small, [_test(small, layers, rough, floor)], cheapest, k=k, beam=max(BEAM, k))
        archive |= _archive(_best_labels(small, history, k) if history is not None else [], layers.limits)
    if _kth(archive, k) < _below(layers, rough, NEAR_REACH):  # not so similar
        return _solve_layers(layers, k, _ranked(archive))
    return _complete(layers, small, rough, archive, k, total)


def _solve_layers(layers: Layers, k: int, known: Sequence[Solution]) -> ExactResult:
    """The k best paths; some may be `known`."""
    cheapest = cheapest_completions(layers)
    if any(bound.value < 0 for bound in cheapest):
        return ExactResult((), -np.inf, True, 0, 0, _count(layers))
    [rough], paths = _bounds(layers, [layers.limits], ROUGH_STEPS)
    archive, total = _archive([*known, *paths], layers.limits), 0
    if _kth(archive, k) < _below(layers, rough, GOOD):
        first = [_test(layers, layers, rough, max(_below(layers, rough, FIRST_REACH), _kth(archive, k)))]
        small = fix_options(layers, first)
        history, total = set_labels(small, first, cheapest, k=k, beam=max(BEAM, k))
        archive |= _archive(_best_labels(small, history, k) if history is not None else [], layers.limits)
    small = fix_options(layers, [_test(layers, layers, rough, _kth(archive, k))])
    [tight], paths = _bounds(small, [layers.limits], TIGHT_STEPS)
    archive |= _archive(paths, layers.limits)
    return replace(_complete(layers, small, tight, archive, k, total), multipliers=_as_tuple(rough.mu))


def _complete(
    layers: Layers, small: Layers, bound: Bound, archive: dict[tuple[int, ...], Solution], k: int, total: int
) -> ExactResult:
    """The complete pass: nothing is left out that could be among the k best. `small` holds all of that already."""
    final = [_test(small, layers, bound, _kth(archive, k))]
    small, mu = fix_options(small, final), _as_tuple(bound.mu)
    history, labels = set_labels(small, final, cheapest_completions(small), k=k)
    counts = (total + labels, _count(small), _count(layers))
    if history is None:
        return ExactResult(_ranked(archive)[:k], bound.value, False, *counts, mu)
    best = _ranked(archive | _archive(_best_labels(small, history, k), layers.limits))[:k]
    return ExactResult(best, float(best[0].score) if best else -np.inf, True, *counts, mu)


def _test(graph: Layers, layers: Layers, bound: Bound, floor: float, factors: Sequence[float] = FACTORS) -> Test:
    """Test for paths within the limits of `layers` that score at least `floor`."""
    return make_test(graph, bound, floor - float(bound.mu[:1] @ layers.limits[:1]), factors)


def _as_tuple(mu: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in mu)


def _below(layers: Layers, bound: Bound, reach: float) -> float:
    """A share `reach` of the score's range below the bound: a score's zero means nothing."""
    least = layers.stem_score.min() + sum(options.score.min() for options in layers.stages if len(options.score))
    return bound.value - reach * max(bound.value - float(least), 0.0)


def _kth(archive: dict[tuple[int, ...], Solution], k: int) -> float:
    """Score that the k best have to reach; 0, the least there is, while fewer than k are known."""
    return float(_ranked(archive)[k - 1].score) if len(archive) >= k else 0.0


def _best_labels(layers: Layers, history: list[Labels], k: int) -> list[Solution]:
    best = np.argsort(-history[-1].score, kind="stable")[:k]
    return [trace(layers, history, int(row)) for row in best]


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
