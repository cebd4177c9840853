"""TinyNAS backbones: stem and stages of any block (DAMO-YOLO report, arXiv 2211.15444, section 2.1)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from detector.model.layers import SPP, ConvBNAct, CspStage, Focus, MobileUnit, ResidualUnit
from maenas.spec import Activation, BackboneSpec, StageSpec, StemSpec

MOBILE_BN_BIAS = 1e-4


class Backbone(nn.Module):
    """Images `[B, 3, H, W]` to the tapped features at strides 8, 16 and 32, `[B, C, H / stride, W / stride]` each."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.taps = spec.taps
        self.stem = make_stem(spec.stem, act=spec.act)
        for number, stage in enumerate(spec.stages, start=1):
            spp = spec.spp and number == len(spec.stages)
            self.add_module(f"stage{number}", make_stage(stage, act=spec.act, spp=spp))
        if all(stage.block == "k1dwk1" for stage in spec.stages):
            self.apply(init_mobile)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, taps = self.stem(images), []
        for number in range(1, self.taps[-1] + 1):
            x = getattr(self, f"stage{number}")(x)
            if number in self.taps:
                taps.append(x)
        c3, c4, c5 = taps
        return c3, c4, c5


def make_stem(stem: StemSpec, *, act: Activation) -> nn.Sequential:
    """Focus and convolution, or a convolution that strides: `[B, 3, H, W]` to `[B, C, H / 2, W / 2]`."""
    if stem.kind == "focus":
        conv = ConvBNAct(12, stem.out_channels, stem.kernel, act=act)
        return nn.Sequential(OrderedDict(focus=Focus(), conv=conv))
    return nn.Sequential(OrderedDict(conv=ConvBNAct(3, stem.out_channels, stem.kernel, stride=2, act=act)))


def make_stage(stage: StageSpec, *, act: Activation, spp: bool) -> nn.Module:
    """The units of a stage; with `spp`, SPP stands after the first (csp: after the downsampler)."""
    if stage.block == "csp":
        return CspStage(stage, act=act, spp=spp)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(stage.depth):
        layers[f"unit{number}"] = make_unit(stage, number, act=act)
        if spp and number == 0:
            layers["spp"] = SPP(stage.out_channels)
    return nn.Sequential(layers)


def make_unit(stage: StageSpec, number: int, *, act: Activation) -> nn.Module:
    """Unit `number` (from 0) of a stage: the first takes the stage's input width and stride."""
    width, stride = (stage.in_channels, stage.stride) if number == 0 else (stage.out_channels, 1)
    out, inner, kernel = stage.out_channels, stage.bottleneck, stage.kernel
    if stage.block == "k1dwk1":
        return MobileUnit(width, out, inner, kernel=kernel, stride=stride, act=act)
    return ResidualUnit(width, out, inner, block=stage.block, kernel=kernel, stride=stride, act=act)


def init_mobile(module: nn.Module) -> None:
    """Initial values of the released nano backbones; other backbones keep PyTorch's."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=1 / module.weight.shape[1])
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.constant_(module.bias, MOBILE_BN_BIAS)
