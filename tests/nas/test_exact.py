"""The exact solver against trying every genome, on spaces small enough for that; then on the shipped ones."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maenas.errors import MaenasError
from maenas.latency.predictor import load_predictor
from maenas.nas import layered
from maenas.nas.evolution import EvolutionSettings, evolve
from maenas.nas.exact import FACTORS, cheapest, solve, solve_each
from maenas.nas.front import front
from maenas.nas.genome import genome_key
from maenas.nas.label_setting import DOMINANCE_WINDOW, undominated
from maenas.nas.layered import Options, make_layers
from maenas.nas.problem import Constraint, Problem, effectiveness_of, evaluate, feasible, make_objective
from maenas.nas.relaxation import MARGIN, best_on_edges, fix_options, make_test, minimise_bound
from maenas.nas.request import Request, Setup, prepare
from maenas.nas.space import SearchSpace, load_space, space_names
from maenas.nas.space_parts import DepthBound, Range, StageSpace, StemSpace
from maenas.nas.stage_tables import (
    ACTIVATIONS,
    ENTROPY,
    FLOPS,
    LAYERS,
    PARAMS,
    build_tables,
    latency_quantity,
    score_quantities,
)
from maenas.spec import Block

derandomized = settings(derandomize=True, database=None)
T4 = latency_quantity(load_predictor("t4"))
QUANTITIES = (ENTROPY, LAYERS, FLOPS, PARAMS, ACTIVATIONS, T4, *score_quantities("balanced"))
STRIDES: dict[Block, tuple[int, ...]] = {
    "k1kx": (2, 2, 2, 1, 2),
    "csp": (2, 2, 2, 2),
    "k1dwk1": (2, 2, 2, 1, 2),
    "k1kxk1": (2, 2, 2, 2),
}


# Problems that can be solved by trying everything -------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A problem with the scores and first costs of all its feasible genomes, best first."""

    problem: Problem
    genomes: NDArray[np.int64]  # all within the space's rules, feasible or not
    score: NDArray[np.float64]
    cost: NDArray[np.float64]

    def best(self, budget: float) -> float:
        """Best score that a first cost of at most `budget` buys; -inf for none."""
        return float(self.score[self.cost <= budget].max(initial=-np.inf))


def make_case(problem: Problem, genomes: NDArray[np.int64]) -> Case:
    fits = genomes[feasible(problem, genomes)]
    assert problem.objective is not None
    score = evaluate(problem.objective, problem.tables, fits)
    first = problem.constraints[0].tables if problem.constraints else problem.objective
    order = np.argsort(-score)
    return Case(problem, genomes, score[order], evaluate(first, problem.tables, fits)[order])


@st.composite
def small_spaces(draw: st.DrawFn) -> SearchSpace:
    """Two to four choices in up to nine genes, one in the others."""
    block = draw(st.sampled_from(list(STRIDES)))
    strides, step = STRIDES[block], 16 if block == "csp" else 8
    taps = (2, 3, 4) if len(strides) == 4 else (2, 4, 5)
    genes = 1 + 4 * len(strides)
    free = draw(st.lists(st.integers(0, genes - 1), min_size=3, max_size=7, unique=True))
    free += draw(st.lists(st.sampled_from([4 * tap - 3 for tap in taps]), max_size=2, unique=True))
    counts, left = [1] * genes, 12_000
    for gene in dict.fromkeys(free):
        counts[gene] = draw(st.integers(2, 4)) if left >= 4 else 1
        left //= counts[gene]

    def widths(low: int, count: int, step: int) -> Range:
        step *= draw(st.integers(1, 3))
        return Range(low, low + step * (count - 1), step)

    stem = widths(8 * draw(st.integers(1, 4)), counts[0], 8)
    stages = []
    for number, stride in enumerate(strides):
        width, kernel, bottleneck, depth = counts[1 + 4 * number : 5 + 4 * number]
        least = draw(st.integers(1, 2))
        stages.append(
            StageSpace(
                stride,
                widths(16 * draw(st.integers(3, 8)), width, step),
                widths(8 * draw(st.integers(1, 10)), bottleneck, 8),
                least + depth - 1,
                (1, 3, 5, 7)[:kernel] if kernel > 1 else (3,),
                least,
            )
        )
    return SearchSpace(
        schema="maenas/space@1",
        name="small",
        description="",
        source="",
        block=block,
        act="relu",
        spp=draw(st.booleans()),
        input_size=64,
        neck=draw(st.sampled_from(["t", "s", "nano"])),
        stem=StemSpace("focus", stem),
        stages=tuple(stages),
        taps=taps,
        bottleneck_ratio=draw(st.sampled_from([(0.01, 20.0), (0.1, 1.0)])),
        depth_bound=DepthBound(max_layers=1000),
        widths_never_shrink=draw(st.booleans()),
    )


