"""AlignedOTA: which prior learns which ground-truth box (DAMO-YOLO, arXiv 2211.15444, section 2.3, as released).

A simplified optimal transport: every box takes the k priors of lowest cost, where k is about the number of predictions
that already overlap it, and a prior wanted by several boxes goes to the one it costs least.

Letters: B images, A priors, M boxes of an image (padded), C classes, K most priors of a box.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TOP_K = 10
CENTRE_RADIUS = 2.5  # in strides of the prior
IOU_WEIGHT = 3.0  # of the overlap's cost; that of the class cost is 1
IOU_EPS = 1e-7
UNION_FLOOR = 1e-6  # square pixels
AT_ONCE = 2**27  # pairs of a box and a prior: half a gigabyte a tensor; scenes of a thousand boxes need many
MIN_LOG = -100.0  # as in torch's binary cross-entropy, so that a probability of 0 or 1 has a finite cost


class Assignment(NamedTuple):
    """What every prior learns: `gt_index` is the row of its box, -1 (like its label) and overlap 0 for background."""

    gt_index: Tensor  # int64 [B, A]
    labels: Tensor  # int64 [B, A]
    overlaps: Tensor  # float32 [B, A], IoU of the predicted with the assigned box


@torch.no_grad()
def assign(
    scores: Tensor, boxes: Tensor, priors: Tensor, gt_boxes: Tensor, gt_labels: Tensor, *, least: int = 1
) -> Assignment:
    """Assign ground-truth boxes to priors, many images at once, without waiting for the device.

    `scores [B, A, C]` are probabilities, `boxes [B, A, 4]` predicted and `gt_boxes [B, M, 4]` true boxes (xyxy in
    pixels), `priors [A, 3]` x, y and stride, `gt_labels [B, M]` classes, -1 for padding. Computes in float32 whatever
    is given. A box wants at least `least` (up to 10) of the priors that lie inside it and near its centre, or all where
    there are fewer: predictions that hardly overlap it yet would teach it to one prior only. Published: 1.

    Takes at most the memory of 6 float32 tensors of `[N, M, A]` and 2 of `[N, A, C]`, for as many images N at once as
    make up to `AT_ONCE` pairs, and for one at least; none has boxes times classes.
    """
    images = max(1, AT_ONCE // max(1, gt_labels.shape[1] * len(priors)))
    parts = zip(*(tensor.split(images) for tensor in (scores, boxes, gt_boxes, gt_labels)), strict=True)
    return Assignment(*map(torch.cat, zip(*(_assign(priors, least, *part) for part in parts), strict=True)))


def _assign(
    priors: Tensor, least: int, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor
) -> Assignment:
    """`assign` for images that fit into the memory together."""
    if gt_labels.shape[1] == 0:
        background = gt_labels.new_full(boxes.shape[:2], -1)
        return Assignment(background, background, boxes.new_zeros(boxes.shape[:2], dtype=torch.float32))
    real = (gt_labels >= 0)[..., None]  # [B, M, 1]
    in_box, near_centre = locate(priors.float(), gt_boxes.float())
    candidates = ((in_box | near_centre) & real).any(dim=1, keepdim=True)  # [B, 1, A]
    iou = pairwise_iou(gt_boxes.float(), boxes.float()).mul_(candidates)  # [B, M, A]
    cost = matching_cost(scores.float(), gt_labels.clamp(min=0), iou)
    # Any constant above the largest cost ranks like the published 1e8, which in float32 would drown the cost itself.
    most = cost.amax(dim=-1, keepdim=True).where(real, 0).amax(dim=1, keepdim=True)  # [B, 1, 1]
    central = in_box.logical_and_(near_centre)
    cost += (most + 1) * ~central
    cost.masked_fill_(~(candidates & real), torch.inf)
    gt_index = match(cost, iou, central.sum(dim=-1).clamp_(1, least))
    found = gt_index >= 0
    row = gt_index.clamp(min=0)
    return Assignment(
        gt_index=gt_index,
        labels=gt_labels.gather(1, row).where(found, -1),
        overlaps=iou.gather(1, row[:, None]).squeeze(1) * found,
    )


# The tensors of all pairs are large and on a CPU a new one costs more than the arithmetic, hence the work in place.


def locate(priors: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Which priors lie inside a box, and which within 2.5 strides of its centre on both axes: two bool `[B, M, A]`."""
    x, y, stride = priors.unbind(-1)  # [A]
    left, top, right, bottom = gt_boxes[..., None].unbind(2)  # [B, M, 1]
    centre_x, centre_y, radius = (left + right) / 2, (top + bottom) / 2, CENTRE_RADIUS * stride
    in_box, near_centre = x > left, x + radius > centre_x
    for other in (x < right, y > top, y < bottom):
        in_box &= other
    for other in (x - radius < centre_x, y + radius > centre_y, y - radius < centre_y):
        near_centre &= other
    return in_box, near_centre


