"""ZeroHead: one class and one box convolution on each level of the neck (DAMO-YOLO report, section 2.3).

Legend: B batch, A positions of all levels (strides 8, 16, 32 in this order; row-major in a level), R `reg_max`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maenas.spec import HeadSpec

PRIOR_PROBABILITY = 0.01  # of every class before training (focal loss, arXiv 1708.02002, section 4.1)
INIT_STD = 0.01

Features = tuple[Tensor, Tensor, Tensor]


class RawPredictions(NamedTuple):
    """What the losses take.

    `logits` `[B, A, num_classes]` are class scores before the sigmoid. `bins` `[B, A, 4 (R + 1)]` are the box
    distributions before the softmax, after the level's scale, side-major (left, top, right, bottom).
    """

    logits: Tensor
    bins: Tensor


class Head(nn.Module):
    """Neck outputs `[B, C, H / stride, W / stride]` at strides 8, 16, 32 to `RawPredictions`."""

    def __init__(self, spec: HeadSpec, channels: tuple[int, int, int]) -> None:
        super().__init__()
        for level, width in enumerate(channels):
            cls = nn.Conv2d(width, spec.num_classes, spec.kernel, padding=spec.kernel // 2)
            reg = nn.Conv2d(width, 4 * (spec.reg_max + 1), spec.kernel, padding=spec.kernel // 2)
            for conv, bias in ((cls, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)), (reg, 0.0)):
                assert conv.bias is not None
                nn.init.normal_(conv.weight, std=INIT_STD)
                nn.init.constant_(conv.bias, bias)
            self.add_module(f"cls{level}", cls)
            self.add_module(f"reg{level}", reg)
            self.register_parameter(f"scale{level}", nn.Parameter(torch.tensor(1.0)))

    def forward(self, features: Features) -> RawPredictions:
        logits, bins = [], []
        for level, x in enumerate(features):
            logits.append(flatten_map(getattr(self, f"cls{level}")(x)))
            bins.append(flatten_map(getattr(self, f"reg{level}")(x) * getattr(self, f"scale{level}")))
        return RawPredictions(torch.cat(logits, dim=1), torch.cat(bins, dim=1))


def flatten_map(x: Tensor) -> Tensor:
    """`[B, C, H, W]` as `[B, H W, C]`."""
    return x.flatten(2).transpose(1, 2)
