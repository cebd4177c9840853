"""Blocks of every backbone and neck; each stands once, whatever the style that uses it.

The names of the modules are those of the kernels in `maenas.lowering`, which has the same wiring.
A block that deployment turns into a single convolution has `fused()`, which returns that convolution.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from maenas.lowering import CSP_ACT, SPP_ACT, SPP_KERNELS
from maenas.spec import Activation, Block, StageSpec

BN_EPS = 1e-3
BN_MOMENTUM = 0.03


def make_activation(name: Activation | None) -> nn.Module:
    """The activation called `name`; None is the identity."""
    if name is None:
        return nn.Identity()
    return nn.ReLU(inplace=True) if name == "relu" else nn.SiLU(inplace=True)


class ConvBNAct(nn.Module):
    """Convolution, batch norm, activation (none by default); padding keeps the size but for the stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        act: Activation | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act = make_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def fused(self) -> nn.Sequential:
        """Convolution with bias, and activation; only of a module in eval mode."""
        return conv_act(fuse_conv_bn_eval(self.conv, self.bn), self.act)


class RepConv(nn.Module):
    """k x k and 1 x 1 convolution in parallel, one k x k convolution once deployed (RepVGG, arXiv 2101.03697)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, act: Activation | None = None
    ) -> None:
        super().__init__()
        self.dense = ConvBNAct(in_channels, out_channels, kernel, stride=stride)
        self.point = ConvBNAct(in_channels, out_channels, stride=stride)
        self.act = make_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.dense(x) + self.point(x))

    @torch.no_grad()
    def fused(self) -> nn.Sequential:
        """Convolution with bias, and activation; only of a module in eval mode."""
        conv = fuse_conv_bn_eval(self.dense.conv, self.dense.bn)
        point = fuse_conv_bn_eval(self.point.conv, self.point.bn)
        assert conv.bias is not None
        assert point.bias is not None
        conv.weight += F.pad(point.weight, [conv.kernel_size[0] // 2] * 4)
        conv.bias += point.bias
        return conv_act(conv, self.act)


def conv_act(conv: nn.Conv2d, act: nn.Module) -> nn.Sequential:
    """A deployed kernel: convolution with bias, and its activation."""
    return nn.Sequential(OrderedDict(conv=conv, act=act))


class Focus(nn.Module):
    """Every second pixel of every second row as channels: `[B, C, H, W]` to `[B, 4 C, H / 2, W / 2]`.

    The patches come in the order top left, bottom left, top right, bottom right.
    """

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = x[..., ::2, :], x[..., 1::2, :]
        return torch.cat([top[..., ::2], bottom[..., ::2], top[..., 1::2], bottom[..., 1::2]], dim=1)


class SPP(nn.Module):
    """Spatial pyramid pooling between two 1 x 1 convolutions; the width stays."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(channels, channels // 2, act=SPP_ACT)
        for kernel in SPP_KERNELS:
            self.add_module(f"pool{kernel}", nn.MaxPool2d(kernel, stride=1, padding=kernel // 2))
        self.conv2 = ConvBNAct(channels // 2 * (1 + len(SPP_KERNELS)), channels, act=SPP_ACT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pooled = [getattr(self, f"pool{kernel}")(x) for kernel in SPP_KERNELS]
        return self.conv2(torch.cat([x, *pooled], dim=1))


class ResidualUnit(nn.Module):
    """Unit of the blocks `k1kx` and `kxkx` (RepConv last; report, section 2.1) and `k1kxk1` (ResNet-50's).

    No link where the unit strides; a projection on it where the width changes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bottleneck: int,
        *,
        block: Block,
        kernel: int,
        stride: int,
        act: Activation,
    ) -> None:
        super().__init__()
        self.linked = stride == 1
        self.project = (
            ConvBNAct(in_channels, out_channels) if self.linked and in_channels != out_channels else nn.Identity()
        )
        self.conv1 = ConvBNAct(in_channels, bottleneck, kernel if block == "kxkx" else 1, act=act)
        if block == "k1kxk1":
            self.conv2 = ConvBNAct(bottleneck, bottleneck, kernel, stride=stride, act=act)
            self.conv3 = ConvBNAct(bottleneck, out_channels)
        else:
            self.conv2 = RepConv(bottleneck, out_channels, kernel, stride=stride)
            self.conv3 = nn.Identity()
        self.act = make_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        link = self.project(x)
        y = self.conv3(self.conv2(self.conv1(x)))
        return self.act(y + link if self.linked else y)


class MobileUnit(nn.Module):
    """Inverted residual: 1 x 1, depthwise k x k, 1 x 1 without activation (MobileNetV2, arXiv 1801.04381).

    Linked where neither the size nor the width changes.
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, *, kernel: int, stride: int, act: Activation
    ) -> None:
        super().__init__()
        self.linked = stride == 1 and in_channels == out_channels
        self.conv1 = ConvBNAct(in_channels, hidden, act=act)
        self.conv2 = ConvBNAct(hidden, hidden, kernel, stride=stride, groups=hidden, act=act)
        self.conv3 = ConvBNAct(hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        return y + x if self.linked else y


class CspStage(nn.Module):
    """Downsampling, then residual units on one half of the width beside a plain other half (CSPNet, 1911.11929)."""

    def __init__(self, stage: StageSpec, *, act: Activation, spp: bool) -> None:
        super().__init__()
        out, half = stage.out_channels, stage.out_channels // 2
        self.depth = stage.depth
        self.downsample = ConvBNAct(stage.in_channels, out, stage.kernel, stride=2, act=CSP_ACT)
        self.spp = SPP(out) if spp else nn.Identity()
        self.start = ConvBNAct(out, half, act=CSP_ACT)
        for number in range(stage.depth):
            unit = ResidualUnit(half, half, stage.bottleneck, block="kxkx", kernel=stage.kernel, stride=1, act=act)
            self.add_module(f"unit{number}", unit)
        self.shortcut = ConvBNAct(out, half, act=CSP_ACT)
        self.fuse = ConvBNAct(out, out, act=CSP_ACT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spp(self.downsample(x))
        y = self.start(x)
        for number in range(self.depth):
            y = getattr(self, f"unit{number}")(y)
        return self.fuse(torch.cat([y, self.shortcut(x)], dim=1))
