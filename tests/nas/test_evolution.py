"""Evolution: what it can reach, what it keeps, that it repeats itself, and how close to the optimum it comes."""

import dataclasses
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.lowering import lower
from maenas.nas.checkpoint import read_checkpoint, write_checkpoint
from maenas.nas.evolution import EvolutionSettings, State, _compile, _offspring, evolve, start
from maenas.nas.exact import cheapest
from maenas.nas.problem import Problem, effectiveness_of, evaluate, feasible, scores_of
from maenas.nas.request import Request, Setup, detector_of, prepare
from maenas.nas.run import run
from maenas.nas.sampling import random_detectors
from maenas.nas.space import load_space, space_names
from maenas.score import deepmad_score, score_terms

SMALL = EvolutionSettings(population=32, generations=6, seed=3)


@cache
def fastest_ms(space: str) -> float:
    return cheapest(prepare(Request(space=space, latency_s=(1.0,))).problem)[0].cost[0] * 1e-9


@cache
def setup_at(
    space: str, slack: float, score: str = "mae", population: int = 512, generations: int = 120, seed: int = 0
) -> Setup:
    """`space` under `slack` times the latency of its fastest architecture."""
    budget = (slack * fastest_ms(space) * 1e-3,)
    return prepare(
        Request(space=space, latency_s=budget, score=score, population=population, generations=generations, seed=seed)  # type: ignore[arg-type]
    )


def states_of(problem: Problem, settings: EvolutionSettings, state: State | None = None) -> list[State]:
    states = [state or start(problem, settings)]
    evolve(problem, settings, states[0], states.append)
    return states


def assert_equal(state: State, other: State) -> None:
    for field in dataclasses.fields(State):
        np.testing.assert_equal(getattr(state, field.name), getattr(other, field.name), err_msg=field.name)


def rules_only(problem: Problem) -> Problem:
    """Widths, bottlenecks and depths, without any limit."""
    return dataclasses.replace(problem, constraints=(), max_effectiveness=None)


# What it can reach --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", space_names())
def test_from_the_smallest_architecture_every_choice_of_every_gene_is_reached(name: str) -> None:
    """Offspring of offspring, a few kept for every choice seen so far; every one of them is valid."""
    problem = setup_at(name, 1000.0).problem
    problem = dataclasses.replace(problem, max_depth=tuple(stage.max_depth for stage in problem.space.stages))
    wanted = [np.ones(len(row), bool) for row in problem.space.choices]
    for number, valid in enumerate(problem.tables.valid):  # a bottleneck may be outside its ratio at every width
        wanted[1 + 4 * number] = valid.any(axis=(0, 2, 3))
        wanted[3 + 4 * number] = valid.any(axis=(0, 1, 2))
    compiled, rng = _compile(problem), np.random.default_rng(0)
    genes, seen = problem.space.smallest[:, None], [np.zeros(len(row), bool) for row in problem.space.choices]
    for _ in range(100):
        genes = np.concatenate([genes, _offspring(compiled, genes, 2000, rng)], axis=1)
        assert feasible(rules_only(problem), genes.T).all()
        genes = rng.permutation(genes, axis=1)
        genes = genes[:, np.unique(np.concatenate([np.unique(row, return_index=True)[1] for row in genes]))]
        for values, row in zip(seen, genes, strict=True):
            values[row] = True
    np.testing.assert_equal(seen, wanted)


def test_what_cannot_be_mended_is_left_out(tmp_path: Path) -> None:
    """A stem that may be wider than all that may follow it: the space is what is left."""
    text = (data_dir("search_spaces") / "demo.yaml").read_text(encoding="utf-8")
    odd = tmp_path / "odd.yaml"
    odd.write_text(text.replace("width: {min: 16, max: 24}}", "width: {min: 16, max: 64}}"), encoding="utf-8")
    request = Request(space=str(odd), latency_s=(2e-3,), neck="s", population=64, generations=20)
    found = run(prepare(request)).candidates[0]
    assert load_space(str(odd)).contains(found.spec.backbone)
    proven = run(prepare(dataclasses.replace(request, solver="exact"))).candidates[0]
    assert found.score == pytest.approx(proven.score, rel=1e-2)
    drawn = [spec for _, spec in random_detectors([load_space(str(odd))], 20, seed=0)]
    assert all(load_space(str(odd)).contains(spec.backbone) for spec in drawn)


