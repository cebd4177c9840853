"""Provable optimum of an additive score under additive limits, and the k best.

The architectures are the paths of a layered graph (`layered`). A Lagrangian bound (`relaxation`) says how much any
path can score. A first label-setting pass (`labels`) with a beam finds good paths; a second, complete one keeps every
path that the bounds let improve on them, so that what it ends with is optimal. Scores and costs are integers and the
result is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from maenas.nas.genome import Genome, genome_key
from maenas.nas.label_setting import Labels, set_labels, trace
from maenas.nas.layered import Floats, Layers, Solution, make_layers
from maenas.nas.problem import Problem, effectiveness_of, evaluate, feasible
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

MAX_SIFTED, MAX_SIFTED_EACH = 4096, 256  # of one problem, and of each of several
FIRST_REACH = 0.01  # how far below the bound the first, incomplete pass looks, of the range above the least score
REACHES = (FIRST_REACH, 0.04, 0.16, 0.64)  # of more such passes: with fewer than k known, a complete one sees it all
GOOD = 0.001  # how far below the bound, of the same range, a known solution may lie to do without that pass
NEAR_REACH = 0.005  # how far below the bound a known solution may lie for a similar problem's multipliers to do
BEAM = 2000
ROUGH_STEPS, TIGHT_STEPS = 16, 48  # ellipsoid steps per limit
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
    return _sift(problem, k, lambda wanted: _solve_layers(layers, wanted, archive), archive, MAX_SIFTED)


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
        archive = _solutions(problem, known)
        best = partial(_solve_near, layers, known=archive, near=near)
        result = _sift(problem, 1, best, archive, MAX_SIFTED_EACH)
        near = np.array(result.multipliers) if result.multipliers else near
        yield result


def _sift(
    problem: Problem, k: int, best: Callable[[int], ExactResult], known: Sequence[Solution], most: int
) -> ExactResult:
    """The k best that satisfy `max_effectiveness`, of as many of the `best` as that needs, about `most`.

    Where that is not proven, those that are `known`, which satisfy it, are among them.
    """
    if problem.max_effectiveness is None:
        return best(k)
    wanted = k
    while True:
        result = best(wanted)
        genomes = [solution.genome for solution in result.solutions]
        fits = effectiveness_of(problem, np.array(genomes)) <= problem.max_effectiveness if genomes else []
        kept = tuple(solution for solution, fit in zip(result.solutions, fits, strict=True) if fit)[:k]
        exhausted = len(result.solutions) < wanted
        if len(kept) == k or exhausted or not result.proven or wanted >= most:
            proven = result.proven and (len(kept) == k or exhausted)
            if not proven:
                kept = _ranked({genome_key(s.genome): s for s in (*kept, *known)})[:k]
            upper = float(kept[0].score) if proven and kept else -np.inf if proven else result.upper_bound
            return replace(result, solutions=kept, upper_bound=upper, proven=proven)
        wanted *= 16


def cheapest(problem: Problem) -> list[Solution]:
    """For each limit, the architecture that needs least of it (its score is not set)."""
    layers = make_layers(replace(problem, objective=problem.tables.quantities["flops"]))
    free = costs_only(layers)
    return [best_path(free, evaluate_bound(free, unit)) for unit in np.eye(len(layers.limits))]


def bounds_of(layers: Layers, limits: Sequence[Floats], steps: int) -> tuple[list[Bound], list[Solution]]:
    """A bound for each of the limits, and all paths met."""
    pairs = [minimise_bound(replace(layers, limits=row), steps) for row in limits]
    return [bound for bound, _ in pairs], [path for _, paths in pairs for path in paths]


def _solve_near(layers: Layers, k: int, known: Sequence[Solution], near: Floats | None) -> ExactResult:
    """As `_solve_layers`, faster where `near`, the multipliers of a similar problem, are close to this one's."""
    if near is None or near[0] <= 0:  # nothing was binding
        return _solve_layers(layers, k, known)
    rough, paths = minimise_near(layers, near)
    archive = within([*known, *paths], layers.limits)
    floor = max(below(layers, rough, FIRST_REACH), _kth(archive, k))
    small = fix_options(layers, [_test(layers, layers, rough, floor, ())])
    cheapest, total = cheapest_completions(small), 0
    if _kth(archive, k) < below(layers, rough, GOOD):
        history, total = set_labels(small, [_test(small, layers, rough, floor)], cheapest, k=k, beam=max(BEAM, k))
        archive |= within(_best_labels(small, history, k) if history is not None else [], layers.limits)
    if _kth(archive, k) < below(layers, rough, NEAR_REACH):  # not so similar
        return _solve_layers(layers, k, _ranked(archive))
    return _complete(layers, small, rough, archive, k, total)


def _solve_layers(layers: Layers, k: int, known: Sequence[Solution]) -> ExactResult:
    """The k best paths; some may be `known`."""
    cheapest = cheapest_completions(layers)
    if any(bound.value < 0 for bound in cheapest):
        return ExactResult((), -np.inf, True, 0, 0, _count(layers))
    [rough], paths = bounds_of(layers, [layers.limits], ROUGH_STEPS)
    archive, total = within([*known, *paths], layers.limits), 0
    for near, far in pairwise((GOOD, *REACHES)):
        if _kth(archive, k) >= below(layers, rough, near):
            break
        first = [_test(layers, layers, rough, max(below(layers, rough, far), _kth(archive, k)))]
        small = fix_options(layers, first)
        history, labels = set_labels(small, first, cheapest, k=k, beam=max(BEAM, k))
        archive |= within(_best_labels(small, history, k) if history is not None else [], layers.limits)
        total += labels
    small = fix_options(layers, [_test(layers, layers, rough, _kth(archive, k))])
    [tight], paths = bounds_of(small, [layers.limits], TIGHT_STEPS)
    archive |= within(paths, layers.limits)
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
    best = _ranked(archive | within(_best_labels(small, history, k), layers.limits))[:k]
    return ExactResult(best, float(best[0].score) if best else -np.inf, True, *counts, mu)


def _test(graph: Layers, layers: Layers, bound: Bound, floor: float, factors: Sequence[float] = FACTORS) -> Test:
    """Test for paths within the limits of `layers` that score at least `floor`."""
    return make_test(graph, bound, floor - float(bound.mu[:1] @ layers.limits[:1]), factors)


def _as_tuple(mu: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in mu)


def below(layers: Layers, bound: Bound, reach: float) -> float:
    """A share `reach` of the score's range below the bound: a score's zero means nothing."""
    least = layers.stem_score.min() + sum(options.score.min() for options in layers.stages if len(options.score))
    return bound.value - reach * max(bound.value - float(least), 0.0)


def _kth(archive: dict[tuple[int, ...], Solution], k: int) -> float:
    """Score that the k best have to reach; any, while fewer than k are known."""
    return float(_ranked(archive)[k - 1].score) if len(archive) >= k else -np.inf


def _best_labels(layers: Layers, history: list[Labels], k: int) -> list[Solution]:
    best = np.argsort(-history[-1].score, kind="stable")[:k]
    return [trace(layers, history, int(row)) for row in best]


def _count(layers: Layers) -> int:
    return sum(len(options.score) for options in layers.stages)


def within(solutions: Sequence[Solution], limits: Floats) -> dict[tuple[int, ...], Solution]:
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