def spaces() -> st.SearchStrategy[SearchSpace | None]:
    """Small spaces; None for the few draws without any valid choice."""

    @st.composite
    def tried(draw: st.DrawFn) -> SearchSpace | None:
        try:
            return draw(small_spaces())
        except MaenasError:
            return None

    return tried().filter(lambda space: space is not None)


@st.composite
def cases(draw: st.DrawFn, *, most_limits: int = 3, effectiveness: bool = False) -> Case:
    """A small space under limits that cut through it: at, or one step below, what some genome needs."""
    space = draw(spaces())
    assert space is not None
    scope = draw(st.sampled_from(["detector", "backbone"]))
    tables = build_tables(space, QUANTITIES, input_size=space.input_size, num_classes=5, scope=scope)
    objective = make_objective(tables, draw(st.sampled_from(["mae", "balanced", "balanced", "flops"])))
    max_depth = tuple(draw(st.integers(stage.min_depth, stage.max_depth)) for stage in space.stages)
    free = Problem(tables, objective, (), max_depth)
    genomes = np.stack(np.meshgrid(*map(np.arange, map(len, space.choices)), indexing="ij")).reshape(
        len(space.choices), -1
    )
    genomes = genomes.T[feasible(free, genomes.T)]
    constraints = []
    names = [q.name for q in (T4, PARAMS, LAYERS, ACTIVATIONS)]
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=most_limits, unique=True)):
        quantity = tables.quantities[name]
        share = draw(st.sampled_from([0.0, 0.01]) | st.floats(0, 1))
        at = np.quantile(evaluate(quantity, tables, genomes), share, method="lower")
        constraints.append(Constraint(name, quantity, float(at) - draw(st.sampled_from([0, 0, 0, 1]))))
    rho = None
    if effectiveness:
        rho = float(np.quantile(effectiveness_of(free, genomes), draw(st.floats(0, 1))))
    problem = dataclasses.replace(free, constraints=tuple(constraints), max_effectiveness=rho)
    return make_case(problem, genomes)