def test_a_space_of_one_architecture_is_searched(tmp_path: Path) -> None:
    text = (data_dir("search_spaces") / "demo.yaml").read_text(encoding="utf-8")
    text = re.sub(r"min: (\d+), max: \d+", r"min: \1, max: \1", text).replace("max_depth: 2", "max_depth: 1")
    one = tmp_path / "one.yaml"
    one.write_text(text, encoding="utf-8")
    result = run(prepare(Request(space=str(one), latency_s=(1e-3,), neck="auto", top_k=3)))
    assert load_space(str(one)).size == len(result.candidates) == 1
    assert result.proven


def test_no_gene_is_mutated_more_than_the_others() -> None:
    """Of the genes that have a choice, in children of one parent in the middle of the space."""
    problem = setup_at("k1kx-tiny", 1000.0).problem
    compiled, rng = _compile(problem), np.random.default_rng(0)
    middle = np.array([len(row) // 2 for row in problem.space.choices])
    children = _offspring(compiled, middle[:, None], 40_000, rng)
    changed = (children != middle[:, None]).mean(axis=1)
    free = np.array([len(row) > 1 for row in problem.space.choices])
    assert (changed[~free] == 0).all()
    widths = free & (np.arange(len(free)) % 4 != 0)  # half of the moves of a depth lead back to it
    assert changed[free].min() > 0.04
    assert changed[widths].max() < 3 * changed[widths].min()


@pytest.mark.parametrize("name", space_names())
def test_the_start_holds_the_smallest_architecture_where_little_else_fits(name: str) -> None:
    problem = setup_at(name, 1000.0).problem
    own = [evaluate(c.tables, problem.tables, problem.space.smallest[None])[0] for c in problem.constraints]
    limits = tuple(dataclasses.replace(c, limit=o) for c, o in zip(problem.constraints, own, strict=True))
    problem = dataclasses.replace(problem, constraints=limits, max_effectiveness=None)
    state = start(problem, EvolutionSettings(population=2, seed=9))
    assert (state.genes == problem.space.smallest[:, None]).all(axis=0).any()
    assert state.fitness[0] > 0


# What it keeps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "slack"),
    [("mae", 1.0), ("balanced", 1.0), ("balanced", 1.3), ("mae", 1.3), ("deepmad", 1.3), ("flops", 1.3)],
)
@pytest.mark.parametrize("name", space_names())
def test_survivors_are_valid_distinct_and_as_fit_as_the_plain_evaluation_says(
    name: str, score: str, slack: float
) -> None:
    """At a budget that nearly nothing meets, and at one that is easily met."""
    problem = setup_at(name, slack, score).problem
    states = states_of(problem, SMALL)
    for state in states:
        genomes = state.genes.T
        assert len(np.unique(genomes, axis=0)) == len(genomes) == SMALL.population
        assert feasible(rules_only(problem), genomes).all()
        fits = feasible(problem, genomes)
        assert ((state.fitness > 0) == fits).all()
        np.testing.assert_array_equal(state.fitness[fits], scores_of(problem, genomes[fits]))
        assert (np.diff(state.fitness) <= 0).all()
        over = sum(
            np.maximum(evaluate(c.tables, problem.tables, genomes) / c.limit - 1, 0) for c in problem.constraints
        )
        broken = over > 0
        assert broken.any() if slack == 1.0 else fits.any()
        np.testing.assert_allclose(state.fitness[broken], -over[broken], rtol=1e-9)


def test_who_breaks_the_limit_on_effectiveness_ranks_below_all_who_keep_to_it() -> None:
    problem = setup_at("k1kx", 1.5).problem
    assert problem.max_effectiveness is not None
    for state in states_of(problem, SMALL):
        rho = effectiveness_of(problem, state.genes.T)
        assert ((rho <= problem.max_effectiveness) | (state.fitness <= 0)).all()
    assert (state.fitness > 0).all()


def test_higher_scores_beyond_the_limit_on_effectiveness_do_not_crowd_out_what_keeps_to_it() -> None:
    """Near the fastest nearly everything is too deep for its width."""
    assert evolve(setup_at("k1kx", 1.1).problem, EvolutionSettings(generations=60)).fitness[0] > 0


@pytest.mark.parametrize("name", ["k1kx", "mob"])
def test_the_best_never_gets_worse(name: str) -> None:
    states = states_of(setup_at(name, 1.3).problem, SMALL)
    best = [state.fitness[0] for state in states]
    assert best == sorted(best)
    assert best[-1] > best[0]
    assert [state.generation for state in states] == list(range(SMALL.generations + 1))
    assert [state.evaluated for state in states] == [16 * 32 * (n + 1) for n in range(SMALL.generations + 1)]


def test_a_state_handed_out_is_never_edited_later() -> None:
    problem = setup_at("k1kx-tiny", 1.3).problem
    states: list[State] = []
    copies: list[State] = []

    def keep(state: State) -> None:
        states.append(state)
        copies.append(dataclasses.replace(state, genes=state.genes.copy(), fitness=state.fitness.copy()))

    first = start(problem, SMALL)
    keep(first)
    evolve(problem, SMALL, first, keep)
    assert len(states) == SMALL.generations + 1
    for state, copy in zip(states, copies, strict=True):
        assert_equal(state, copy)


# Repeating itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["k1kx", "csp", "mob"])
def test_the_same_seed_gives_the_same_populations_and_another_seed_others(name: str) -> None:
    problem = setup_at(name, 1.3).problem
    once, again = states_of(problem, SMALL), states_of(problem, SMALL)
    for state, other in zip(once, again, strict=True):
        assert_equal(state, other)
    for state, other in zip(once, states_of(problem, dataclasses.replace(SMALL, seed=4)), strict=True):
        assert not np.array_equal(state.genes, other.genes)


@pytest.mark.parametrize(
    ("name", "slack", "score"),
    [
        ("k1kx", 1.1, "mae"),
        ("k1kx", 1.5, "mae"),
        ("k1kx", 1.5, "deepmad"),
        ("mob", 1.02, "mae"),
        ("csp", 1.3, "flops"),
    ],
)
def test_resumed_from_any_generation_it_ends_as_if_uninterrupted(
    name: str, slack: float, score: str, tmp_path: Path
) -> None:
    setup = setup_at(name, slack, score, population=32, generations=6, seed=3)
    states = states_of(setup.problem, SMALL)
    path = tmp_path / "run.ckpt.json"
    for state in states:
        write_checkpoint(path, setup, state)
        stored = read_checkpoint(path, setup)
        assert_equal(stored, state)
        assert_equal(evolve(setup.problem, SMALL, stored), states[-1])


def test_a_checkpoint_keeps_the_half_draw_that_the_generator_holds_back(tmp_path: Path) -> None:
    setup, path = setup_at("k1kx-tiny", 1.3, population=32, generations=6, seed=3), tmp_path / "run.ckpt.json"
    state = start(setup.problem, SMALL)
    state = dataclasses.replace(state, generator=state.generator | {"has_uint32": 1, "uinteger": 12345})
    write_checkpoint(path, setup, state)
    assert_equal(read_checkpoint(path, setup), state)


def test_a_checkpoint_is_refused_after_its_space_was_edited(tmp_path: Path) -> None:
    text = (data_dir("search_spaces") / "k1kx-tiny.yaml").read_text(encoding="utf-8")
    space, path = tmp_path / "mine.yaml", tmp_path / "run.ckpt.json"
    space.write_text(text, encoding="utf-8")
    request = Request(space=str(space), latency_s=(2e-3,), population=32, generations=6, seed=3)
    setup = prepare(request)
    write_checkpoint(path, setup, start(setup.problem, SMALL))
    space.write_text(text.replace("bottleneck: {min: 8, max: 96}", "bottleneck: {min: 16, max: 96}"), encoding="utf-8")
    with pytest.raises(MaenasError, match="this checkpoint belongs to another search"):
        read_checkpoint(path, prepare(request))


def test_a_checkpoint_of_another_search_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    setup, path = setup_at("k1kx-tiny", 1.3, population=32, generations=6, seed=3), tmp_path / "run.ckpt.json"
    write_checkpoint(path, setup, start(setup.problem, SMALL))
    text = path.read_text(encoding="utf-8")
    others = [setup_at("k1kx-small", 1.3, population=32, generations=6, seed=3), setup_at("k1kx-tiny", 1.4), *(
        prepare(dataclasses.replace(setup.request, **change))
        for change in ({"seed": 4}, {"population": 33}, {"score": "deepmad"}, {"scope": "backbone"}, {"neck": "s"})
    )]  # fmt: skip
    for other in others:
        with pytest.raises(MaenasError, match="this checkpoint belongs to another search"):
            read_checkpoint(path, other)
    rows = text.index('"genes"')
    for damaged in (
        text[:-20],
        text[:rows] + '"genes": [[0], [1]],\n  ' + text[text.index('"generator"') :],
        text[:rows] + '"genes": [[0], [1, 2]],\n  ' + text[text.index('"generator"') :],
        text[:rows] + '"genes": [],\n  ' + text[text.index('"generator"') :],
        text[: text.index('"generator"')] + '"generator": "abc"\n}\n',
        text[: text.index('"generator"')] + '"generator": "xyz 1 0 0"\n}\n',
        text[: text.index('"generator"')] + f'"generator": "{"f" * 40} 1 0 0"\n}}\n',
    ):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(MaenasError):
            read_checkpoint(path, setup)
    path.write_text(text, encoding="utf-8")
    assert_equal(read_checkpoint(path, setup), start(setup.problem, SMALL))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 1}, "population is 1; it must be 2 to 1000000"),
        ({"population": 10**7}, "population is 10000000"),
        ({"generations": -1}, "generations is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(MaenasError, match=message):
        EvolutionSettings(**settings)


# How good it is -----------------------------------------------------------------------------------------------------


def random_feasible(problem: Problem, count: int) -> NDArray[np.int64]:
    compiled, rng = _compile(problem), np.random.default_rng(2)
    genes = problem.space.smallest[:, None]
    found = np.empty((0, len(genes)), np.int64)
    while len(found) < count:
        genes = _offspring(compiled, genes, 4000, rng)
        found = np.unique(np.concatenate([found, genes.T[feasible(problem, genes.T)]]), axis=0)
    return found


@pytest.mark.parametrize("name", ["k1kx-tiny", "csp", "mob"])
def test_deepmad_is_searched_by_its_own_score_within_the_limits(name: str) -> None:
    """Fitness is DeepMAD's score of the deployed kernels; no random architecture comes near the best found."""
    setup = setup_at(name, 1.3, "deepmad")
    assert setup.problem.objective is None
    state = evolve(setup.problem, EvolutionSettings(population=128, generations=40))
    for genome, fitness in zip(state.genes.T[:5], state.fitness[:5], strict=True):
        kernels = lower(detector_of(setup, genome))
        assert fitness * 1e-9 == pytest.approx(float(deepmad_score(score_terms(kernels))), abs=1e-6)
        assert total_cost(kernels).layers <= (setup.depths.max_layers or 0)
        assert sum(float(setup.predictors[0].kernel_seconds(k)) for k in kernels) <= setup.request.latency_s[0]
    assert state.fitness[0] > scores_of(setup.problem, random_feasible(setup.problem, 3000)).max()
    seeds = [
        evolve(setup.problem, EvolutionSettings(population=128, generations=40, seed=s)).fitness[0] for s in (1, 2)
    ]
    assert min(seeds) / max(state.fitness[0], *seeds) > 0.995


SLACKS = (1.05, 1.3, 2.5)


def assert_close_to_the_optimum(name: str, slack: float) -> None:
    result = run(setup_at(name, slack))
    assert result.proven
    assert result.gap is not None
    assert result.gap <= 0.001


@pytest.mark.parametrize("name", space_names())
def test_at_default_settings_it_ends_within_a_thousandth_of_the_optimum(name: str) -> None:
    assert_close_to_the_optimum(name, SLACKS[1])


@pytest.mark.slow
@pytest.mark.parametrize("slack", SLACKS)
@pytest.mark.parametrize("name", space_names())
def test_at_any_budget_it_ends_within_a_thousandth_of_the_optimum(name: str, slack: float) -> None:
    assert_close_to_the_optimum(name, slack)
