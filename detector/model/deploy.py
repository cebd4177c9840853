"""The deployed form of a detector: exactly the kernels of `maenas.lowering.lower(spec)`.

Batch norm and RepConv are folded into single convolutions, the head's scales into its box convolutions, and the boxes
are decoded. Legend: B batch, A positions of all levels (strides 8, 16, 32), C classes, R `reg_max`.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from detector.boxes import box_frame, expected_bin, make_priors
from detector.model.head import Features, Head
from detector.model.layers import ConvBNAct, RepConv, conv_act
from detector.model.net import DetectorNet, check_images


class DeployedNet(nn.Module):
    """A trained detector to run or to export; `deploy` makes it.

    Boxes are float32 whatever the type of the weights; scores have the type of the weights.
    """

    def __init__(self, net: DetectorNet) -> None:
        super().__init__()
        self.spec = net.spec
        self.backbone = fuse_layers(copy.deepcopy(net.backbone).eval())
        self.neck = fuse_layers(copy.deepcopy(net.neck).eval())
        self.head = DeployedHead(net.head)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`images` as for `DetectorNet` -> scores `[B, A, C]` in 0..1 and boxes `[B, A, 4]`, xyxy in their pixels.

        Raises `MaenasError` for images that are not float `[B, 3, H, W]` with sides that are multiples of 32.
        """
        check_images(images)
        scores, distances = self.head(self.neck(*self.backbone(images)))
        origins, steps = box_frame(make_priors(images.shape[2], images.shape[3], images.device))
        boxes = origins.T + steps.T * distances  # [B, 4, A]
        return scores.transpose(1, 2), boxes.transpose(1, 2)


class DeployedHead(nn.Module):
    """Neck outputs to scores `[B, C, A]` and distances to the four sides `[B, 4, A]`, in units of the stride."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        for level in range(3):
            cls, reg = (copy.deepcopy(getattr(head, f"{kind}{level}")) for kind in ("cls", "reg"))
            scale = getattr(head, f"scale{level}")
            reg.weight *= scale
            reg.bias *= scale
            self.add_module(f"cls{level}", conv_act(cls, nn.Sigmoid()))
            self.add_module(f"reg{level}", conv_act(reg, nn.Identity()))

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        scores, distances = [], []
        for level, x in enumerate(features):
            scores.append(getattr(self, f"cls{level}")(x).flatten(2))
            bins = getattr(self, f"reg{level}")(x).unflatten(1, (4, -1)).flatten(3)  # [B, 4, R + 1, H W]
            distances.append(expected_bin(bins.transpose(2, 3)))
        return torch.cat(scores, dim=2), torch.cat(distances, dim=2)


@torch.no_grad()
def deploy(net: DetectorNet) -> DeployedNet:
    """The deployed form of `net`, in eval mode and without gradients; `net` itself stays as it is."""
    return DeployedNet(net).eval().requires_grad_(False)


def fuse_layers(module: nn.Module) -> nn.Module:
    """Replace every `ConvBNAct` and `RepConv` inside `module`, in place, by its single convolution."""
    for name, child in module.named_children():
        setattr(module, name, child.fused() if isinstance(child, ConvBNAct | RepConv) else fuse_layers(child))
    return module
