"""The layered graph whose paths are the architectures of a problem.

A node is a stage's output width, together with the tapped widths that neck and head still have to be charged for; an
edge between two widths carries options (kernel, bottleneck, depth). Scores and costs are integers in float64.

Legend: I/O input and output widths, Q limits, N options, L paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maenas.errors import MaenasError
from maenas.nas.genome import Genome
from maenas.nas.problem import Constraint, Problem
from maenas.nas.stage_tables import QuantityTables

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


BLOCK = 1 << 15  # options; a run of them stays in the processor's cache


@dataclass(frozen=True)
class Options:
    """Options of one stage, sorted by edge (input width, output width)."""

    edge: Ints  # [N]  input * outputs + output
    genes: Ints  # [N, 3]  kernel, bottleneck, depth indices
    score: Floats  # [N]
    cost: Floats  # [Q, N]
    shape: tuple[int, int]  # inputs, outputs

    @cached_property
    def starts(self) -> Ints:
        """Where the options of each edge that has any begin."""
        return np.flatnonzero(np.diff(self.edge, prepend=-1))

    @cached_property
    def blocks(self) -> list[tuple[slice, Ints]]:
        """The options in runs of whole edges that a processor's cache can hold, and where edges begin in each."""
        cuts = np.unique(self.starts[1:].searchsorted(np.arange(BLOCK, len(self.edge), BLOCK))) + 1
        parts = np.split(self.starts, cuts[cuts < len(self.starts)])
        ends = [*(part[0] for part in parts[1:]), len(self.edge)]
        return [(slice(part[0], end), part - part[0]) for part, end in zip(parts, ends, strict=True) if len(part)]

    @cached_property
    def edge_values(self) -> dict[bytes, Floats]:
        """What relaxations have found the edges to be worth, `[I, O]` by multipliers."""
        return {}

    def on_edges(self, wanted: NDArray[np.bool_]) -> Ints:
        """Rows of the options on the edges that are `wanted`, `[I * O]`."""
        counts = np.diff(self.starts, append=len(self.edge))
        keep = wanted[self.edge[self.starts]]
        counts, starts = counts[keep], self.starts[keep]
        before = np.cumsum(counts) - counts
        return np.arange(counts.sum()) + np.repeat(starts - before, counts)

    def select(self, keep: NDArray[Any]) -> Options:
        """The options of a mask or of rising rows."""
        return replace(
            self, edge=self.edge[keep], genes=self.genes[keep], score=self.score[keep], cost=self.cost[:, keep]
        )


@dataclass(frozen=True)
class Layers:
    """The layered graph of a problem."""

    stem_score: Floats  # [W0]
    stem_cost: Floats  # [Q, W0]
    stages: tuple[Options, ...]
    tail_cost: Floats  # [Q, C3, C4, C5] or [Q]
    limits: Floats  # [Q]
    tapped: tuple[bool, ...]  # per stage: whether its width stays in the context behind it


@dataclass(frozen=True)
class Solution:
    """One architecture with its score and costs in integer steps."""

    genome: Genome
    score: int
    cost: tuple[int, ...]


def make_layers(problem: Problem) -> Layers:
    """Graph of `problem`; raises `MaenasError` if its objective is not additive."""
    if problem.objective is None:
        raise MaenasError("this score is not additive over stages, so there is no exact solution; use evolution")
    objective, constraints = problem.objective, problem.constraints
    tables, space = problem.tables, problem.space
    stages = []
    for number, stage in enumerate(space.stages):
        depth_values = np.arange(stage.min_depth, problem.max_depth[number] + 1)
        inputs, outputs, kernel, bottleneck = np.nonzero(tables.valid[number])
        depth = np.tile(np.arange(len(depth_values)), len(inputs))
        rows = np.repeat(np.arange(len(inputs)), len(depth_values))
        i, o, k, b = inputs[rows], outputs[rows], kernel[rows], bottleneck[rows]

        def total(table: QuantityTables, i=i, o=o, k=k, b=b, extra=depth_values[depth] - 1, number=number) -> Floats:
            return table.of_stage(number, i, o, k, b, extra)

        shape = tables.valid[number].shape[:2]
        cost = np.array([total(c.tables) for c in constraints]).reshape(len(constraints), len(rows))
        genes = np.stack([k, b, depth], axis=1)
        stages.append(Options(i * shape[1] + o, genes, total(objective), cost, shape))
    has_tail = any(c.tables.tail.ndim for c in constraints)
    tail_shape = tuple(len(tables.widths[tap]) for tap in space.taps) if has_tail else ()
    return Layers(
        stem_score=objective.stem.astype(np.float64),
        stem_cost=np.array([c.tables.stem for c in constraints]).reshape(len(constraints), len(objective.stem)),
        stages=tuple(stages),
        tail_cost=np.array([np.broadcast_to(c.tables.tail, tail_shape) for c in constraints]).reshape(-1, *tail_shape),
        limits=np.array([_attainable_limit(c, stages, row) for row, c in enumerate(constraints)]),
        tapped=tuple(has_tail and number in space.taps[:2] for number in range(1, len(space.stages) + 1)),
    )


def _attainable_limit(constraint: Constraint, stages: Sequence[Options], row: int) -> float:
    """Largest total that fits, where totals can only be `base + n * step` (layers come in whole units)."""
    if constraint.tables.tail.ndim or len(np.unique(constraint.tables.stem)) > 1:
        return float(constraint.limit)
    least = [options.cost[row].min(initial=0) for options in stages]
    spread = [options.cost[row] - low for options, low in zip(stages, least, strict=True)]
    step = int(np.gcd.reduce([np.gcd.reduce(row.astype(np.int64), initial=0) for row in spread]))
    base = float(constraint.tables.stem[0] + constraint.tables.tail + sum(least))
    return base + (constraint.limit - base) // step * step if step else float(constraint.limit)


def tail_at(layers: Layers, context: Ints, width: Ints) -> Floats:
    """Neck and head cost behind final nodes, `[Q, L]`."""
    limits = len(layers.limits)
    if layers.tail_cost.ndim == 1:
        return np.broadcast_to(layers.tail_cost[:, None], (limits, len(width)))
    return layers.tail_cost.reshape(limits, -1)[:, context * layers.stages[-1].shape[1] + width]
