"""Evolution over a whole population at once, on the same tables as the exact solver.

Parents are drawn from the population, crossed stage by stage, mutated in two genes as published (widths times 2, 1.5,
1.25, 0.8, 0.6 or 0.5, depths by one or two; and by single steps), repaired, evaluated by gathering from the tables,
and the best of parents and offspring stay, each genome once. Architectures over a limit rank below all others, by how
far they are over; so the start needs no luck: the smallest architecture is among those it tries.

Legend: P offspring, N population, G genes, Q limits. Genes are rows: `[G, P]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maenas.errors import MaenasError
from maenas.nas.genome import stage_genes, width_gene
from maenas.nas.problem import Problem, effectiveness_of, scores_of
from maenas.nas.stage_tables import QuantityTables

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WIDTH_FACTORS = (2.0, 1.5, 1.25, 0.8, 0.6, 0.5)
STEPS = (-2, -1, 1, 2)
MOVES = len(WIDTH_FACTORS) + len(STEPS)
OFFSPRING = 16  # per member of the population and generation
MUTATIONS = 2  # genes changed in each offspring
OUTSIDE = 1e6  # what a genome outside of the space is worth less
STRATEGY = f"offspring {OFFSPRING}x, {MUTATIONS} mutations, stagewise crossover, truncation"


@dataclass(frozen=True)
class EvolutionSettings:
    """`population` survives a generation; `generations` after the start; `seed` of the generator."""

    population: int = 512
    generations: int = 120
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low in (("population", self.population, 2), ("generations", self.generations, 0)):
            if not low <= value <= 1_000_000:
                raise MaenasError(f"{name} is {value}; it must be {low} to 1000000")
        if not 0 <= self.seed < 2**63:
            raise MaenasError(f"seed is {self.seed}; it must be 0 to 2^63 - 1")


@dataclass(frozen=True)
class State:
    """Everything a run needs to go on as if it had not stopped."""

    generation: int
    evaluated: int
    genes: Ints  # [G, N], best first
    fitness: Floats  # [N]  score; below every score, by the relative excess, where a limit is broken
    generator: dict[str, Any]  # state of the PCG64 behind the next generation


@dataclass(frozen=True)
class _Compiled:
    """A problem laid out for gathering."""

    problem: Problem
    stem: Floats  # [1 + Q, W0]
    first: tuple[Floats, ...]  # [1 + Q, I O K B]
    more: tuple[Floats, ...]  # [1 + Q, O K B]
    saturated: tuple[tuple[Floats, Floats], ...]  # per stage `first` and `more` under a saturating score's logarithm
    tail: Floats  # [1 + Q, C3 C4 C5] or [1 + Q, 1]
    limits: Floats  # [Q]
    floor: float  # no score lies below; 0, where none is negative
    moves: Ints  # [G choices MOVES]  gene value after a move
    most: int  # choices of a gene, the padded length in `moves`
    mutable: Ints  # genes with more than one choice, or the first one where none has
    widest: tuple[Ints, ...]  # per stage: least output index for each input index
    narrow: tuple[tuple[Ints, Ints], ...]  # per stage: least and greatest bottleneck index for each output index
    depths: Ints  # [S] greatest depth index


def _compile(problem: Problem) -> _Compiled:
    space, tables = problem.space, problem.tables
    quantities = [problem.objective, *(c.tables for c in problem.constraints)]

    def packed_rows(pick: Callable[[QuantityTables], NDArray], size: int) -> Floats:
        packed = np.zeros((len(quantities), size))
        for row, quantity in zip(packed, quantities, strict=True):
            if quantity is not None:
                row[:] = pick(quantity).reshape(-1)
        return packed

    sizes = [tables.valid[number].shape for number in range(len(space.stages))]
    has_tail = any(q is not None and q.tail.ndim for q in quantities)
    tail_shape = tuple(len(tables.widths[tap]) for tap in space.taps) if has_tail else ()
    tail = packed_rows(lambda q: np.broadcast_to(q.tail, tail_shape), int(np.prod(tail_shape, dtype=int)))
    narrow = []
    for stage in space.stages:
        fits = space.bottleneck_fits(np.array(stage.width.values)[:, None], np.array(stage.bottleneck.values)[None, :])
        narrow.append((fits.argmax(axis=1), fits.shape[1] - 1 - fits[:, ::-1].argmax(axis=1)))
    widest = []
    for number in range(len(space.stages)):
        fits = space.width_fits(tables.widths[number][:, None], tables.widths[number + 1][None, :])
        fits &= tables.valid[number].any(axis=(2, 3))
        widest.append(np.where(fits.any(axis=1), fits.argmax(axis=1), 0))
    saturation = None if problem.objective is None else problem.objective.saturation
    saturated = () if saturation is None else saturation.stages
    return _Compiled(
        problem,
        stem=packed_rows(lambda q: q.stem, len(tables.widths[0])),
        first=tuple(packed_rows(lambda q, n=n: q.stages[n].first, int(np.prod(size))) for n, size in enumerate(sizes)),
        more=tuple(
            packed_rows(lambda q, n=n: q.stages[n].more, int(np.prod(size[1:]))) for n, size in enumerate(sizes)
        ),
        saturated=tuple((table.first.reshape(-1), table.more.reshape(-1)) for table in saturated),
        tail=tail,
        limits=np.array([c.limit for c in problem.constraints]),
        floor=_floor(problem),
        moves=_move_table(problem).reshape(-1),
        most=max(map(len, space.choices)),
        mutable=np.array([gene for gene, row in enumerate(space.choices) if len(row) > 1] or [0]),
        widest=tuple(widest),
        narrow=tuple(narrow),
        depths=np.array(problem.max_depth) - np.array([stage.min_depth for stage in space.stages]),
    )


def _floor(problem: Problem) -> float:
    """What no score lies below, at most 0: the prices of many layers add up to more than a score gives for them."""
    objective = problem.objective
    if objective is None:
        return 0.0
    rows = zip(objective.stages, problem.max_depth, strict=True)
    least = objective.stem.min() + sum(t.first.min() + (most - 1) * min(0.0, t.more.min()) for t, most in rows)
    if objective.saturation is not None:
        logs = enumerate(objective.saturation.stages)
        least += sum(objective.saturation.of_total(number, table.first.min()) for number, table in logs)
    return float(min(0.0, least))


def _move_table(problem: Problem) -> Ints:
    """Index after each move: the choice nearest to the value times a factor, at least a step away, or some steps."""
    choices = problem.space.choices
    table = np.zeros((len(choices), max(map(len, choices)), MOVES), np.int64)
    for gene, row in enumerate(choices):
        values, index = np.array(row, dtype=np.float64), np.arange(len(row))
        for move, factor in enumerate(WIDTH_FACTORS):
            nearest = np.abs(values[None, :] - factor * values[:, None]).argmin(axis=1)
            stepped = index + (1 if factor > 1 else -1)
            table[gene, : len(row), move] = np.where(nearest == index, stepped, nearest)
        for move, step in enumerate(STEPS, start=len(WIDTH_FACTORS)):
            table[gene, : len(row), move] = index + step
        np.clip(table[gene], 0, len(row) - 1, out=table[gene])
    return table


def _repair(compiled: _Compiled, genes: Ints) -> None:
    """Widths that may follow each other, bottlenecks within their ratio, depths within their limit; in place."""
    width = genes[0]
    for number, (widest, (low, high)) in enumerate(zip(compiled.widest, compiled.narrow, strict=True)):
        out, _, bottleneck, depth = genes[stage_genes(number)]
        np.maximum(out, widest.take(width), out=out)
        np.clip(bottleneck, low.take(out), high.take(out), out=bottleneck)
        np.minimum(depth, compiled.depths[number], out=depth)
        width = out


def _fitness(compiled: _Compiled, genes: Ints) -> Floats:
    """Score, or `floor` minus the relative excess where a limit is broken, and far below outside of the space: `[P]`.

    Effectiveness is checked at selection.
    """
    space, width, objective = compiled.problem.space, genes[0], compiled.problem.objective
    saturation = None if objective is None else objective.saturation
    totals = compiled.stem.take(width, axis=1)  # [1 + Q, P]
    outside = np.zeros(len(width), bool)  # of the space: what `_repair` cannot mend
    for number, stage in enumerate(space.stages):
        out, kernel, bottleneck, depth = genes[stage_genes(number)]
        _, outputs, kernels, bottlenecks = compiled.problem.tables.valid[number].shape
        inner = (out * kernels + kernel) * bottlenecks + bottleneck
        entry = width * (outputs * kernels * bottlenecks) + inner
        outside |= ~compiled.problem.tables.valid[number].reshape(-1).take(entry)
        more = (depth + (stage.min_depth - 1)).astype(np.float64)
        for total, first_unit, more_unit in zip(totals, compiled.first[number], compiled.more[number], strict=True):
            total += first_unit.take(entry)
            total += more_unit.take(inner) * more
        if saturation is not None:
            first_unit, more_unit = compiled.saturated[number]
            totals[0] += saturation.of_total(number, first_unit.take(entry) + more_unit.take(inner) * more)
        width = out
    if compiled.tail.shape[1] == 1:
        totals += compiled.tail
    else:
        c3, c4, c5 = (genes[width_gene(tap)] for tap in space.taps)
        n4, n5 = (len(compiled.problem.tables.widths[tap]) for tap in space.taps[1:])
        totals += compiled.tail.take((c3 * n4 + c4) * n5 + c5, axis=1)
    score = totals[0] if compiled.problem.objective is not None else scores_of(compiled.problem, genes.T)
    excess = np.maximum(totals[1:] / compiled.limits[:, None] - 1, 0).sum(axis=0)
    return np.where(excess + outside > 0, compiled.floor - excess - OUTSIDE * outside, score)


def _offspring(compiled: _Compiled, parents: Ints, count: int, rng: np.random.Generator) -> Ints:
    """`count` children of `parents` `[G, N]`: stagewise crossover of two, then mutation and repair."""
    stages = len(compiled.widest)
    mother, father = rng.integers(parents.shape[1], size=(2, count))
    cut = rng.integers(2 * (stages + 1), size=count)  # half of the children have one parent only
    children = np.empty((len(parents), count), np.int64)
    np.take(parents[0], np.where(cut > 0, mother, father), out=children[0])
    for stage in range(stages):
        source = np.where(cut > stage + 1, mother, father)
        place = stage_genes(stage)
        for parent, child in zip(parents[place], children[place], strict=True):
            np.take(parent, source, out=child)
    flat, column = children.reshape(-1), np.arange(count)
    genes = compiled.mutable.take(rng.integers(len(compiled.mutable), size=(MUTATIONS, count)))
    moves = rng.integers(MOVES, size=(MUTATIONS, count))
    for gene, move in zip(genes, moves, strict=True):
        place = gene * count + column
        flat[place] = compiled.moves.take((gene * compiled.most + flat.take(place)) * MOVES + move)
    _repair(compiled, children)
    return children


def _select(compiled: _Compiled, genes: Ints, fitness: Floats, size: int) -> tuple[Ints, Floats]:
    """The `size` best distinct columns, best first; of equals the earlier one."""
    reach = 0
    while True:  # further down if many of the best are equal, or turn out to be too deep
        reach = min(4 * max(reach, size), len(fitness))
        rows = np.flatnonzero(fitness >= np.partition(fitness, -reach)[-reach])
        _, first = np.unique(_keys(genes[:, rows]), return_index=True)
        rows = rows[np.sort(first)]
        kept = _demoted(compiled, genes[:, rows], fitness[rows], size)
        if (kept == fitness[rows]).sum() >= size or reach == len(fitness):
            order = np.argsort(-kept, kind="stable")[:size]
            return genes[:, rows[order]], kept[order]


def _demoted(compiled: _Compiled, genes: Ints, fitness: Floats, size: int) -> Floats:
    """Fitness with the effectiveness bound, checked only for what would be among the `size` best."""
    limit = compiled.problem.max_effectiveness
    if limit is None:
        return fitness
    checked = np.zeros(len(fitness), bool)
    while True:  # what fails falls behind, and others move up
        order = np.argsort(-fitness, kind="stable")[:size]
        new = order[(fitness[order] > compiled.floor) & ~checked[order]]
        if not len(new):
            return fitness
        excess = effectiveness_of(compiled.problem, genes[:, new].T) / limit - 1
        fitness = fitness.copy()
        fitness[new] = np.where(excess > 0, compiled.floor - excess, fitness[new])
        checked[new] = True


def _keys(genes: Ints) -> NDArray[np.uint64]:
    """One 64-bit key a genome `[G, P]`; different genomes share one with probability 2^-64."""
    keys = np.zeros(genes.shape[1], np.uint64)
    for row in genes:
        keys = (keys ^ row.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def start(problem: Problem, settings: EvolutionSettings) -> State:
    """The first population: the smallest architecture and random ones of every size; the best of them."""
    compiled, rng = _compile(problem), np.random.Generator(np.random.PCG64(settings.seed))
    count, choices = OFFSPRING * settings.population, problem.space.choices
    size = rng.random(count)
    genes = np.stack([np.floor(rng.random(count) * (1 + size * (len(row) - 1))).astype(np.int64) for row in choices])
    genes[:, 0] = problem.space.smallest
    _repair(compiled, genes)
    kept = _select(compiled, genes, _fitness(compiled, genes), settings.population)
    return State(0, count, *kept, dict(rng.bit_generator.state))


def resume(problem: Problem, generation: int, evaluated: int, genes: Ints, generator: dict[str, Any]) -> State:
    """A stored state; its fitness is computed anew. Raises `MaenasError` if it does not belong to `problem`."""
    sizes = np.array([len(row) for row in problem.space.choices])
    if genes.ndim != 2 or genes.shape[0] != len(sizes) or not ((genes >= 0) & (genes < sizes[:, None])).all():
        raise MaenasError("the checkpoint's population does not belong to this search space")
    compiled = _compile(problem)
    kept = _select(compiled, genes, _fitness(compiled, genes), genes.shape[1])
    return State(generation, evaluated, *kept, generator)


def evolve(
    problem: Problem,
    settings: EvolutionSettings,
    state: State | None = None,
    on_generation: Callable[[State], None] | None = None,
    *,
    enough: float = math.inf,
) -> State:
    """Run to `settings.generations`, from `state` if given; `on_generation` sees every state on the way.

    It ends before where the best fitness, in integer steps, is `enough`: a score that is known to be the optimum.

    The result depends on the problem and the settings only, not on where a run was cut and resumed.
    """
    state, compiled = state or start(problem, settings), _compile(problem)
    rng = np.random.Generator(np.random.PCG64())
    rng.bit_generator.state = state.generator
    while state.generation < settings.generations and state.fitness[0] < enough:
        count = OFFSPRING * settings.population
        children = _offspring(compiled, state.genes, count, rng)
        genes = np.concatenate([state.genes, children], axis=1)
        fitness = np.concatenate([state.fitness, _fitness(compiled, children)])
        kept = _select(compiled, genes, fitness, settings.population)
        state = State(state.generation + 1, state.evaluated + count, *kept, dict(rng.bit_generator.state))
        if on_generation is not None:
            on_generation(state)
    return state
