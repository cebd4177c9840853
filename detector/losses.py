"""Losses of the detector: quality focal, GIoU and distribution focal (DAMO-YOLO, arXiv 2211.15444, as released).

Quality and distribution focal loss: Generalized Focal Loss (arXiv 2006.04388), equations 5 and 6.
Letters: B images, A priors, M boxes of an image (padded), C classes, P most positive priors of an image, R the last bin
(`reg_max`). Shapes follow from those of the inputs alone, and nothing waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from detector.assign import TOP_K, assign
from detector.boxes import decode_boxes
from detector.distributed import mean_over_processes, process_count
from detector.model.head import RawPredictions

GIOU_EPS = 1e-6  # square pixels
BIN_MARGIN = 0.1  # the farthest distance is this much below the last bin, which keeps a neighbour above it


class Losses(NamedTuple):
    """Scalars; `cls`, `box` and `dfl` include their weights, `total` is their sum."""

    total: Tensor
    cls: Tensor
    box: Tensor
    dfl: Tensor
    num_pos: Tensor  # float, positive priors of this process


def detection_losses(
    raw: RawPredictions,
    priors: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    *,
    reg_max: int,
    cls_weight: float = 1.0,
    box_weight: float = 2.0,
    dfl_weight: float = 0.25,
    least_matches: int = 1,
) -> Losses:
    """Assign the boxes and measure how far the predictions are from them, in float32 whatever is given.

    `priors [A, 3]` are x, y and stride; `gt_boxes [B, M, 4]` xyxy in pixels; `gt_labels [B, M]` classes, -1 for
    padding; `least_matches` is `least` of `assign`. Images without boxes are all background; without any positive, box
    and dfl are 0 and stay in the graph.

    With a process group every process has to call this: the normalisers are means over the processes (one
    `all_reduce`), so that averaged gradients are those of the whole batch.
    """
    logits, bins = raw.logits.float(), raw.bins.float()
    boxes = decode_boxes(bins, priors, reg_max)  # [B, A, 4]
    scores = logits.detach().sigmoid()
    assignment = assign(scores, boxes.detach(), priors, gt_boxes, gt_labels, least=least_matches)

    prior, positive = positive_priors(assignment.gt_index, gt_boxes.shape[1])  # [B, P] each
    target_boxes = _rows(gt_boxes.float(), assignment.gt_index.gather(1, prior).clamp(min=0))  # [B, P, 4]
    weights = _rows(scores, prior).amax(dim=-1).where(positive, 0)  # [B, P]; also where a score is not a number
    num_pos = positive.sum(dtype=torch.float32)
    sums = mean_over_processes(torch.stack((num_pos, weights.sum())))
    # At least 1 over the images of all processes: divided among them, several processes learn what one would.
    cls_norm, box_norm = sums.clamp(min=1 / process_count()).unbind()

    quality = quality_focal_loss(logits, assignment.labels, assignment.overlaps)
    giou = giou_loss(_rows(boxes, prior), target_boxes)  # [B, P]
    distances = side_distances(priors[prior], target_boxes, reg_max)  # [B, P, 4]
    dfl = distribution_focal_loss(_rows(bins, prior).unflatten(-1, (4, reg_max + 1)), distances)  # [B, P, 4]

    cls = cls_weight * quality.sum() / cls_norm
    box = box_weight * (weights * giou).sum() / box_norm
    side = dfl_weight * (weights * dfl.mean(dim=-1)).sum() / box_norm
    return Losses(cls + box + side, cls, box, side, num_pos)


def positive_priors(gt_index: Tensor, boxes: int) -> tuple[Tensor, Tensor]:
    """Priors `[B, P]` of each image, those that learn a box first and in order, and which of them do: bool `[B, P]`.

    P is as many as `boxes` boxes can get, so that shapes do not depend on what is assigned.
    """
    count = gt_index.shape[1]
    order = torch.arange(count, 0, -1, dtype=torch.float32, device=gt_index.device)
    ranks, prior = (order * (gt_index >= 0)).topk(min(TOP_K * boxes, count))
    return prior, ranks > 0


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows `[B, P, D]` of `[B, N, D]`, for each image its own `[B, P]`."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def quality_focal_loss(logits: Tensor, labels: Tensor, overlaps: Tensor) -> Tensor:
    """BCE(p, y) (y - p)^2 summed over classes, `[...]` from `[..., C]`; y is the overlap at the label and 0 elsewhere.

    `labels` of -1 are background, with an overlap of 0. Computed from logits it is exact where the published one, on
    probabilities, cuts logarithms of float32's rounded 0 and 1 off at -100 (logits beyond about +17 and -103).
    """
    target = torch.zeros_like(logits).scatter_(-1, labels.clamp(min=0)[..., None], overlaps[..., None])
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (cross_entropy * (target - logits.sigmoid()).square()).sum(dim=-1)


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - GIoU (arXiv 1902.09630) of boxes `[..., 4]` with as many others; that of torchvision waits for the device."""
    left, top, right, bottom = boxes.unbind(-1)
    left_, top_, right_, bottom_ = targets.unbind(-1)
    width = (torch.minimum(right, right_) - torch.maximum(left, left_)).clamp(min=0)
    height = (torch.minimum(bottom, bottom_) - torch.maximum(top, top_)).clamp(min=0)
    shared = width * height
    union = (right - left) * (bottom - top) + (right_ - left_) * (bottom_ - top_) - shared
    around = (torch.maximum(right, right_) - torch.minimum(left, left_)) * (
        torch.maximum(bottom, bottom_) - torch.minimum(top, top_)
    )
    return 1 - shared / (union + GIOU_EPS) + (around - union) / (around + GIOU_EPS)


def distribution_focal_loss(bins: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy with the two bins around a distance, each weighted by its nearness: `[...]` from `[..., R + 1]`.

    `bins` are logits; `distances` are in strides, at least 0 and below R.
    """
    log_p = bins.log_softmax(dim=-1)
    below = distances.long()
    near = log_p.gather(-1, torch.stack((below, below + 1), dim=-1))  # [..., 2]
    return -torch.lerp(near[..., 0], near[..., 1], (distances - below).to(near.dtype))


def side_distances(priors: Tensor, boxes: Tensor, reg_max: int) -> Tensor:
    """Distances `[..., 4]` in strides from priors `[..., 3]` to the left, top, right and bottom of boxes `[..., 4]`."""
    centre, stride = priors[..., :2], priors[..., 2:]
    distances = torch.cat((centre - boxes[..., :2], boxes[..., 2:] - centre), dim=-1) / stride
    return distances.clamp(min=0, max=reg_max - BIN_MARGIN)
