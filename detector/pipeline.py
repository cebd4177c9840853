"""Images -> tensor -> network -> detections: the steps around a network, each in one place.

Legend: B batch, A anchors, C classes, H/W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from detector.images import Placement, normalise, prepare, stack
from detector.postprocess import Detections, postprocess
from maenas.spec import InputSpec


def preprocess(
    images: Sequence[np.ndarray], size: InputSpec, device: torch.device | None = None
) -> tuple[Tensor, tuple[Placement, ...]]:
    """Images, uint8 RGB `[H, W, 3]`, as the network takes them, float32 `[B, 3, H, W]` on `device` (None: the CPU)."""
    prepared, placements = zip(*(prepare(image, size) for image in images), strict=True)
    return normalise(stack(prepared).to(device), size), placements


def detections_in_images(
    scores: Tensor,
    boxes: Tensor,
    placements: Sequence[Placement],
    *,
    conf: float,
    iou: float | None,
    max_det: int,
    most: int | None = None,
) -> list[Detections]:
    """Detections in each image, on the CPU, in its pixels and within it; the rest as for `postprocess`.

    `scores` `[B, A, C]` and `boxes` `[B, A, 4]` are those of the network.
    """
    found = postprocess(scores, boxes, conf=conf, iou=iou, max_det=max_det, most=most)
    return [_in_image(row, place) for row, place in zip(found, placements, strict=True)]


def _in_image(found: Detections, placement: Placement) -> Detections:
    boxes = clip_boxes_to_image(placement.to_image(found.boxes.cpu()), (placement.height, placement.width))
    return Detections(boxes, found.scores.cpu(), found.labels.cpu())
