"""Precision, recall and F1 over the least confidence that counts. Legend: C classes, R recall points, S confidences."""

from __future__ import annotations

from typing import Final

import numpy as np

from maenas.run_files import OverConfidence

RECALLS: Final = tuple(i / 100 for i in range(101))
CONFIDENCES: Final = RECALLS


def over_confidence(scores: np.ndarray, boxes: np.ndarray, detections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall `[C, S]` of the detections of at least each of the confidences 0, 0.01, ..., 1.

    `scores` `[C, R]` are COCO's: the confidence at which the recalls 0, 0.01, ..., 1 are reached, 0 where they are not.
    `boxes` `[C]` and `detections` `[C, S]` are how many there are; hits are counted to a hundredth of the boxes. Where
    nothing is that confident, recall is 0 and precision that of the most confident detections.
    """
    boxes = np.maximum(boxes, 1)[:, None]
    reached = (scores[:, None, :] >= np.array(CONFIDENCES)[None, :, None]) & (scores[:, None, :] > 0)  # [C, S, R]
    last = np.maximum(reached.sum(axis=2) - 1, 0)
    hits = np.where(reached.any(axis=2), np.ceil(np.array(RECALLS)[last] * boxes - 1e-6), 0.0)
    hits = np.minimum(hits, detections)
    precision = hits / np.maximum(detections, 1)
    some = np.maximum((detections > 0).sum(axis=1, keepdims=True) - 1, 0)  # the last confidence that any has
    place = np.minimum(np.arange(detections.shape[1])[None], some)
    return np.take_along_axis(precision, place, axis=1), hits / boxes


def confident(scores: np.ndarray) -> np.ndarray:
    """How many of the scores `[N]` are at least each of the confidences, int64 `[S]`."""
    return len(scores) - np.searchsorted(np.sort(scores), CONFIDENCES, side="left")


def f1_of(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def mean_over_confidence(scores: np.ndarray, boxes: np.ndarray, detections: np.ndarray) -> OverConfidence | None:
    """Means over the classes that have a box; None without one. From what `over_confidence` takes."""
    rated = boxes > 0
    if not rated.any():
        return None
    p, r = over_confidence(scores[rated], boxes[rated], detections[rated])
    means = (tuple(values.mean(axis=0).round(6).tolist()) for values in (p, r, f1_of(p, r)))
    return OverConfidence(CONFIDENCES, *means)
