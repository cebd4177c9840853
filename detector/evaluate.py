"""Detections against ground truth: COCO average precision, per class, confusion matrix, precision over recall.

The COCO metrics are those of faster-coco-eval, which equal pycocotools'. Boxes are xyxy in pixels of the images.
Legend: C classes, T IoU thresholds, R recall points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from torchvision.ops import box_iou

from detector.confidence import RECALLS, confident, mean_over_confidence
from detector.data.dataset import Dataset, Sample
from detector.data.flat import flat
from detector.postprocess import Detections
from maenas.files import ensure_folder, write_atomic
from maenas.run_files import (
    METRICS_FILE,
    TRUTH_PICTURE,
    ClassResult,
    Confusion,
    Curves,
    Evaluation,
)

CONFUSION_SCORE: Final = 0.25
CONFUSION_IOU: Final = 0.5
_NO_OUTLINE: Final = ()
_AREAS: Final = {"": 0, "s": 1, "m": 2, "l": 3}  # all, and by COCO's sizes: under 32^2, under 96^2, the rest


@dataclass(frozen=True, eq=False)
class Metrics:
    """Results of one evaluation.

    `summary` has COCO's twelve numbers: AP (mean over IoU 0.5 to 0.95), AP50, AP75, APs, APm, APl, AR1, AR10, AR100,
    ARs, ARm, ARl; None where there is nothing to rate.
    """

    summary: Mapping[str, float | None]
    per_class: tuple[ClassResult, ...]
    confusion: np.ndarray  # int64 [C + 1, C + 1]: truth by prediction; the last row and column are the background
    precision: np.ndarray  # float [C, R]: at IoU 0.5 and the recalls 0, 0.01, ..., 1; nan for a class without boxes
    scores: np.ndarray  # float [C, R]: the confidence at which each of those recalls is reached; 0 where it is not
    found: np.ndarray  # int64 [C, S]: detections of at least each confidence, without those in crowds
    images: int
    listed_images: int

    @property
    def boxes(self) -> np.ndarray:
        """Boxes of each class, int64 `[C]`."""
        return np.array([entry.boxes for entry in self.per_class])

    def scalars(self) -> dict[str, float]:
        """The numbers of `summary` that there are."""
        return {name: value for name, value in self.summary.items() if value is not None}

    def stored(self) -> Evaluation:
        """As it is stored and reported."""
        curves = {
            entry.name: tuple(row.round(6).tolist())
            for entry, row in zip(self.per_class, self.precision, strict=True)
            if entry.boxes
        }
        matrix = tuple(map(tuple, self.confusion.tolist()))
        return Evaluation(
            images=self.images,
            listed_images=self.listed_images,
            summary=dict(self.summary),
            per_class=self.per_class,
            confusion=Confusion(CONFUSION_SCORE, CONFUSION_IOU, matrix),
            precision_at_iou50=Curves(RECALLS, curves),
            over_confidence=mean_over_confidence(self.scores, self.boxes, self.found),
        )

    def document(self) -> dict[str, Any]:
        """Everything as plain data for JSON."""
        return asdict(self.stored())


def evaluate(dataset: Dataset, detections: Mapping[int, Detections]) -> Metrics:
    """Rates the detections of each image, by image id.

    An image that `detections` does not have was not looked at and does not count; one without a detection has an entry
    of length 0. Every class of `dataset.names` counts that has a box in these images.

    Raises ValueError for the id of an image that is not in the data set.
    """
    samples = [sample for sample in dataset.samples if sample.id in detections]
    if len(samples) < len(detections):
        raise ValueError("detections of images that the data set does not have")
    precision, recall, scores = _accumulated(samples, dataset.names, detections)
    boxes = flat(samples).class_counts(len(dataset.names)).tolist()
    per_class = []
    for label, name in enumerate(dataset.names):
        own = precision[:, :, label, 0, -1]
        per_class.append(ClassResult(name, boxes[label], _mean(own), _mean(own[0])))
    curves = precision[0, :, :, 0, -1].T
    return Metrics(
        summary=_summary(precision, recall),
        per_class=tuple(per_class),
        confusion=confusion_matrix(samples, detections, len(dataset.names)),
        precision=np.where(curves < 0, np.nan, curves),
        scores=np.maximum(scores[0, :, :, 0, -1].T, 0.0),
        found=_found(samples, detections, len(dataset.names)),
        images=len(samples),
        listed_images=len(dataset),
    )


def write_report(metrics: Metrics, folder: Path, picture: bytes | None = None) -> None:
    """Writes `metrics.json`, plots, and `picture`, a JPEG of truth and predictions; raises MaenasError if it cannot."""
    from detector.plots import confidence_plot, confusion_plot, precision_plot

    ensure_folder(folder)
    names = tuple(entry.name for entry in metrics.per_class)
    write_atomic(folder / METRICS_FILE, metrics.stored().text())
    write_atomic(folder / "precision_recall.png", precision_plot(metrics.precision, RECALLS, names))
    write_atomic(folder / "confidence.png", confidence_plot(metrics.scores, metrics.boxes, metrics.found, names))
    write_atomic(folder / "confusion.png", confusion_plot(metrics.confusion, names))
    if picture is not None:
        write_atomic(folder / TRUTH_PICTURE, picture)


def _accumulated(
    samples: list[Sample], names: tuple[str, ...], detections: Mapping[int, Detections]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """COCO's precision `[T, R, C, areas, limits]`, recall `[T, C, areas, limits]` and scores, as precision.

    -1 where there is no box.
    """
    truth = COCO(_truth(samples, names))
    rows = [row for sample in samples for row in _rows(sample.id, detections[sample.id])]
    evaluation = COCOeval_faster(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    found = evaluation.eval
    return np.asarray(found["precision"]), np.asarray(found["recall"]), np.asarray(found["scores"])


def _found(samples: list[Sample], detections: Mapping[int, Detections], num_classes: int) -> np.ndarray:
    """Detections of each class and of at least each confidence, int64 `[C, S]`, but for those in its crowds."""
    scores: list[list[np.ndarray]] = [[np.zeros(0)] for _ in range(num_classes)]
    for sample in samples:
        found = detections[sample.id]
        labels, values = found.labels.cpu().numpy(), found.scores.double().cpu().numpy()
        counted = np.ones(len(labels), bool)
        for label in np.unique(sample.crowd_labels).tolist():
            crowds = torch.from_numpy(sample.crowd_boxes[sample.crowd_labels == label]).double()
            counted &= ~((labels == label) & _crowded(found.boxes.double().cpu(), crowds).numpy())
        for label in np.unique(labels).tolist():
            scores[label].append(values[counted & (labels == label)])
    return np.stack([confident(np.concatenate(rows)) for rows in scores])


def _truth(samples: list[Sample], names: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    annotations: list[dict[str, Any]] = []
    for sample in samples:
        crowd_areas = np.prod(sample.crowd_boxes[:, 2:] - sample.crowd_boxes[:, :2], axis=1)
        for boxes, labels, areas, crowd in (
            (sample.boxes, sample.labels, sample.areas, 0),
            (sample.crowd_boxes, sample.crowd_labels, crowd_areas, 1),
        ):
            for (x1, y1, x2, y2), label, area in zip(boxes.tolist(), labels.tolist(), areas.tolist(), strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": sample.id,
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": area,
                        "iscrowd": crowd,
                    }
                )
    return {
        "images": [{"id": sample.id, "width": sample.width, "height": sample.height} for sample in samples],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(names, start=1)],
    }


def _rows(id: int, found: Detections) -> list[dict[str, Any]]:
    """COCO results of an image. The empty outlines keep faster-coco-eval from making them, which takes its time."""
    boxes = found.boxes.double()
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)
    columns = boxes.tolist(), found.scores.tolist(), (found.labels + 1).tolist()
    return [
        {"image_id": id, "category_id": label, "bbox": box, "score": score, "segmentation": _NO_OUTLINE}
        for box, score, label in zip(*columns, strict=True)
    ]


def _summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float | None]:
    summary = {
        "AP": _mean(precision[:, :, :, 0, -1]),
        "AP50": _mean(precision[0, :, :, 0, -1]),
        "AP75": _mean(precision[5, :, :, 0, -1]),
    }
    summary |= {f"AP{name}": _mean(precision[:, :, :, area, -1]) for name, area in _AREAS.items() if name}
    summary |= {f"AR{most}": _mean(recall[:, :, 0, limit]) for limit, most in enumerate((1, 10, 100))}
    summary |= {f"AR{name}": _mean(recall[:, :, area, -1]) for name, area in _AREAS.items() if name}
    return summary


def _mean(values: np.ndarray) -> float | None:
    """The mean over everything that has a box (-1: has none)."""
    rated = values[values > -1]
    return float(rated.mean()) if rated.size else None


# Confusion ----------------------------------------------------------------------------------------------------------


def confusion_matrix(samples: list[Sample], detections: Mapping[int, Detections], num_classes: int) -> np.ndarray:
    """How often each class (row) was found as each class (column), int64 `[C + 1, C + 1]`; the last is the background.

    Detections of score 0.25 and more, best first, take the free box, of any class, that they overlap most, by at least
    0.5. One that finds none is a false detection (last row), unless half of it lies in a crowd; a box that is left over
    is missed (last column).
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for sample in samples:
        found = detections[sample.id]
        sure = torch.argsort(found.scores, descending=True, stable=True)
        sure = sure[found.scores[sure] >= CONFUSION_SCORE]
        boxes, labels = found.boxes[sure].double().cpu(), found.labels[sure].tolist()
        overlaps = box_iou(boxes, torch.from_numpy(sample.boxes).double()).numpy()  # [N, boxes]
        crowded = _crowded(boxes, torch.from_numpy(sample.crowd_boxes).double()).tolist()
        free = np.ones(len(sample.labels), bool)
        for row, label in enumerate(labels):
            own = np.where(free, overlaps[row], 0.0)
            if own.max(initial=0.0) >= CONFUSION_IOU:
                best = own.argmax()
                free[best] = False
                matrix[sample.labels[best], label] += 1
            elif not crowded[row]:
                matrix[num_classes, label] += 1
        np.add.at(matrix[:, num_classes], sample.labels[free], 1)
    return matrix


def _crowded(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Whether half of each box, bool `[N]`, lies in one crowd."""
    corners = (
        torch.maximum(boxes[:, None, :2], crowds[None, :, :2]),
        torch.minimum(boxes[:, None, 2:], crowds[None, :, 2:]),
    )
    shared = (corners[1] - corners[0]).clamp(min=0).prod(dim=2)  # [N, K]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return ((shared > 0) & (shared >= 0.5 * areas[:, None])).any(dim=1)
