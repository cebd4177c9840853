"""Class scores and boxes of all anchors -> detections.

Legend: B batch, A anchors, C classes, K candidates, N detections.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torchvision.ops import batched_nms

MAX_DETECTIONS = 500  # of one image, as published


class Detections(NamedTuple):
    """Detections of one image, best first."""

    boxes: Tensor  # float32 [N, 4], xyxy in pixels
    scores: Tensor  # float32 [N]
    labels: Tensor  # int64 [N], from 0


def postprocess(
    scores: Tensor, boxes: Tensor, *, conf: float, iou: float, max_det: int = MAX_DETECTIONS
) -> list[Detections]:
    """Detections of each image from scores `[B, A, C]` (probabilities) and boxes `[B, A, 4]`.

    Every pair of an anchor and a class that scores more than `conf` is a candidate. Within a class, a candidate that
    overlaps a better kept one by more than `iou` is dropped; the best `max_det` of the rest are returned.
    """
    pairs = zip(scores.float(), boxes.float(), strict=True)
    return [_detections(s, b, conf=conf, iou=iou, max_det=max_det) for s, b in pairs]


def _detections(scores: Tensor, boxes: Tensor, *, conf: float, iou: float, max_det: int) -> Detections:
    anchors, labels = (scores > conf).nonzero(as_tuple=True)  # [K], [K]
    candidates, values = boxes[anchors], scores[anchors, labels]
    # batched_nms sets classes apart by adding offsets to their boxes: in float32 that would move overlaps by 1e-4.
    kept = batched_nms(candidates.double(), values.double(), labels, iou)[:max_det]
    return Detections(candidates[kept], values[kept], labels[kept])
