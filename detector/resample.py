"""COCO's average precision on resampled images: detections are matched once, and counted as often as images are drawn.

Legend: B resamples, I images, N detections of a class, G its boxes in an image, T IoU thresholds, R recall points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from detector.data.sample import Dataset, Sample
from detector.postprocess import Detections

IOUS: Final = np.linspace(0.5, 0.95, 10)  # [T]
RECALLS: Final = np.linspace(0.0, 1.0, 101)  # [R]
MOST: Final = 100  # detections of a class in an image that count
AT_ONCE: Final = 2**24  # numbers in an array, so that memory stays bounded


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """Detections of one class in all images, the surest first, and what became of them at each IoU threshold."""

    images: np.ndarray  # int64 [N]: place of the image among all
    found: np.ndarray  # bool [T, N]: matched to a box
    ignored: np.ndarray  # bool [T, N]: matched to a crowd, and so neither right nor wrong
    boxes: np.ndarray  # int64 [I]: boxes of the class in each image, without crowds


def match(dataset: Dataset, detections: Mapping[int, Detections]) -> tuple[ClassMatches, ...]:
    """The detections of the images that have an entry, by class, matched to boxes as COCO does.

    Images count in the order of their ids.
    """
    samples = sorted((s for s in dataset.samples if s.id in detections), key=lambda sample: sample.id)
    parts: list[list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in dataset.names]
    boxes = np.zeros((len(dataset.names), len(samples)), np.int64)
    for place, sample in enumerate(samples):
        np.add.at(boxes[:, place], sample.labels, 1)
        for label, scores, found, ignored in _matched(sample, detections[sample.id]):
            parts[label].append((np.full(len(scores), place), scores, found, ignored))
    none = (np.zeros(0, np.int64), np.zeros(0), np.zeros((len(IOUS), 0), bool), np.zeros((len(IOUS), 0), bool))
    matches = []
    for own, counts in zip(parts, boxes, strict=True):
        images, scores, found, ignored = (np.concatenate(columns, axis=-1) for columns in zip(none, *own, strict=True))
        order = np.argsort(-scores, kind="stable")
        matches.append(ClassMatches(images[order], found[:, order], ignored[:, order], counts))
    return tuple(matches)


def _matched(sample: Sample, found: Detections) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each class that was found in an image: label, scores `[N]`, found and ignored `[T, N]`, the surest first."""
    labels = found.labels.cpu().numpy()
    scores, boxes = found.scores.double().cpu().numpy(), found.boxes.double().cpu().numpy()
    for label in np.unique(labels).tolist():
        own = np.flatnonzero(labels == label)
        own = own[np.argsort(-scores[own], kind="stable")][:MOST]
        truth = sample.boxes[sample.labels == label].astype(np.float64)
        crowds = sample.crowd_boxes[sample.crowd_labels == label].astype(np.float64)
        overlaps = np.hstack([_overlaps(boxes[own], truth, crowd=False), _overlaps(boxes[own], crowds, crowd=True)])
        yield (label, scores[own], *_assigned(overlaps, len(truth)))


def _overlaps(found: np.ndarray, truth: np.ndarray, *, crowd: bool) -> np.ndarray:
    """IoU of boxes xyxy, float64 `[N, G]`; with a crowd the part of the detection that lies in it."""
    corners = np.minimum(found[:, None, 2:], truth[None, :, 2:]) - np.maximum(found[:, None, :2], truth[None, :, :2])
    shared = np.clip(corners, 0, None).prod(axis=2)
    areas = (found[:, 2:] - found[:, :2]).prod(axis=1)[:, None]
    if crowd:
        return shared / np.maximum(areas, np.spacing(1))
    union = areas + (truth[:, 2:] - truth[:, :2]).prod(axis=1)[None] - shared
    return shared / np.maximum(union, np.spacing(1))


def _assigned(overlaps: np.ndarray, real: int) -> tuple[np.ndarray, np.ndarray]:
    """Found and ignored, bool `[T, N]`, from overlaps `[N, G]` of which the first `real` columns are no crowds.

    Each detection in turn takes the free box that it overlaps most, the last of equals; where it reaches none, it may
    lie in a crowd, which never is used up.
    """
    count, thresholds = len(overlaps), np.minimum(IOUS, 1 - 1e-10)
    found, ignored = np.zeros((len(IOUS), count), bool), np.zeros((len(IOUS), count), bool)
    free = np.ones((len(IOUS), real), bool)
    levels = np.arange(len(IOUS))
    crowded = overlaps[:, real:].max(axis=1, initial=0.0)
    for row in np.flatnonzero(overlaps.max(axis=1, initial=0.0) >= thresholds[0]):
        if real:
            values = np.where(free, overlaps[row, :real], -1.0)[:, ::-1]  # [T, G]
            best = real - 1 - values.argmax(axis=1)
            found[:, row] = values.max(axis=1) >= thresholds
            free[levels[found[:, row]], best[found[:, row]]] = False
        ignored[:, row] = ~found[:, row] & (crowded[row] >= thresholds)
    return found, ignored


def weighted_ap(matches: tuple[ClassMatches, ...], weights: np.ndarray) -> np.ndarray:
    """COCO's AP, float64 `[B]`, if each image counts as often as `weights`, int64 `[B, I]`, says; nan without a box.

    Equal to an evaluation of the images so repeated, and with ones everywhere to that of the images.
    """
    most = max((len(own.images) for own in matches), default=0)
    step = max(1, AT_ONCE // max(1, most, len(matches) * len(IOUS) * len(RECALLS)))
    parts = [_ap(matches, weights[start : start + step]) for start in range(0, len(weights), step)]
    return np.concatenate([np.zeros(0), *parts])


def _ap(matches: tuple[ClassMatches, ...], weights: np.ndarray) -> np.ndarray:
    # [B, T, R, C], as COCO has it: the mean over it is the same sum in the same order
    precision = np.stack([_precision(own, weights) for own in matches], axis=-1)
    rows = (row[row > -1] for row in precision)
    return np.array([row.mean() if row.size else np.nan for row in rows])


def _precision(own: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """Interpolated precision `[B, T, R]`, -1 where the class has no box.

    Only detections that are found can be where precision over recall steps.
    """
    boxes = weights @ own.boxes  # [B]
    drawn = weights[:, own.images].astype(np.float64)  # [B, N]
    everything = np.cumsum(drawn, axis=1)
    result = np.full((len(weights), len(IOUS), len(RECALLS)), -1.0)
    for level, (found, ignored) in enumerate(zip(own.found, own.ignored, strict=True)):
        right = np.flatnonzero(found)
        counted = np.cumsum(drawn * ~ignored, axis=1) if ignored.any() else everything
        hits = np.cumsum(drawn[:, right], axis=1)  # [B, found]
        recall = hits / np.maximum(boxes, 1)[:, None]
        precision = hits / np.maximum(counted[:, right], 1)
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        padded = np.hstack([highest, np.zeros((len(weights), 1))])
        for row in np.flatnonzero(boxes):
            result[row, level] = padded[row, np.searchsorted(recall[row], RECALLS, side="left")]
    return result
