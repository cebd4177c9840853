"""Label setting: all paths of a layered graph that may still matter, stage by stage, with Pareto pruning.

Legend: L labels, Q limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maenas.nas.layered import Floats, Ints, Layers, Solution, tail_at
from maenas.nas.relaxation import MARGIN, Bound, Test

DOMINANCE_WINDOW = 48
MAX_LABELS = 6_000_000  # behind one stage; about a gigabyte


@dataclass(frozen=True)
class Labels:
    """Partial architectures at the nodes behind one stage."""

    width: Ints  # [L]
    context: Ints  # [L]
    score: Floats  # [L]
    cost: Floats  # [Q, L]
    parent: Ints  # [L]
    choice: Ints  # [L]

    def select(self, keep: NDArray[Any]) -> Labels:
        return Labels(
            self.width[keep],
            self.context[keep],
            self.score[keep],
            self.cost[:, keep],
            self.parent[keep],
            self.choice[keep],
        )


def _concatenate(parts: Sequence[Labels]) -> Labels:
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=-1)
        for name in ("width", "context", "score", "cost", "parent", "choice")
    }
    return Labels(**joined)


def _expand(layers: Layers, labels: Labels, number: int, chunk: int = 2_000_000) -> Iterator[Labels]:
    """Labels behind stage `number`, in chunks; the last stage adds neck and head."""
    options = layers.stages[number]
    inputs, outputs = options.shape
    starts = np.searchsorted(options.edge, np.arange(inputs + 1) * outputs)
    counts = (starts[1:] - starts[:-1])[labels.width]
    ends = np.cumsum(counts)
    cuts = np.unique(np.searchsorted(ends, np.arange(0, ends[-1] + chunk, chunk), side="right")) if len(ends) else []
    for low, high in pairwise([*dict.fromkeys([0, *cuts, len(counts)])]):
        parent = np.repeat(np.arange(low, high), counts[low:high])
        offset = np.arange(len(parent)) - np.repeat(
            ends[low:high] - counts[low:high] - (ends[low] - counts[low]), counts[low:high]
        )
        choice = starts[labels.width[parent]] + offset
        width, context = options.edge[choice] % outputs, labels.context[parent]
        cost = labels.cost[:, parent] + options.cost[:, choice]
        if number + 1 == len(layers.stages):
            cost = cost + tail_at(layers, context, width)
        elif layers.tapped[number]:
            context = context * outputs + width
        yield Labels(width, context, labels.score[parent] + options.score[choice], cost, parent, choice)


def _completed(layers: Layers, labels: Labels, bound: Bound, number: int) -> Floats:
    """Most that `score - mu cost` of a label can become, `[L]`."""
    value = labels.score - bound.mu @ labels.cost
    if number + 1 == len(layers.stages):
        return value
    rows = labels.context // layers.stages[number].shape[1] if layers.tapped[number] else labels.context
    return value + bound.backward[number][rows, labels.width]


def _fits(layers: Layers, labels: Labels, cheapest: Sequence[Bound], number: int) -> NDArray[np.bool_]:
    """Labels that the cheapest completion keeps within every limit."""
    costs_only = replace(labels, score=np.zeros_like(labels.score))
    fits = np.ones(len(labels.score), bool)
    for bound, limit in zip(cheapest, layers.limits, strict=True):
        fits &= _completed(layers, costs_only, bound, number) >= -limit
    return fits


def undominated(node: Ints, score: Floats, cost: Floats, k: int) -> NDArray[np.bool_]:
    """Labels with fewer than k others at their node that are no worse in score and every cost.

    Complete if k is 1 for one cost, and for two where one of them takes few values; otherwise some dominated labels
    stay, which costs time but no correctness.
    """
    keep = np.zeros(len(node), bool)
    if len(cost) == 0:
        order = np.lexsort((-score, node))
        rank = np.arange(len(order)) - np.maximum.accumulate(
            np.where(np.r_[True, np.diff(node[order]) > 0], np.arange(len(order)), 0)
        )
        keep[order[rank < k]] = True
        return keep
    levels = [len(np.unique(row)) for row in cost]
    first = int(np.argmax(levels))
    order = np.lexsort((-score, cost[first], node))
    if len(cost) == 1:
        for _ in range(k):
            front = _rises(node[order], score[order])
            keep[order[front]] = True
            order = order[~front]
        return keep
    if len(cost) == 2 and k == 1 and min(levels) <= 64:
        second = cost[1 - first]
        for level in np.unique(second):
            within = order[second[order] <= level]
            front = within[_rises(node[within], score[within])]
            keep[front[second[front] == level]] = True
        return keep
    dominators = np.zeros(len(order), np.int64)
    ordered_node, ordered_score, ordered_cost = node[order], score[order], cost[:, order]
    for shift in range(1, min(DOMINANCE_WINDOW, len(order) - 1) + 1):
        better = (ordered_node[shift:] == ordered_node[:-shift]) & (ordered_score[shift:] <= ordered_score[:-shift])
        better &= (ordered_cost[:, shift:] >= ordered_cost[:, :-shift]).all(axis=0)
        dominators[shift:] += better
    keep[order[dominators < k]] = True
    return keep


def _rises(node: Ints, score: Floats) -> NDArray[np.bool_]:
    """Where `score` exceeds everything before it at the same node; rows are grouped by node."""
    if not len(score):
        return np.zeros(0, bool)
    low = score.min()
    span = np.int64(score.max() - low) + 2
    lifted = (score - low).astype(np.int64) + 1 + np.cumsum(np.r_[0, np.diff(node) != 0]) * span
    return lifted > np.r_[np.int64(0), np.maximum.accumulate(lifted)[:-1]]


def set_labels(
    layers: Layers, tests: Sequence[Test], cheapest: Sequence[Bound], *, k: int, beam: int | None = None
) -> tuple[list[Labels] | None, int]:
    """Labels behind the stem and every stage, and how many were made; None beyond `MAX_LABELS`.

    A label survives if some completion may pass one of the tests, some completion fits, and fewer than k labels at
    its node dominate it (behind the last stage: in score and the first cost). With `beam`, only that many labels a
    test go on from a stage: good paths, but not all.
    """
    labels = _stem_labels(layers)
    history, total = [labels], 0
    for number, options in enumerate(layers.stages):
        parts = [labels.select(np.zeros(len(labels.score), bool))]
        for part in _expand(layers, labels, number):
            margins = _margins(layers, part, tests, number)
            keep = (margins >= -MARGIN).any(axis=0) & _fits(layers, part, cheapest, number)
            if beam is not None:
                keep &= _best_of_each(np.where(keep, margins, -np.inf), beam)
            part = part.select(keep)
            total += len(part.score)
            if number + 1 == len(layers.stages):
                part = part.select(undominated(np.zeros_like(part.width), part.score, part.cost[:1], k))
            parts.append(part)
            if sum(len(part.score) for part in parts) > MAX_LABELS:
                return None, total
        labels = _concatenate(parts)
        if number + 1 < len(layers.stages):
            # Behind a tapped stage the context ends with the width itself, so the node is the context alone.
            node = labels.context if layers.tapped[number] else labels.context * options.shape[1] + labels.width
            labels = labels.select(undominated(node, labels.score, labels.cost, k))
            if beam is not None:
                labels = labels.select(_best_of_each(_margins(layers, labels, tests, number), beam))
        history.append(labels)
    return history, total


def _margins(layers: Layers, labels: Labels, tests: Sequence[Test], number: int) -> Floats:
    """By how much the best completion may pass each test, `[tests, L]`."""
    margins = np.full((len(tests), len(labels.score)), np.inf)
    for row, test in zip(margins, tests, strict=True):
        for bound, threshold in zip(test.bounds, test.thresholds, strict=True):
            np.minimum(row, _completed(layers, labels, bound, number) - threshold, out=row)
    return margins


def _best_of_each(margins: Floats, count: int) -> NDArray[np.bool_]:
    """The `count` largest of every row, as one mask."""
    keep = np.zeros(margins.shape[1], bool)
    if margins.shape[1] <= count:
        return ~keep
    for row in margins:
        keep[np.argpartition(-row, count)[:count]] = True
    return keep


def _stem_labels(layers: Layers) -> Labels:
    count = len(layers.stem_score)
    nothing = np.zeros(count, np.int64)
    return Labels(np.arange(count), nothing, layers.stem_score, layers.stem_cost, nothing, nothing)


def trace(layers: Layers, history: Sequence[Labels], row: int) -> Solution:
    """Solution of label `row` behind the last stage."""
    last = history[-1]
    score, cost = int(last.score[row]), tuple(int(c) for c in last.cost[:, row])
    genes: list[int] = []
    for options, labels in zip(layers.stages[::-1], history[:0:-1], strict=True):
        kernel, bottleneck, depth = (int(gene) for gene in options.genes[labels.choice[row]])
        genes = [int(labels.width[row]), kernel, bottleneck, depth, *genes]
        row = int(labels.parent[row])
    return Solution(np.array([int(history[0].width[row]), *genes]), score, cost)
