"""RepGFPN: five merges of features of neighbouring strides ("queen fusion", DAMO-YOLO report, section 2.2, figure 3).

Legend: c3, c4, c5 the backbone's features at strides 8, 16, 32; p4, p5 on the way up; n3, n4, n5 the outputs.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from detector.model.layers import ConvBNAct, MobileUnit, RepConv
from maenas.lowering import MOBILE_NECK_KERNEL, fusion_width
from maenas.spec import NeckSpec


class Neck(nn.Module):
    """Features of widths `taps` at strides 8, 16 and 32 to features of widths `spec.out_channels` at these strides."""

    def __init__(self, spec: NeckSpec, taps: tuple[int, int, int]) -> None:
        super().__init__()
        c3, c4, c5 = taps
        n3, n4, n5 = spec.out_channels
        self.down13 = make_down(c4, spec)
        self.merge3 = Merge(c5 + c4, c5, spec)
        self.down24 = make_down(c3, spec)
        self.up3 = nn.Upsample(scale_factor=2)
        self.merge4 = Merge(c4 + c3 + c5, c4, spec)
        self.up4 = nn.Upsample(scale_factor=2)
        self.merge5 = Merge(c3 + c4, n3, spec)
        self.down57 = make_down(n3, spec)
        self.merge7 = Merge(c4 + n3, n4, spec)
        self.down46 = make_down(c4, spec)
        self.down76 = make_down(n4, spec)
        self.merge6 = Merge(c5 + c4 + n4, n5, spec)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p5 = self.merge3(c5, self.down13(c4))
        p4 = self.merge4(c4, self.down24(c3), self.up3(p5))
        n3 = self.merge5(c3, self.up4(p4))
        n4 = self.merge7(p4, self.down57(n3))
        n5 = self.merge6(p5, self.down46(p4), self.down76(n4))
        return n3, n4, n5


class Merge(nn.Module):
    """Concatenation, then a 1 x 1 branch beside a chain of blocks, and a 1 x 1 over the branch and every block."""

    def __init__(self, in_channels: int, out_channels: int, spec: NeckSpec) -> None:
        super().__init__()
        side = out_channels // 2
        width = out_channels - side
        self.depth = spec.depth
        self.conv1 = ConvBNAct(in_channels, side, act=spec.act)
        self.conv2 = ConvBNAct(in_channels, width, act=spec.act)
        for number in range(spec.depth):
            self.add_module(f"block{number}", make_block(width, spec))
        self.conv3 = ConvBNAct(side + spec.depth * width, out_channels, act=spec.act)

    def forward(self, *features: Tensor) -> Tensor:
        x = torch.cat(features, dim=1)
        joined, y = [self.conv1(x)], self.conv2(x)
        for number in range(self.depth):
            y = getattr(self, f"block{number}")(y)
            joined.append(y)
        return self.conv3(torch.cat(joined, dim=1))


class FusionBlock(nn.Module):
    """RepConv 3 x 3, then 3 x 3, and a link around both; nothing after the sum."""

    def __init__(self, channels: int, hidden: int, spec: NeckSpec) -> None:
        super().__init__()
        self.conv1 = RepConv(channels, hidden, 3, act=spec.act)
        self.conv2 = ConvBNAct(hidden, channels, 3, act=spec.act)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + x


def make_block(channels: int, spec: NeckSpec) -> nn.Module:
    """A fusion block at `channels`."""
    hidden = fusion_width(channels, spec.hidden_ratio, spec.block)
    if spec.block == "basic":
        return FusionBlock(channels, hidden, spec)
    return MobileUnit(channels, channels, hidden, kernel=MOBILE_NECK_KERNEL, stride=1, act=spec.act)


def make_down(channels: int, spec: NeckSpec) -> nn.Module:
    """Half the size at the same width: a 3 x 3 convolution, or a depthwise one and a 1 x 1."""
    if spec.block == "basic":
        return ConvBNAct(channels, channels, 3, stride=2, act=spec.act)
    depthwise = ConvBNAct(channels, channels, 3, stride=2, groups=channels, act=spec.act)
    pointwise = ConvBNAct(channels, channels, act=spec.act)
    for layer in (depthwise, pointwise):
        nn.init.kaiming_normal_(layer.conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))
