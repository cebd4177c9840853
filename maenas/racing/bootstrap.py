"""Who has won, and how sure that is: a paired bootstrap over images, and over seeds where there are several.

Legend: F finalists, B resamples, I images. Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from maenas.racing.state import Interval

SAMPLES: Final = 2000
LEVEL: Final = 0.95


def image_weights(images: int, seed: int, samples: int = SAMPLES) -> np.ndarray:
    """How often each image is drawn, int64 `[1 + B, I]`; the first row is the images themselves."""
    rng = np.random.default_rng((seed, images))
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=samples)
    return np.concatenate([np.ones((1, images), np.int64), drawn])


def mean_over_seeds(aps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """APs `[1 + B]` of one finalist from those of its seeds `[K, 1 + B]`; a resample draws its seeds anew, too.

    The variance of means of K draws from K seeds is (K - 1) / K of that of means of K seeds: they are widened by it.
    """
    count, total = aps.shape
    mean = aps.mean(axis=0)
    drawn = np.take_along_axis(aps, rng.integers(count, size=(count, total)), axis=0).mean(axis=0)
    moved = (drawn - mean) * np.sqrt(count / max(count - 1, 1))
    moved[0] = 0.0  # the first column is no resample
    return mean + moved


def interval(values: np.ndarray) -> Interval:
    """The first of the values `[1 + B]`, between percentiles of the others; those without an AP (nan) do not count."""
    spread = values[1:][~np.isnan(values[1:])]
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(spread, edges) if spread.size else (values[0], values[0])
    return Interval(float(values[0]), float(low), float(high))


def compare(aps: Sequence[np.ndarray], seed: int) -> tuple[list[int], list[Interval], list[Interval]]:
    """Finalists by AP, the best first; the AP of each and the best one's less its own, in the given order.

    `aps` has `[K, 1 + B]` for each finalist, of the same resampled images.
    """
    rng = np.random.default_rng(seed)
    means = np.stack([mean_over_seeds(rows, rng) for rows in aps])  # [F, 1 + B]
    order = sorted(range(len(means)), key=lambda index: -means[index, 0])
    best = means[order[0]]
    return order, [interval(row) for row in means], [interval(best - row) for row in means]
