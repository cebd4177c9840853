"""Optimizers, and the learning rate of a step as released with DAMO-YOLO (arXiv 2211.15444)."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from detector.muon import Muon


def parameter_groups(*modules: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer: the trainable parameters that decay, and those that do not.

    Biases and everything of a normalisation layer, that is every parameter of one dimension, do not decay. As released,
    the head's three scalar scales do, like the weights of convolutions.
    """
    trainable = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim != 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim == 1], "weight_decay": 0.0},
    ]


def make_optimizer(
    kind: Literal["sgd", "adamw", "muon"], *modules: nn.Module, lr: float, weight_decay: float, momentum: float = 0.9
) -> Optimizer:
    """SGD with Nesterov `momentum`, AdamW with torch's betas, both in fused kernels, or Muon (`detector.muon`).

    `momentum` is for SGD only.
    """
    groups = parameter_groups(*modules, weight_decay=weight_decay)
    match kind:
        case "sgd":
            return SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)
        case "adamw":
            return AdamW(groups, lr=lr, fused=True)
        case "muon":
            return Muon(groups, lr=lr)


def lr_at(
    step: int, *, base_lr: float, total_steps: int, warmup_steps: int, flat_steps: int, final_ratio: float = 0.05
) -> float:
    """Learning rate of step 0..total_steps.

    Quadratic warm-up from 0 over `warmup_steps`; half a cosine from `base_lr` to `final_ratio * base_lr`, which is
    reached `flat_steps` before the end and kept from there (the epochs without strong augmentation).
    """
    if step < warmup_steps:
        return base_lr * (step / warmup_steps) ** 2
    final_lr = final_ratio * base_lr
    flat_from = total_steps - flat_steps
    if step >= flat_from:
        return final_lr
    progress = (step - warmup_steps) / (flat_from - warmup_steps)
    return final_lr + (base_lr - final_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
