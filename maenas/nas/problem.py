"""A search as both solvers see it: an additive objective, limits on additive costs, and which options exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maenas.nas.genome import stage_genes, width_gene
from maenas.nas.space import SearchSpace
from maenas.nas.stage_tables import SCORE_UNIT, QuantityTables, Saturation, StageTable, Tables, resolution_stage
from maenas.score import (
    FLAT_WEIGHTS,
    LAYER_PRICE,
    POWERS,
    ScoreTerms,
    deepmad_score,
    effectiveness,
    stage_shares,
)
from maenas.score_names import ScoreName


@dataclass(frozen=True)
class Constraint:
    """`total <= limit`, both in the quantity's integer steps."""

    name: str
    tables: QuantityTables
    limit: float


@dataclass(frozen=True)
class Problem:
    """Maximise `objective` over the genomes of `tables.space` within the constraints and `max_depth` per stage.

    `objective` is None for DeepMAD's score, which is not additive over stages; neither is effectiveness, so that
    `max_effectiveness` is checked on whole architectures.
    """

    tables: Tables
    objective: QuantityTables | None
    constraints: tuple[Constraint, ...]
    max_depth: tuple[int, ...]
    max_effectiveness: float | None = None

    @property
    def space(self) -> SearchSpace:
        return self.tables.space


def mae_objective(tables: Tables, stage_weights: Sequence[float] | None = None) -> QuantityTables:
    """MAE score as an additive quantity, from the entropy tables; the weights are the space's if not given.

    A unit of resolution stage r counts in every H_i with i >= r, so its entropy weighs sum_{i >= r} w_i; the width
    term w_i ln c_i belongs to the last backbone stage of resolution stage i.
    """
    space, entropy = tables.space, tables.quantities["entropy"]
    weights = np.asarray(space.score_weights if stage_weights is None else stage_weights, dtype=np.float64)
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
    if score == "mae-flat":
        return mae_objective(tables, FLAT_WEIGHTS)
    if score == "balanced":
        return balanced_objective(tables)
    if score == "flops" or score in POWERS:
        summed = tables.quantities["flops" if score == "flops" else "power"]
        return QuantityTables(summed.stem, summed.stages, np.zeros(()))
    return None


def balanced_objective(tables: Tables) -> QuantityTables:
    """Balanced score: the price of the layers adds up over units, the logarithms over stages."""
    layers, levels = tables.quantities["layers"], resolution_stage(tables.space)[1:]
    price = -LAYER_PRICE / SCORE_UNIT
    stages = tuple(StageTable(np.rint(price * row.first), np.rint(price * row.more)) for row in layers.stages)
    saturation = Saturation(tables.quantities["power"].stages, stage_shares(levels))
    return QuantityTables(np.rint(price * layers.stem), stages, np.zeros(()), saturation)


def score_terms_of(tables: Tables, genomes: NDArray[np.int64]) -> ScoreTerms:
    """Terms of the scores for genomes `[P, 1 + 4 S]`, from the entropy, layers and flops tables."""
    space, levels = tables.space, np.array(resolution_stage(tables.space))
    entropy = _stage_values(tables.quantities["entropy"], tables, genomes) * 1e-9
    layers = _stage_values(tables.quantities["layers"], tables, genomes)
    widths = np.stack([row[genomes[:, width_gene(stages)]] for stages, row in enumerate(tables.widths)])
    ends = np.flatnonzero(np.r_[levels[1:] != levels[:-1], True])
    strides = np.cumprod([2] + [stage.stride for stage in space.stages])[ends]
    return ScoreTerms(
        entropy=np.cumsum(entropy, axis=0)[ends].T,
        layers=np.cumsum(layers, axis=0)[ends].T,
        log_width=np.log(widths[ends].T),
        log_area=2 * np.log(tables.input_size / strides),
        flops=_stage_values(tables.quantities["flops"], tables, genomes).sum(axis=0),
    )


def _stage_values(quantity: QuantityTables, tables: Tables, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Stem and stages apart, `[1 + S, P]`, without neck and head."""
    rows, before = [quantity.stem[genomes[:, 0]].astype(np.float64)], genomes[:, 0]
    for number, stage in enumerate(tables.space.stages):
        width, kernel, bottleneck, depth = genomes[:, stage_genes(number)].T
        rows.append(quantity.of_stage(number, before, width, kernel, bottleneck, stage.min_depth - 1 + depth))
        before = width
    return np.stack(rows)


def evaluate(quantity: QuantityTables, tables: Tables, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Totals of `quantity` for genomes `[P, 1 + 4 S]`, the plain way: `[P]`."""
    total = _stage_values(quantity, tables, genomes).sum(axis=0)
    tail = quantity.tail
    if tail.ndim:
        tail = tail[tuple(genomes[:, width_gene(tap)] for tap in tables.space.taps)]
    return total + tail


def scores_of(problem: Problem, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Objective of genomes `[P, 1 + 4 S]` in steps of 1e-9 (FLOPs in units), whether additive or not."""
    if problem.objective is not None:
        return evaluate(problem.objective, problem.tables, genomes)
    return np.rint(deepmad_score(score_terms_of(problem.tables, genomes)) * 1e9)


def effectiveness_of(problem: Problem, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
    """DeepMAD's rho of genomes `[P, 1 + 4 S]`."""
    return effectiveness(score_terms_of(problem.tables, genomes))


def feasible(problem: Problem, genomes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which genomes are valid and meet every limit, `[P]`."""
    space, ok = problem.space, np.ones(len(genomes), bool)
    before = genomes[:, 0]
    for number, valid in enumerate(problem.tables.valid):
        width, kernel, bottleneck, depth = genomes[:, stage_genes(number)].T
        ok &= valid[before, width, kernel, bottleneck]
        ok &= space.stages[number].min_depth + depth <= problem.max_depth[number]
        before = width
    for constraint in problem.constraints:
        ok &= evaluate(constraint.tables, problem.tables, genomes) <= constraint.limit
    if problem.max_effectiveness is not None:
        ok &= effectiveness_of(problem, genomes) <= problem.max_effectiveness
    return ok
