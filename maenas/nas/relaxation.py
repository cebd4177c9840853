"""Lagrangian bounds on a layered graph.

With multipliers mu >= 0 on the limits, max over paths of score - mu (cost - limit) is found by dynamic programming over
widths alone, and no path within the limits scores more. Bounds are floats: callers compare them with `MARGIN`.

Legend: X contexts (combinations of tapped widths), I/O input and output widths, Q limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from maenas.nas.layered import Floats, Ints, Layers, Options, Solution, tail_at

GRID = 1.02  # ratio of neighbouring multipliers around those of a similar problem
NEIGHBOURS = 16  # how many of them on either side are looked at, by bisection
REMEMBERED = 64  # multipliers
MARGIN = 64.0  # integer steps; covers the rounding of a dozen float64 additions of values below 2**53


@dataclass(frozen=True)
class Bound:
    """Dynamic programme for one multiplier vector."""

    mu: Floats  # [Q]
    value: float  # upper bound on any feasible score
    forward: tuple[Floats, ...]  # before each stage: [X, I]
    backward: tuple[Floats, ...]  # after each stage: [X, O]
    best: Floats  # [W0] best value through each stem width
    edges: tuple[Floats, ...]  # best option on each edge of a stage: [I, O]


def _values(options: Options, mu: Floats, rows: slice | Ints) -> Floats:
    """What each of the options `rows` is worth."""
    values = options.score[rows]
    for price, cost in zip(mu, options.cost, strict=True):  # three times as fast as a product with so thin a matrix
        values = values - price * cost[rows]
    return values


def best_on_edges(options: Options, mu: Floats) -> Floats:
    """Value of the best option on every edge, `[I, O]`; remembered, for the problems that share these options."""
    key = mu.tobytes()
    if key not in options.edge_values:
        if len(options.edge_values) >= REMEMBERED:
            options.edge_values.clear()
        best = np.full(options.shape[0] * options.shape[1], -np.inf)
        for rows, starts in options.blocks:
            best[options.edge[rows][starts]] = np.maximum.reduceat(_values(options, mu, rows), starts)
        options.edge_values[key] = best.reshape(options.shape)
    return options.edge_values[key]


def evaluate_bound(layers: Layers, mu: Floats) -> Bound:
    """The bound for the multipliers `mu`."""
    edges = tuple(best_on_edges(options, mu) for options in layers.stages)
    shape = layers.tail_cost.shape
    tail = (mu @ layers.tail_cost.reshape(shape[0], prod(shape[1:]))).reshape(shape[1:])
    last = layers.stages[-1].shape[1]
    backward = [np.broadcast_to(-tail.reshape(-1, last) if tail.ndim else -tail, (max(1, tail.size // last), last))]
    for number in range(len(edges) - 1, 0, -1):
        edge, after = edges[number], backward[0]
        if layers.tapped[number - 1]:
            split = after.reshape(-1, *edge.shape)  # [X, C, O]: the input width is the last of the context
            backward.insert(0, (split + edge).max(axis=2))
        else:
            backward.insert(0, np.stack([(edge + row).max(axis=1) for row in after]))
    forward = [(layers.stem_score - mu @ layers.stem_cost)[None, :]]
    for number, edge in enumerate(edges[:-1]):
        before = forward[-1]
        if number and layers.tapped[number - 1]:
            forward.append((before[:, :, None] + edge).reshape(-1, edge.shape[1]))
        else:
            forward.append(np.stack([(row[:, None] + edge).max(axis=0) for row in before]))
    first = (edges[0] + backward[0][0]).max(axis=1)
    best = forward[0][0] + first
    return Bound(mu, float(best.max() + mu @ layers.limits), tuple(forward), tuple(backward), best, edges)


def edge_completion(layers: Layers, bound: Bound, number: int) -> Floats:
    """Best value of a path through each edge of stage `number` (0-based), the edge itself not counted: `[I, O]`."""
    before, after = bound.forward[number], bound.backward[number]
    inputs, outputs = layers.stages[number].shape
    if number and layers.tapped[number - 1]:
        return (before[:, :, None] + after.reshape(-1, inputs, outputs)).max(axis=0)
    best = np.full((inputs, outputs), -np.inf)
    for row_before, row_after in zip(before, after, strict=True):
        np.maximum(best, row_before[:, None] + row_after, out=best)
    return best


def best_path(layers: Layers, bound: Bound) -> Solution:
    """A path that attains the bound."""
    width, context = int(bound.best.argmax()), 0
    genome, score, cost = [width], layers.stem_score[width], layers.stem_cost[:, width].copy()
    for number, options in enumerate(layers.stages):
        outputs = options.shape[1]
        out = int((bound.edges[number][width] + bound.backward[number][context]).argmax())
        edge = width * outputs + out
        low, high = np.searchsorted(options.edge, [edge, edge + 1])
        choice = low + int(_values(options, bound.mu, slice(low, high)).argmax())
        kernel, bottleneck, depth = (int(gene) for gene in options.genes[choice])
        genome += [out, kernel, bottleneck, depth]
        score += options.score[choice]
        cost += options.cost[:, choice]
        width, context = out, context * outputs + out if layers.tapped[number] else context
    cost += tail_at(layers, np.array([context]), np.array([width]))[:, 0]
    return Solution(np.array(genome), int(score), tuple(int(c) for c in cost))


def costs_only(layers: Layers) -> Layers:
    """The same graph with every score 0."""
    stages = tuple(replace(options, score=np.zeros_like(options.score)) for options in layers.stages)
    return replace(layers, stem_score=np.zeros_like(layers.stem_score), stages=stages)


def cheapest_completions(layers: Layers) -> list[Bound]:
    """For each limit, the programme whose `backward` is minus the least cost still to come.

    Its `value` is what the limit leaves over for the cheapest path: negative if none fits.
    """
    free = costs_only(layers)
    return [evaluate_bound(free, unit) for unit in np.eye(len(layers.limits))]


@dataclass(frozen=True)
class Test:
    """What a path must pass to be kept: `score - mu cost` at least the threshold of every bound."""

    bounds: tuple[Bound, ...]
    thresholds: tuple[float, ...]


def make_test(layers: Layers, bound: Bound, floor: float, factors: Sequence[float]) -> Test:
    """Test for the paths within the limits whose `score - mu[0] cost[0]` is at least `floor`.

    Any multipliers on the other limits give a valid test, and together they are sharper for partial paths, which have
    used more or less of those limits than the bound's own multipliers suppose: `factors` of them are taken.
    """
    others = np.array([np.r_[bound.mu[:1], factor * bound.mu[1:]] for factor in factors]) if len(bound.mu) > 1 else []
    bounds = (bound, *(evaluate_bound(layers, mu) for mu in others))
    return Test(bounds, tuple(floor - float(b.mu[1:] @ layers.limits[1:]) for b in bounds))


def fix_options(layers: Layers, tests: Sequence[Test]) -> Layers:
    """Without the options that no path through them can pass any of the tests with."""
    stages = []
    for number, options in enumerate(layers.stages):
        kept = [np.zeros(0, np.int64)]
        for test in tests:
            # Whole edges first: most fail, and the options of those need no look.
            through = [edge_completion(layers, bound, number) for bound in test.bounds]
            least = [threshold - MARGIN for threshold in test.thresholds]
            pairs = list(zip(test.bounds, through, least, strict=True))
            edges = np.logical_and.reduce([bound.edges[number] + rest >= low for bound, rest, low in pairs])
            rows = options.on_edges(edges.reshape(-1))
            for bound, rest, low in pairs:
                passed = _values(options, bound.mu, rows) + rest.reshape(-1)[options.edge[rows]] >= low
                rows = rows[passed]
            kept.append(rows)
        stages.append(options.select(np.unique(np.concatenate(kept))))
    return replace(layers, stages=tuple(stages))


def minimise_near(layers: Layers, near: Floats) -> tuple[Bound, list[Solution]]:
    """As `minimise_bound`, but only the first multiplier is sought, around those of a similar problem: bisection.

    It is a power of `GRID`, so that problems that share their stages meet at the same multipliers.
    """
    middle = round(float(np.log(near[0]) / np.log(GRID)))
    low, high = middle - NEIGHBOURS, middle + NEIGHBOURS
    bounds: list[Bound] = []
    paths: list[Solution] = []
    while high - low > 1:
        middle = (low + high) // 2
        bounds.append(evaluate_bound(layers, np.r_[GRID**middle, near[1:]]))
        paths.append(best_path(layers, bounds[-1]))
        low, high = (middle, high) if paths[-1].cost[0] > layers.limits[0] else (low, middle)
    return min(bounds, key=lambda bound: bound.value), paths


def minimise_bound(layers: Layers, steps: int) -> tuple[Bound, list[Solution]]:
    """The tightest bound found, and the paths met on the way (feasible or not).

    Central-cut ellipsoid method in units of `_multiplier_scale`, `steps` for each limit; with one limit that is
    bisection.
    """
    count = len(layers.limits)
    if count == 0:
        bound = evaluate_bound(layers, np.zeros(0))
        return bound, [best_path(layers, bound)]
    if not all(len(options.score) for options in layers.stages):  # no path is left to follow
        return evaluate_bound(layers, np.zeros(count)), []
    scale, center, matrix = _multiplier_scale(layers), np.full(count, 0.5), np.eye(count) * count / 4
    best: Bound | None = None
    paths: list[Solution] = []
    for _ in range(steps * count):
        outside = (center < 0).any()
        if outside:
            gradient = -np.eye(count)[int(center.argmin())]
        else:
            bound = evaluate_bound(layers, center * scale)
            paths.append(best_path(layers, bound))
            best = bound if best is None or bound.value < best.value else best
            gradient = (layers.limits - np.array(paths[-1].cost)) * scale
        norm = np.sqrt(max(gradient @ matrix @ gradient, 0.0))  # rounding can leave a thin ellipsoid without inside
        if norm == 0 or (norm < 1 and not outside):  # no multiplier left in it lowers the bound by one unit
            break
        direction = matrix @ gradient / norm
        center = center - direction / (count + 1)
        if count == 1:
            matrix = matrix / 4
        else:
            shrunk = matrix - 2 / (count + 1) * np.outer(direction, direction)
            matrix = count**2 / (count**2 - 1) * shrunk
    assert best is not None  # the first centre is inside
    return best, paths


def _multiplier_scale(layers: Layers) -> Floats:
    """Upper end of each multiplier's range: score to gain over the slack of a cheap architecture."""
    cheap = costs_only(layers)
    path = best_path(cheap, evaluate_bound(cheap, 1 / np.maximum(layers.limits, 1)))
    slack = np.maximum(layers.limits - np.array(path.cost), 1e-3 * np.maximum(layers.limits, 1))
    top = evaluate_bound(layers, np.zeros(len(layers.limits))).value
    return max(top, 1.0) / slack