def pairwise_iou(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    """IoU `[B, M, A]` of boxes `[B, M, 4]` with boxes `[B, A, 4]`; 0, not NaN, for two boxes without area."""
    left, top, right, bottom = gt_boxes[..., None].unbind(2)  # [B, M, 1]
    x1, y1, x2, y2 = boxes.mT.contiguous()[:, None].unbind(2)  # [B, 1, A]
    overlap, other = torch.minimum(right, x2), torch.maximum(left, x1)
    overlap.sub_(other).clamp_(min=0)
    height = torch.minimum(bottom, y2).sub_(torch.maximum(top, y1, out=other)).clamp_(min=0)
    overlap.mul_(height)
    union = torch.add((right - left) * (bottom - top), (x2 - x1) * (y2 - y1), out=other).sub_(overlap)
    return overlap.div_(union.clamp_(min=UNION_FLOOR))


def matching_cost(scores: Tensor, gt_labels: Tensor, iou: Tensor) -> Tensor:
    """Cost `[B, M, A]` of giving a box to a prior: focal cost of its class scores, and -3 log IoU.

    The focal cost is the sum over classes of BCE(p, y) (y - p)^2, where y is the IoU at the label of the box and 0
    elsewhere. So it is the same sum with y = 0 everywhere, which no box enters, corrected in the class of the label.
    """
    background = scores.neg().log1p_().clamp_(min=MIN_LOG).mul_(scores).mul_(scores).sum(dim=-1).neg_()  # [B, A]
    p = scores.mT.gather(1, gt_labels[..., None].expand_as(iou))  # [B, M, A]
    log_not_p = p.neg().log1p_().clamp_(min=MIN_LOG)
    cost = p.log().clamp_(min=MIN_LOG).sub_(log_not_p).mul_(iou).add_(log_not_p)  # -BCE(p, iou)
    log_not_p.mul_(p).mul_(p)  # -BCE(p, 0) p^2
    p.sub_(iou).square_()
    cost.mul_(p).neg_().add_(log_not_p).add_(background[:, None])
    return cost.sub_(torch.add(iou, IOU_EPS, out=p).log_(), alpha=IOU_WEIGHT)


def match(cost: Tensor, iou: Tensor, least: Tensor) -> Tensor:
    """Row of the box that each prior gets, or -1: `[B, A]` from `[B, M, A]`; an infinite cost is never chosen.

    A box wants about as many priors as already overlap it, and at least `least` `[B, M]`.

    A prior that several boxes want goes to the box of lowest cost, even if that box does not want it, as released.
    """
    most = min(TOP_K, cost.shape[-1])
    count = iou.topk(most).values.sum(dim=-1).long().maximum(least)  # [B, M]
    lowest = cost.topk(most, largest=False)  # [B, M, K]
    chosen = (torch.arange(most, device=cost.device) < count[..., None]) & lowest.values.isfinite()
    wanted = torch.zeros_like(cost, dtype=torch.bool).scatter_(-1, lowest.indices, chosen)
    contested = wanted.sum(dim=1, keepdim=True) > 1
    best = cost.where(wanted | contested, torch.inf).min(dim=1)
    return best.indices.where(best.values.isfinite(), -1)
