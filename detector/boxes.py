"""Priors of the three levels, and the boxes that distributions over distances describe.

Boxes are xyxy in pixels of the network's input, float32, not clipped to the image.
Legend: B batch, A priors of all levels (strides 8, 16, 32 in this order; row-major in a level), R `reg_max`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from maenas.spec import OUTPUT_STRIDES


def make_priors(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Priors of an input of `height` x `width` pixels (multiples of 32): float32 `[A, 3]` of x, y, stride in pixels.

    A prior is the top left corner of its cell, as in the released detectors, not the cell's centre.
    """
    levels = []
    for stride in OUTPUT_STRIDES:
        rows = torch.arange(0, height, stride, dtype=torch.float32, device=device)
        columns = torch.arange(0, width, stride, dtype=torch.float32, device=device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        levels.append(torch.stack([x, y, torch.full_like(x, stride)], dim=-1).flatten(0, 1))
    return torch.cat(levels)  # [A, 3]


def expected_bin(bins: Tensor) -> Tensor:
    """Mean of distributions over 0..R (Generalized Focal Loss, arXiv 2006.04388, eq. 5): `[..., R + 1]` to `[...]`.

    `bins` are logits. The result is float32 whatever their type: float16 would move a far side by pixels.
    """
    with _full_precision(bins.device.type):
        probabilities = bins.float().softmax(dim=-1)
        values = torch.arange(bins.shape[-1], dtype=torch.float32, device=bins.device)
        return (probabilities @ values[:, None]).squeeze(-1)


def _full_precision(device: str) -> AbstractContextManager[object]:
    """Turns mixed precision off, which would make a product one of halves; there is none on torch's device `meta`."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def box_frame(priors: Tensor) -> tuple[Tensor, Tensor]:
    """(origins, steps), each `[A, 4]`: a box is origin + step * distances (left, top, right, bottom) in strides."""
    origins = priors[:, :2].repeat(1, 2)
    stride = priors[:, 2:]
    return origins, torch.cat([-stride, -stride, stride, stride], dim=1)


def decode_boxes(bins: Tensor, priors: Tensor, reg_max: int) -> Tensor:
    """Boxes `[B, A, 4]` from `bins` `[B, A, 4 (R + 1)]`, the logits of the sides left, top, right, bottom in turn."""
    distances = expected_bin(bins.unflatten(-1, (4, reg_max + 1)))  # [B, A, 4]
    origins, steps = box_frame(priors)
    return origins + steps * distances
