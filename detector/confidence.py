"""Precision, recall and F1 over the least confidence that counts. Legend: C classes, R recall points, S confidences."""

from __future__ import annotations

from typing import Final

import numpy as np

from maenas.run_files import OverConfidence

RECALLS: Final = tuple(i / 100 for i in range(101))
CONFIDENCES: Final = RECALLS


def over_confidence(precision: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall `[C, S]` of the detections of at least each of the confidences 0, 0.01, ..., 1.

    From COCO's precision and scores `[C, R]`, so that both stand at the recalls 0, 0.01, ..., 1. Where nothing is that
    confident, recall is 0 and precision that of the most confident detection.
    """
    reached = (scores[:, None, :] >= np.array(CONFIDENCES)[None, :, None]) & (precision[:, None, :] > 0)  # [C, S, R]
    last = np.maximum(reached.sum(axis=2) - 1, 0)
    recall = np.array(RECALLS)[last]
    return np.take_along_axis(precision, last, axis=1), np.where(reached.any(axis=2), recall, 0.0)


def f1_of(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def mean_over_confidence(precision: np.ndarray, scores: np.ndarray) -> OverConfidence | None:
    """Means over the classes that have a box; None without one."""
    rated = ~np.isnan(precision).any(axis=1)
    if not rated.any():
        return None
    p, r = over_confidence(precision[rated], scores[rated])
    means = (tuple(values.mean(axis=0).round(6).tolist()) for values in (p, r, f1_of(p, r)))
    return OverConfidence(CONFIDENCES, *means)
