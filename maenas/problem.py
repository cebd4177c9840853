"""A search as both solvers see it: an additive objective, limits on additive costs, and which options exist."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maenas.score import ScoreName
from maenas.space import Genome, SearchSpace
from maenas.stage_tables import QuantityTables, StageTable, Tables, resolution_stage


@dataclass(frozen=True)
class Constraint:
    """`total <= limit`, both in the quantity's integer steps."""

    name: str
    tables: QuantityTables
    limit: float


@dataclass(frozen=True)
class Problem:
    """Maximise `objective` over the genomes of `tables.space` within the constraints and `max_depth` per stage.

    `objective` is None for a score that is not additive over stages.
    """

    tables: Tables
    objective: QuantityTables | None
    constraints: tuple[Constraint, ...]
    max_depth: tuple[int, ...]

    @property
    def space(self) -> SearchSpace:
        return self.tables.space


def mae_objective(tables: Tables) -> QuantityTables:
    """MAE score as an additive quantity, from the entropy tables.

    A unit of resolution stage r counts in every H_i with i >= r, so its entropy weighs sum_{i >= r} w_i; the width
    term w_i ln c_i belongs to the last backbone stage of resolution stage i.
    """
    space, entropy = tables.space, tables.quantities["entropy"]
    weights = np.asarray(space.score_weights, dtype=np.float64)
    levels = resolution_stage(space)
    suffix = np.cumsum(weights[::-1])[::-1]
    ends = [i + 1 == len(levels) or levels[i + 1] != level for i, level in enumerate(levels)]

    def width_term(position: int) -> NDArray[np.float64]:
        weight = weights[levels[position]] if ends[position] else 0.0
        return np.rint(weight * np.log(tables.widths[position]) * 1e9)

    stem = np.rint(suffix[levels[0]] * entropy.stem) + width_term(0)
    stages = tuple(
        StageTable(
            np.rint(suffix[levels[i]] * table.first) + width_term(i)[None, :, None, None],
            np.rint(suffix[levels[i]] * table.more),
        )
        for i, table in enumerate(entropy.stages, start=1)
    )
    return QuantityTables(stem, stages, np.zeros(()))


def make_objective(tables: Tables, score: ScoreName) -> QuantityTables | None:
    """Objective tables of `score`; None where it is not additive (DeepMAD multiplies H_i by ln c_i)."""
    if score == "mae":
        return mae_objective(tables)
    if score == "flops":
        flops = tables.quantities["flops"]
        return QuantityTables(flops.stem, flops.stages, np.zeros(()))
    return None


def evaluate(quantity: QuantityTables, tables: Tables, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Totals of `quantity` for genomes `[P, 1 + 4 S]`, the plain way: `[P]`."""
    space = tables.space
    total = quantity.stem[genomes[:, 0]].astype(np.float64)
    before = genomes[:, 0]
    for number, (stage, table) in enumerate(zip(space.stages, quantity.stages, strict=True)):
        width, kernel, bottleneck, depth = genomes[:, 1 + 4 * number : 5 + 4 * number].T
        more = table.more[width, kernel, bottleneck]
        total += table.first[before, width, kernel, bottleneck] + (stage.min_depth - 1 + depth) * more
        before = width
    tail = quantity.tail
    if tail.ndim:
        tail = tail[tuple(genomes[:, 4 * tap - 3] for tap in space.taps)]
    return total + tail


def feasible(problem: Problem, genomes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which genomes are valid and meet every limit, `[P]`."""
    space, ok = problem.space, np.ones(len(genomes), bool)
    before = genomes[:, 0]
    for number, valid in enumerate(problem.tables.valid):
        width, kernel, bottleneck, depth = genomes[:, 1 + 4 * number : 5 + 4 * number].T
        ok &= valid[before, width, kernel, bottleneck]
        ok &= space.stages[number].min_depth + depth <= problem.max_depth[number]
        before = width
    for constraint in problem.constraints:
        ok &= evaluate(constraint.tables, problem.tables, genomes) <= constraint.limit
    return ok


def genome_key(genome: Genome) -> tuple[int, ...]:
    """Hashable form of a genome."""
    return tuple(int(gene) for gene in genome)
