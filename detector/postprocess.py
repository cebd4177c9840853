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
    scores: Tensor,
    boxes: Tensor,
    *,
    conf: float,
    iou: float | None,
    max_det: int = MAX_DETECTIONS,
    most: int | None = None,
) -> list[Detections]:
    """Detections of each image from scores `[B, A, C]` (probabilities) and boxes `[B, A, 4]`.

    Every pair of an anchor and a class that scores more than `conf` is a candidate. Within a class, a candidate that
    overlaps a better kept one by more than `iou` is dropped (None: the network has done that, and gives the best of an
    image first); the best `max_det` of the rest are returned. If
    `most` is given, only so many of the best candidates of an image compete: at a low `conf` there can be 600,000.
    """
    if scores.device.type == "mps":  # which has no float64
        scores, boxes = scores.cpu(), boxes.cpu()
    pairs = zip(scores.float(), boxes.float(), strict=True)
    return [_detections(s, b, conf=conf, iou=iou, max_det=max_det, most=most) for s, b in pairs]


def _detections(
    scores: Tensor, boxes: Tensor, *, conf: float, iou: float | None, max_det: int, most: int | None
) -> Detections:
    anchors, labels = (scores > conf).nonzero(as_tuple=True)  # [K], [K]
    values = scores[anchors, labels]
    if most is not None and len(values) > most:
        values, best = values.topk(most)
        anchors, labels = anchors[best], labels[best]
    candidates = boxes[anchors]
    if iou is None:
        return Detections(candidates[:max_det], values[:max_det], labels[:max_det])
    # batched_nms sets classes apart by adding offsets to their boxes, which must not lie below 0 for that; in float32
    # they would move overlaps by 1e-4.
    corners = candidates.double()
    corners = corners - corners.min() if corners.numel() else corners
    kept = batched_nms(corners, values.double(), labels, iou)[:max_det]
    return Detections(candidates[kept], values[kept], labels[kept])
