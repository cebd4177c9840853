"""Extremely randomised trees (Geurts, Ernst, Wehenkel 2006) in NumPy: grown level by level, evaluated by gathers.

Every tree leaves out a random fifth of the rows, so that each row has trees that never saw it: their errors are those
of new rows. The forest's answer is the median of its trees, which a few rows of another kind cannot move.

Legend: n rows, F features, T trees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAF = 1  # rows in a leaf, at least
LEFT_OUT = 0.2
CHUNK = 1 << 20  # nodes walked at a time

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Forest:
    """All nodes of all trees. A leaf has itself as its left child; the right child stands after the left one."""

    roots: NDArray[np.int32]  # [T]
    feature: NDArray[np.uint8]
    threshold: NDArray[np.float32]  # go left where x <= threshold
    left: NDArray[np.int32]
    value: NDArray[np.float32]

    def leaves(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """What every tree says. X: [n, F]; result [T, n]."""
        step = max(1, CHUNK // len(self.roots))
        parts = [self._walk(X[start : start + step], self.roots) for start in range(0, len(X), step)]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(self.roots), 0), np.float32)

    def _walk(self, X: NDArray[np.float32], roots: NDArray[np.int32]) -> NDArray[np.float32]:
        node = np.repeat(roots, len(X))
        row = np.tile(np.arange(len(X)), len(roots))
        active = np.arange(len(node))
        while active.size:
            here = node[active]
            left = self.left[here]
            inner = left != here
            active, here, left = active[inner], here[inner], left[inner]
            node[active] = left + (X[row[active], self.feature[here]] > self.threshold[here])
        return self.value[node].reshape(len(roots), len(X))


def grow_forest(X: NDArray[np.float32], y: Floats, *, trees: int, seed: int) -> tuple[Forest, Floats]:
    """The forest, and what its trees say of the rows they left out: [T, n], NaN elsewhere."""
    rng = np.random.default_rng(seed)
    grown, size, roots = [], 0, []
    left_out = np.full((trees, len(y)), np.nan)
    for tree in range(trees):
        absent = rng.permutation(len(y))[: int(LEFT_OUT * len(y))]
        present = np.setdiff1d(np.arange(len(y)), absent)
        nodes = _grow_tree(X[present], y[present], rng)
        alone = Forest(np.zeros(1, np.int32), *nodes)
        left_out[tree, absent] = alone.leaves(X[absent])[0]
        roots.append(size)
        nodes[2][:] += size
        grown.append(nodes)
        size += len(nodes[0])
    columns = (np.concatenate(column) for column in zip(*grown, strict=True))
    return Forest(np.array(roots, np.int32), *columns), left_out


def _grow_tree(X: NDArray[np.float32], y: Floats, rng: np.random.Generator) -> tuple[NDArray, ...]:
    """Nodes (feature, threshold, left, value). Rows of a node stay next to each other while a level is split."""
    levels = []
    columns, values = (
        np.ascontiguousarray(X.T),
        y.astype(np.float32),
    )  # [F, n] and [n], of the rows in nodes of this level
    counts = np.array([len(y)])
    first = 0  # number of this level's first node
    while counts.size:
        starts = np.cumsum(counts) - counts
        mean = np.add.reduceat(values, starts, dtype=np.float64) / counts
        threshold, gain = _random_splits(columns, values, counts, starts, rng)
        best = np.argmax(gain, axis=0)
        nodes = np.arange(len(counts))
        split = gain[best, nodes] > -np.inf
        chosen = threshold[best, nodes]
        following = first + len(counts) + 2 * (np.cumsum(split) - split)
        left = np.where(split, following, first + nodes)
        levels.append((best.astype(np.uint8), chosen, left.astype(np.int32), mean.astype(np.float32)))
        node_of_row = np.repeat(nodes, counts)
        right = columns[best[node_of_row], np.arange(len(values))] > chosen[node_of_row]
        rank = 2 * node_of_row + right
        order = np.argsort(rank, kind="stable")
        order = order[split[node_of_row[order]]]
        first += len(counts)
        counts = np.bincount(rank, minlength=2 * len(counts)).reshape(-1, 2)[split].ravel()
        columns, values = columns[:, order], values[order]
    feature, thresholds, left, value = (np.concatenate(column) for column in zip(*levels, strict=True))
    return feature, thresholds, left, value


def _random_splits(
    columns: NDArray[np.float32],
    values: NDArray[np.float32],
    counts: NDArray,
    starts: NDArray,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], Floats]:
    """One random threshold a feature and node, and by how much it lowers the squared error; both [F, nodes]."""
    low = np.minimum.reduceat(columns, starts, axis=1)
    high = np.maximum.reduceat(columns, starts, axis=1)
    threshold = low + (high - low) * rng.random(low.shape, dtype=np.float32)
    threshold = np.where(threshold < high, threshold, low)  # rounding must not leave the right side empty
    goes_left = columns <= np.repeat(threshold, counts, axis=1)
    left_count = np.add.reduceat(goes_left, starts, axis=1, dtype=np.int64)
    left_sum = np.add.reduceat(np.where(goes_left, values, np.float32(0)), starts, axis=1, dtype=np.float64)
    total = np.add.reduceat(values, starts, dtype=np.float64)
    right_count = counts - left_count
    valid = (left_count >= LEAF) & (right_count >= LEAF)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = left_sum**2 / left_count + (total - left_sum) ** 2 / right_count
    return threshold, np.where(valid, gain, -np.inf)