def check_solutions(case: Case, k: int) -> None:
    """The k best scores; what is returned is feasible, distinct, in order, and costs what it says."""
    problem = case.problem
    known = case.genomes[:: max(1, len(case.genomes) // 7)][:7]
    for result in (solve(problem, k=k), solve(problem, k=k, known=list(known))):
        assert result.proven
        assert [solution.score for solution in result.solutions] == case.score[:k].tolist()
        if not result.solutions:
            assert result.upper_bound == -np.inf
            continue
        genomes = np.array([solution.genome for solution in result.solutions])
        assert feasible(problem, genomes).all()
        assert len({genome_key(genome) for genome in genomes}) == len(genomes)
        assert problem.objective is not None
        assert evaluate(problem.objective, problem.tables, genomes).tolist() == case.score[:k].tolist()
        costs = [evaluate(c.tables, problem.tables, genomes) for c in problem.constraints]
        assert [solution.cost for solution in result.solutions] == list(zip(*costs, strict=True))
        assert result.upper_bound == case.score[0]


@settings(derandomized, max_examples=40)
@given(case=cases(), k=st.sampled_from([1, 5]))
def test_the_k_best_are_those_of_trying_every_genome(case: Case, k: int) -> None:
    check_solutions(case, k)


def test_scores_below_zero_are_as_good_as_any() -> None:
    """2,400 layers cost 72 in the balanced score, and 32 pixels give less than 50 for them."""
    space = dataclasses.replace(load_space("demo"), stem=StemSpace("focus", Range(16, 24)))
    widths = zip(space.stages, (32, 48, 64, 96, 128), strict=True)
    stages = tuple(StageSpace(s.stride, Range(w, w), Range(w - 8, w), 241, min_depth=240) for s, w in widths)
    space = dataclasses.replace(space, stages=stages, depth_bound=DepthBound(max_layers=3000), input_size=32)
    tables = build_tables(space, QUANTITIES, input_size=32, num_classes=5, scope="detector")
    genomes = np.stack(np.meshgrid(*map(np.arange, map(len, space.choices)), indexing="ij"), axis=-1)
    genomes = genomes.reshape(-1, len(space.choices))
    limit = np.quantile(evaluate(tables.quantities[T4.name], tables, genomes), 0.2, method="lower")
    constraints = (Constraint(T4.name, tables.quantities[T4.name], float(limit)),)
    problem = Problem(tables, make_objective(tables, "balanced"), constraints, tuple(s.max_depth for s in stages))
    case = make_case(problem, genomes)
    assert case.score[0] < 0
    check_solutions(case, 5)
    final = evolve(problem, EvolutionSettings(64, 20))
    np.testing.assert_array_equal(final.fitness[:5], case.score[:5])


@settings(derandomized, max_examples=20)
@given(case=cases(most_limits=2, effectiveness=True), k=st.sampled_from([1, 5]))
def test_the_k_best_under_a_limit_on_effectiveness_are_those_of_trying_every_genome(case: Case, k: int) -> None:
    check_solutions(case, k)


@settings(derandomized, max_examples=20)
@given(case=cases(), data=st.data())
def test_a_limit_below_the_cheapest_leaves_no_solution(case: Case, data: st.DataObject) -> None:
    problem = case.problem
    row = data.draw(st.integers(0, len(problem.constraints) - 1))
    total = evaluate(problem.constraints[row].tables, problem.tables, case.genomes)
    least = cheapest(problem)[row]
    assert least.cost[row] == total.min()
    assert evaluate(problem.constraints[row].tables, problem.tables, least.genome[None]) == total.min()

    def limited_to(value: float) -> Problem:
        constraint = dataclasses.replace(problem.constraints[row], limit=value)
        return dataclasses.replace(problem, constraints=(constraint,))

    result = solve(limited_to(total.min() - 1))
    assert result.solutions == ()
    assert result.proven
    assert result.upper_bound == -np.inf
    assert front(limited_to(total.min() - 1), 0.0).solutions == ()
    assert len(solve(limited_to(total.min())).solutions) == 1


def test_many_of_the_best_are_found_without_enumerating_the_space() -> None:
    problem = prepare(Request(space="demo", latency_s=(9e-4,), neck="s-d1-half")).problem
    many = solve(problem, k=512)
    few = solve(problem, k=8)
    assert many.proven
    assert len(many.solutions) == 512
    assert many.labels < 50_000
    assert [s.score for s in many.solutions[:8]] == [s.score for s in few.solutions]


def test_a_known_solution_stands_where_too_many_better_ones_break_the_limit_on_effectiveness() -> None:
    problem = prepare(Request(space="demo", latency_s=(9e-4,), neck="s-d1-half", max_effectiveness=0.1)).problem
    known = evolve(problem, EvolutionSettings(64, 10)).genes[:, 0]
    with patch("maenas.nas.exact.MAX_SIFTED", 16), patch("maenas.nas.exact.MAX_SIFTED_EACH", 16):
        [each], alone = solve_each([(problem, [known])]), solve(problem, known=[known])
    for result in (each, alone):
        assert not result.proven
        assert [genome_key(solution.genome) for solution in result.solutions] == [genome_key(known)]
        assert result.upper_bound > result.solutions[0].score


def test_limits_that_exclude_each_other_leave_no_solution() -> None:
    """The fastest architecture and the one with the fewest parameters are two; no option is left to either solver."""
    problem = prepare(Request(space="k1kx-tiny", latency_s=(1.0,), max_params=10**9)).problem
    fast, small = cheapest(problem)[:2]
    limits = (fast.cost[0], small.cost[1], problem.constraints[2].limit)
    constraints = [dataclasses.replace(c, limit=v) for c, v in zip(problem.constraints, limits, strict=True)]
    problem = dataclasses.replace(problem, constraints=tuple(constraints))
    result = solve(problem)
    assert (result.solutions, result.upper_bound, result.proven) == ((), -np.inf, True)
    assert front(problem, 0.0).solutions == ()


def test_without_limits_the_optimum_is_the_best_of_all() -> None:
    problem = dataclasses.replace(shipped("k1kx-tiny").problem, constraints=())
    best = solve(problem)
    deep = [row[-1:] for row in problem.space.choices[4::4]]
    depths = [stage.depth for stage in problem.space.spec_of(best.solutions[0].genome).stages]
    assert best.proven
    assert [(depth,) for depth in depths] == deep
    with pytest.raises(MaenasError, match="a Pareto front needs a budget"):
        front(problem, 0.0)


def test_an_objective_that_is_not_additive_is_refused() -> None:
    problem = dataclasses.replace(shipped("k1kx-tiny").problem, objective=None)
    for attempt in (lambda: solve(problem), lambda: front(problem, 0.0)):
        with pytest.raises(MaenasError, match="not additive over stages"):
            attempt()


# The front ----------------------------------------------------------------------------------------------------------


def budgets_between(case: Case, low: float, high: float) -> Iterator[float]:
    """Where the staircase can change, just before, and both ends."""
    steps = np.unique(case.cost)
    yield from sorted({b for b in (low, high, *steps, *(steps - 1)) if low <= b <= high})


def value_at(costs: NDArray[np.float64], scores: NDArray[np.float64], budget: float) -> float:
    return float(scores[costs <= budget].max(initial=-np.inf))


@settings(derandomized, max_examples=10)
@given(case=cases(most_limits=2), start=st.floats(0, 1))
def test_the_front_is_the_best_of_trying_every_genome_at_every_budget(case: Case, start: float) -> None:
    high = case.problem.constraints[0].limit
    low = float(np.floor(case.cost.min(initial=high) + start * (high - case.cost.min(initial=high))))
    result = front(case.problem, low)
    assert result.proven
    costs = np.array([s.cost[0] for s in result.solutions], dtype=np.float64)
    scores = np.array([s.score for s in result.solutions], dtype=np.float64)
    assert (np.diff(costs) > 0).all()
    assert (np.diff(scores) > 0).all()
    for budget in budgets_between(case, low, high):
        assert value_at(costs, scores, budget) == case.best(budget)
    if len(costs):
        genomes = np.array([s.genome for s in result.solutions])
        assert feasible(case.problem, genomes).all()
        assert evaluate(case.problem.constraints[0].tables, case.problem.tables, genomes).tolist() == costs.tolist()


@settings(derandomized, max_examples=8)
@given(case=cases(most_limits=1, effectiveness=True))
def test_a_front_under_a_limit_on_effectiveness_never_claims_more_than_it_has(case: Case) -> None:
    """All its points are allowed; where it says proven, it is the best of trying every genome."""
    high, result = case.problem.constraints[0].limit, front(case.problem, 0.0)
    for solution in result.solutions:
        assert feasible(case.problem, solution.genome[None]).all()
    costs = np.array([s.cost[0] for s in result.solutions], dtype=np.float64)
    scores = np.array([s.score for s in result.solutions], dtype=np.float64)
    lowest = evaluate(case.problem.constraints[0].tables, case.problem.tables, case.genomes).min()
    for budget in budgets_between(case, float(lowest), high):
        assert value_at(costs, scores, budget) <= case.best(budget)
        assert not result.proven or value_at(costs, scores, budget) == case.best(budget)


# The parts ----------------------------------------------------------------------------------------------------------


@settings(derandomized, max_examples=40)
@given(case=cases(), steps=st.sampled_from([1, 3, 16]))
def test_no_bound_is_below_the_optimum(case: Case, steps: int) -> None:
    bound, paths = minimise_bound(make_layers(case.problem), steps)
    assert (bound.mu >= 0).all()
    assert bound.value >= case.score.max(initial=-np.inf) - MARGIN
    problem = case.problem
    assert problem.objective is not None
    for path in paths:  # they are real: valid, and cost what they say
        assert feasible(dataclasses.replace(problem, constraints=()), path.genome[None]).all()
        assert path.score == evaluate(problem.objective, problem.tables, path.genome[None])
        assert path.cost == tuple(evaluate(c.tables, problem.tables, path.genome[None])[0] for c in problem.constraints)


@settings(derandomized, max_examples=40)
@given(case=cases(), steps=st.sampled_from([1, 3, 16]), rank=st.integers(0, 20))
def test_no_option_of_a_path_above_the_threshold_is_removed(case: Case, steps: int, rank: int) -> None:
    """Every feasible genome that scores at least the threshold keeps all of its options."""
    if not len(case.score):
        return
    problem, threshold = case.problem, float(case.score[min(rank, len(case.score) - 1)])
    layers = make_layers(problem)
    bound, _ = minimise_bound(layers, steps)
    floor = threshold - float(bound.mu[:1] @ layers.limits[:1])
    small = fix_options(layers, [make_test(layers, bound, floor, FACTORS)])
    assert problem.objective is not None
    good = case.genomes[feasible(problem, case.genomes)]
    good = good[evaluate(problem.objective, problem.tables, good) >= threshold]
    for number, options in enumerate(small.stages):
        kept = {(int(edge), *map(int, genes)) for edge, genes in zip(options.edge, options.genes, strict=True)}
        column = 1 + 4 * number
        before = good[:, 0 if number == 0 else column - 4]
        for width, genome in zip(before, good[:, column : column + 4], strict=True):
            assert (int(width) * options.shape[1] + int(genome[0]), *map(int, genome[1:])) in kept


@settings(derandomized, max_examples=60)
@given(
    edges=st.lists(st.integers(0, 11), max_size=60),
    prices=st.lists(st.integers(0, 5), max_size=2),
    block=st.integers(1, 80),
    wanted=st.integers(0, 2**12 - 1),
    seed=st.integers(0, 1000),
)
def test_an_edge_is_worth_its_best_option(
    edges: list[int], prices: list[int], block: int, wanted: int, seed: int
) -> None:
    """Whatever the length of the runs in which options are looked at, and whichever edges have none."""
    draw, count = np.random.default_rng(seed), len(edges)
    edge = np.sort(np.array(edges, np.int64))
    score, cost = draw.integers(0, 50, count) * 1.0, draw.integers(0, 9, (len(prices), count)) * 1.0
    options = Options(edge, np.zeros((count, 3), np.int64), score, cost, (3, 4))
    best = np.full(12, -np.inf)
    for row in range(count):
        best[edge[row]] = max(best[edge[row]], score[row] - np.array(prices, float) @ cost[:, row])
    with patch.object(layered, "BLOCK", block):
        assert (best_on_edges(options, np.array(prices, float)).reshape(-1) == best).all()
    mask = np.array([bool(wanted >> bit & 1) for bit in range(12)])
    assert options.on_edges(mask).tolist() == [row for row in range(count) if mask[edge[row]]]


def test_options_that_cannot_reach_the_optimum_are_removed() -> None:
    problem = shipped("k1kx-tiny").problem
    result = solve(problem)
    assert result.options_left < result.options / 100


def dominators(node: NDArray, score: NDArray, cost: NDArray) -> NDArray[np.int64]:
    """How many others of its node are no worse in score and every cost; of equals, the one before counts."""
    counts = np.zeros(len(node), np.int64)
    for i in range(len(node)):
        for j in range(len(node)):
            no_worse = node[j] == node[i] and score[j] >= score[i] and (cost[:, j] <= cost[:, i]).all()
            equal = score[j] == score[i] and (cost[:, j] == cost[:, i]).all()
            counts[i] += bool(i != j and no_worse and (not equal or j < i))
    return counts


def labels(costs: int, values: int = 12) -> st.SearchStrategy[tuple[NDArray, NDArray, NDArray]]:
    """Up to 60 labels at three nodes with many equal scores and costs."""

    def arrays(rows: list[tuple[int, ...]]) -> tuple[NDArray, NDArray, NDArray]:
        table = np.array(rows, np.int64).reshape(len(rows), 2 + costs)
        return table[:, 0], table[:, 1].astype(float), table[:, 2:].T.astype(float)

    row = st.tuples(st.integers(0, 2), *[st.integers(0, values)] * (1 + costs))
    return st.lists(row, max_size=60).map(arrays)


def sorted_rows(node: NDArray, score: NDArray, cost: NDArray, keep: NDArray) -> list[tuple]:
    return sorted(zip(node[keep], score[keep], *cost[:, keep], strict=True))


@settings(derandomized, max_examples=40)
@given(data=st.data(), costs=st.sampled_from([1, 2]))
def test_undominated_keeps_what_no_other_label_beats(data: st.DataObject, costs: int) -> None:
    """The cases that are complete: k = 1 and one cost, or two of which one takes few values."""
    node, score, cost = data.draw(labels(costs))
    keep = undominated(node, score, cost, 1)
    assert sorted_rows(node, score, cost, keep) == sorted_rows(node, score, cost, dominators(node, score, cost) == 0)


@settings(derandomized, max_examples=40)
@given(case=labels(0), k=st.integers(1, 4))
def test_undominated_without_costs_keeps_the_k_best_of_every_node(
    case: tuple[NDArray, NDArray, NDArray], k: int
) -> None:
    node, score, cost = case
    keep = undominated(node, score, cost, k)
    assert sorted_rows(node, score, cost, keep) == sorted_rows(node, score, cost, dominators(node, score, cost) < k)


@settings(derandomized, max_examples=40)
@given(data=st.data(), costs=st.sampled_from([1, 2, 3]), k=st.integers(1, 4))
def test_undominated_never_drops_a_label_with_fewer_than_k_dominators(data: st.DataObject, costs: int, k: int) -> None:
    node, score, cost = data.draw(labels(costs))
    kept = sorted_rows(node, score, cost, undominated(node, score, cost, k))
    for row in sorted_rows(node, score, cost, dominators(node, score, cost) < k):
        assert row in kept
        kept.remove(row)


@pytest.mark.parametrize(("costs", "k"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 1)])
def test_undominated_is_safe_beyond_its_window_and_its_few_values(costs: int, k: int) -> None:
    rng = np.random.default_rng(costs + 10 * k)
    count = 8 * DOMINANCE_WINDOW
    node, score = rng.integers(2, size=count), rng.integers(200, size=count).astype(float)
    cost = rng.integers(200, size=(costs, count)).astype(float)
    keep = undominated(node, score, cost, k)
    assert not ((dominators(node, score, cost) < k) & ~keep).any()
    assert keep.sum() < count / 2


# The shipped spaces -------------------------------------------------------------------------------------------------


@cache
def shipped(name: str, slack: float = 1.6) -> Setup:
    """A shipped space under `slack` times the latency of its fastest architecture."""
    fastest = cheapest(prepare(Request(space=name, latency_s=(1.0,))).problem)[0].cost[0]
    return prepare(Request(space=name, latency_s=(slack * fastest * 1e-12,)))


def walks_from(genome: NDArray[np.int64], problem: Problem, count: int) -> NDArray[np.int64]:
    """Ends of random walks that never leave what is feasible: some near, some far."""
    rng, genomes = np.random.default_rng(5), np.tile(genome, (count, 1))
    sizes, rows = np.array([len(row) for row in problem.space.choices]), np.arange(count)
    for number in range(100):
        tried, column = genomes.copy(), rng.integers(len(sizes), size=count)
        tried[rows, column] += rng.integers(-6, 6, size=count)
        tried = np.clip(tried, 0, sizes - 1)
        moving = feasible(problem, tried) & (rows >= 10 * number)
        genomes = np.where(moving[:, None], tried, genomes)
    return genomes


@pytest.mark.parametrize("name", space_names())
def test_no_random_architecture_of_a_shipped_space_beats_the_proven_optimum(name: str) -> None:
    problem = shipped(name).problem
    result = solve(problem)
    genomes = walks_from(result.solutions[0].genome, problem, 2500)
    assert problem.objective is not None
    assert feasible(problem, genomes).all()
    assert len(np.unique(genomes, axis=0)) > 2000
    scores = evaluate(problem.objective, problem.tables, genomes)
    assert result.proven
    assert scores.max() <= result.solutions[0].score


def test_the_front_of_the_tiny_space_is_what_solving_each_budget_gives() -> None:
    problem = shipped("k1kx-tiny", 1.1).problem
    latency, *others = problem.constraints
    result = front(problem, 0.0)
    assert result.proven
    costs = np.array([s.cost[0] for s in result.solutions], dtype=np.float64)
    scores = np.array([s.score for s in result.solutions], dtype=np.float64)
    budgets = [costs[0], *np.linspace(costs[0], latency.limit, 7)[1:], costs[len(costs) // 2] - 1]
    for budget in budgets:
        at = dataclasses.replace(problem, constraints=(dataclasses.replace(latency, limit=budget), *others))
        assert value_at(costs, scores, budget) == solve(at).solutions[0].score
