"""Feature distillation from a larger detector: the student's neck outputs learn to look like the teacher's.

Kinds: channel-wise knowledge distillation (`cwd`, arXiv 2011.13256, the recipe's), masked generative distillation
(`mgd`, arXiv 2205.01529), and plain imitation (`mimic`). Recipe: DAMO-YOLO, arXiv 2211.15444, section 2.4, as released.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Kind = Literal["cwd", "mgd", "mimic"]

FIRST_WEIGHT, LAST_WEIGHT = 1.0, 0.1
MGD_KEPT = 0.35  # probability that a position of the student's map is kept
MGD_WEIGHT = 2e-5


def distill_weight(step: int, total_steps: int, *, off_steps: int = 0) -> float:
    """Weight of the distillation loss in step 0..total_steps: a half cosine from 1 to 0.1 over the whole training.

    It is 0 in the last `off_steps` steps: the report stops distilling when strong augmentation stops, the released
    code does not (`off_steps=0`). The cosine is the same in both.
    """
    if step >= total_steps - off_steps and off_steps > 0:
        return 0.0
    return LAST_WEIGHT + (FIRST_WEIGHT - LAST_WEIGHT) * (1 + math.cos(math.pi * step / total_steps)) / 2


class Distiller(nn.Module):
    """Loss between two tuples of feature maps, with what has to be learned for it.

    A 1x1 convolution brings each map of the student to the teacher's width; both are normalised over the batch. Every
    map `[N, C, H, W]` of the student has the height and width of its counterpart. The loss is a float32 scalar.
    """

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int], kind: Kind = "cwd") -> None:
        super().__init__()
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.kind: Kind = kind
        self.align = nn.ModuleList(nn.Conv2d(student, teacher, kernel_size=1) for student, teacher in pairs)
        self.generators = nn.ModuleList(make_generator(width) for width in teacher_channels if kind == "mgd")

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], *, random: torch.Generator | None = None
    ) -> Tensor:
        """The sum of the levels' losses; `random` draws the masks of `mgd`."""
        mine = [normalize(align(x)) for align, x in zip(self.align, student, strict=True)]
        theirs = [normalize(x.detach()) for x in teacher]
        levels = list(zip(mine, theirs, strict=True))
        match self.kind:
            case "cwd":
                losses = [cwd_loss(x, y) for x, y in levels]
            case "mimic":
                losses = [F.mse_loss(x, y) for x, y in levels]
            case "mgd":
                losses = [
                    mgd_loss(generate, x, y, draw_mask(x, random))
                    for generate, (x, y) in zip(self.generators, levels, strict=True)
                ]
        return torch.stack(losses).sum()


def make_generator(width: int) -> nn.Sequential:
    """What completes a masked map in `mgd`."""
    return nn.Sequential(
        nn.Conv2d(width, width, kernel_size=3, padding=1), nn.ReLU(), nn.Conv2d(width, width, kernel_size=3, padding=1)
    )


def normalize(x: Tensor) -> Tensor:
    """Zero mean and unit variance per channel over this batch, in float32."""
    return F.batch_norm(x.float(), None, None, training=True)


def cwd_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of each channel's distribution over positions, mean over images and channels of `[N, C, H, W]`."""
    log_p = (student.flatten(2) / temperature).log_softmax(dim=-1)
    log_q = (teacher.flatten(2) / temperature).log_softmax(dim=-1)
    divergence = F.kl_div(log_p, log_q, reduction="sum", log_target=True)
    return divergence * temperature**2 / math.prod(student.shape[:2])


def mgd_loss(generator: nn.Module, student: Tensor, teacher: Tensor, kept: Tensor) -> Tensor:
    """Squared error, summed and per image, of the teacher's map generated from the `kept [N, 1, H, W]` positions."""
    return MGD_WEIGHT * F.mse_loss(generator(student * kept).float(), teacher, reduction="sum") / len(student)


def draw_mask(x: Tensor, random: torch.Generator | None) -> Tensor:
    """Positions `[N, 1, H, W]` of `x` to keep."""
    return torch.rand((len(x), 1, *x.shape[2:]), generator=random, device=x.device) <= MGD_KEPT
