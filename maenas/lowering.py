"""Spec -> deployed kernels: the only place that knows which kernels exist.

Widths may be NumPy integer arrays that broadcast against each other: one call then lowers a whole table of stages,
which is how `stage_tables` is built from the same function as every single network.

Wiring: DAMO-YOLO report (arXiv 2211.15444), sections 2.1 to 2.3, as released.
Legend: C channels, H/W height and width, A anchors (positions of all levels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from maenas.kernels import IMAGE, Graph, Kernel, Tensor, Width
from maenas.spec import Activation, BackboneSpec, Block, DetectorSpec, InputSpec

Shortcut = Literal["none", "identity", "project"]

SPP_KERNELS = (5, 9, 13)
MOBILE_NECK_KERNEL = 5
SPP_ACT: Activation = "silu"  # also in ReLU networks, as released
CSP_ACT: Activation = "relu"  # of the csp wrapper's own convolutions, also in SiLU networks, as released


def lower_stem(
    g: Graph, image: Tensor, out: Width, *, kind: Literal["focus", "conv"], kernel: int, act: Activation
) -> Tensor:
    """Focus (patch order top-left, bottom-left, top-right, bottom-right) or stride-2 convolution."""
    g.stage = 0
    if kind == "focus":
        x = g.space_to_depth("backbone.stem.focus", image)
        return g.main_conv("backbone.stem.conv", x, out, kernel=kernel, epilogue=(act,))
    return g.main_conv("backbone.stem.conv", image, out, kernel=kernel, stride=2, epilogue=(act,))


def lower_stage(
    g: Graph,
    x: Tensor,
    out: Width,
    bottleneck: Width,
    *,
    number: int,
    block: Block,
    kernel: int,
    stride: int,
    depth: int,
    act: Activation,
    spp: bool,
) -> Tensor:
    """Backbone stage `number` (1-based); with `spp`, SPP stands after the first unit (csp: after the downsampler).

    A unit has no residual link where it strides, and a projection on it where it changes the width (but for k1dwk1,
    which then has none). With arrays, `x.channels` and `out` must be equal everywhere or are taken to differ.
    """
    g.stage = number
    name = f"backbone.stage{number}"
    if block == "csp":
        return _lower_csp(g, x, out, bottleneck, name=name, kernel=kernel, depth=depth, act=act, spp=spp)
    for unit in range(depth):
        unit_stride = stride if unit == 0 else 1
        shortcut = "none" if unit_stride == 2 else "identity" if np.all(x.channels == out) else "project"
        place = f"{name}.unit{unit}"
        if block == "k1dwk1":
            x = _lower_mobile_unit(g, x, out, bottleneck, place, kernel, unit_stride, act, shortcut == "identity")
        else:
            x = _lower_residual_unit(g, x, out, bottleneck, place, block, kernel, unit_stride, act, shortcut)
        if spp and unit == 0:
            x = _lower_spp(g, x, f"{name}.spp")
    return x


def _lower_residual_unit(
    g: Graph,
    x: Tensor,
    out: Width,
    btn: Width,
    name: str,
    block: Block,
    kernel: int,
    stride: int,
    act: Activation,
    shortcut: Shortcut,
) -> Tensor:
    link = g.conv(f"{name}.project", x, out) if shortcut == "project" else x
    last: dict[str, Any] = {"epilogue": (act,)} if shortcut == "none" else {"epilogue": ("add", act), "residual": link}
    y = g.main_conv(f"{name}.conv1", x, btn, kernel=kernel if block == "kxkx" else 1, epilogue=(act,))
    if block == "k1kxk1":
        y = g.main_conv(f"{name}.conv2", y, btn, kernel=kernel, stride=stride, epilogue=(act,))
        return g.main_conv(f"{name}.conv3", y, out, **last)
    return g.main_conv(f"{name}.conv2", y, out, kernel=kernel, stride=stride, **last)


def _lower_mobile_unit(
    g: Graph, x: Tensor, out: Width, hidden: Width, name: str, kernel: int, stride: int, act: Activation, linked: bool
) -> Tensor:
    y = g.main_conv(f"{name}.conv1", x, hidden, epilogue=(act,))
    y = g.main_conv(f"{name}.conv2", y, hidden, kernel=kernel, stride=stride, groups=hidden, epilogue=(act,))
    return g.main_conv(f"{name}.conv3", y, out, epilogue=("add",) if linked else (), residual=x if linked else None)


def _lower_csp(
    g: Graph, x: Tensor, out: Width, btn: Width, *, name: str, kernel: int, depth: int, act: Activation, spp: bool
) -> Tensor:
    half = out // 2
    x = g.main_conv(f"{name}.downsample", x, out, kernel=kernel, stride=2, epilogue=(CSP_ACT,))
    if spp:
        x = _lower_spp(g, x, f"{name}.spp")
    y = g.main_conv(f"{name}.start", x, half, epilogue=(CSP_ACT,))
    for unit in range(depth):
        inner = g.main_conv(f"{name}.unit{unit}.conv1", y, btn, kernel=kernel, epilogue=(act,))
        y = g.main_conv(f"{name}.unit{unit}.conv2", inner, half, kernel=kernel, epilogue=("add", act), residual=y)
    side = g.conv(f"{name}.shortcut", x, half, epilogue=(CSP_ACT,))
    joined = g.concat(f"{name}.concat", (y, side))
    return g.conv(f"{name}.fuse", joined, out, epilogue=(CSP_ACT,), signal_fan_in=half)


def _lower_spp(g: Graph, x: Tensor, name: str) -> Tensor:
    y = g.conv(f"{name}.conv1", x, x.channels // 2, epilogue=(SPP_ACT,))
    pools = tuple(g.maxpool(f"{name}.pool{k}", y, k) for k in SPP_KERNELS)
    return g.conv(f"{name}.conv2", g.concat(f"{name}.concat", (y, *pools)), x.channels, epilogue=(SPP_ACT,))


def lower_backbone(g: Graph, backbone: BackboneSpec, size: InputSpec) -> tuple[Tensor, Tensor, Tensor]:
    """The three tapped outputs, at strides 8, 16 and 32."""
    stem, act = backbone.stem, backbone.act
    image = Tensor(IMAGE, 3, size.height, size.width)
    x = lower_stem(g, image, stem.out_channels, kind=stem.kind, kernel=stem.kernel, act=act)
    outputs = []
    for number, stage in enumerate(backbone.stages, start=1):
        x = lower_stage(
            g,
            x,
            stage.out_channels,
            stage.bottleneck,
            number=number,
            block=stage.block,
            kernel=stage.kernel,
            stride=stage.stride,
            depth=stage.depth,
            act=act,
            spp=backbone.spp and number == len(backbone.stages),
        )
        outputs.append(x)
    c3, c4, c5 = (outputs[tap - 1] for tap in backbone.taps)
    return c3, c4, c5


@dataclass(frozen=True)
class _Fusion:
    """What the five merges of a neck have in common."""

    depth: int
    hidden_ratio: float
    block: Literal["basic", "mobile"]
    act: Activation


def lower_neck(
    g: Graph,
    taps: tuple[Tensor, Tensor, Tensor],
    out: tuple[Width, Width, Width],
    *,
    depth: int,
    hidden_ratio: float,
    block: Literal["basic", "mobile"],
    act: Activation,
) -> tuple[Tensor, Tensor, Tensor]:
    """RepGFPN ("queen fusion", report figure 3): five merges; returns the outputs at strides 8, 16 and 32."""
    g.stage = -1
    c3, c4, c5 = taps
    o3, o4, o5 = out
    fusion = _Fusion(depth, hidden_ratio, block, act)

    def down(name: str, x: Tensor) -> Tensor:
        if block == "basic":
            return g.conv(name, x, x.channels, kernel=3, stride=2, epilogue=(act,))
        x = g.conv(f"{name}.depthwise", x, x.channels, kernel=3, stride=2, groups=x.channels, epilogue=(act,))
        return g.conv(f"{name}.pointwise", x, x.channels, epilogue=(act,))

    def merge(name: str, xs: tuple[Tensor, ...], width: Width) -> Tensor:
        return _lower_merge(g, g.concat(f"neck.{name}.concat", xs), width, f"neck.{name}", fusion)

    p5 = merge("merge3", (c5, down("neck.down13", c4)), c5.channels)
    p4 = merge("merge4", (c4, down("neck.down24", c3), g.upsample("neck.up3", p5)), c4.channels)
    n3 = merge("merge5", (c3, g.upsample("neck.up4", p4)), o3)
    n4 = merge("merge7", (p4, down("neck.down57", n3)), o4)
    n5 = merge("merge6", (p5, down("neck.down46", p4), down("neck.down76", n4)), o5)
    return n3, n4, n5


def _lower_merge(g: Graph, x: Tensor, out: Width, name: str, fusion: _Fusion) -> Tensor:
    """CSP fusion: a 1x1 branch, a chain of blocks after another 1x1, and a 1x1 over the branch and every block."""
    first = g.conv(f"{name}.conv1", x, out // 2, epilogue=(fusion.act,))
    y = g.conv(f"{name}.conv2", x, out - out // 2, epilogue=(fusion.act,))
    joined = [first]
    for number in range(fusion.depth):
        y = _lower_fusion_block(g, y, f"{name}.block{number}", fusion)
        joined.append(y)
    return g.conv(f"{name}.conv3", g.concat(f"{name}.join", tuple(joined)), out, epilogue=(fusion.act,))


def _lower_fusion_block(g: Graph, x: Tensor, name: str, fusion: _Fusion) -> Tensor:
    act = fusion.act
    hidden = fusion_width(x.channels, fusion.hidden_ratio, fusion.block)
    if fusion.block == "basic":
        y = g.conv(f"{name}.conv1", x, hidden, kernel=3, epilogue=(act,))
        return g.conv(f"{name}.conv2", y, x.channels, kernel=3, epilogue=(act, "add"), residual=x)
    y = g.conv(f"{name}.conv1", x, hidden, epilogue=(act,))
    y = g.conv(f"{name}.conv2", y, hidden, kernel=MOBILE_NECK_KERNEL, groups=hidden, epilogue=(act,))
    return g.conv(f"{name}.conv3", y, x.channels, epilogue=("add",), residual=x)


def fusion_width(channels: Width, hidden_ratio: float, block: Literal["basic", "mobile"]) -> Width:
    """Hidden width of a fusion block on `channels`."""
    wanted = np.asarray(channels) * hidden_ratio
    return _integers(wanted) if block == "basic" else round8(np.ceil(wanted))


def round8(value: Width) -> Width:
    """Nearest multiple of 8, at least 8, never below 0.9 of `value` (MobileNet's rule)."""
    rounded = np.maximum(8, np.floor((np.asarray(value) + 4) / 8) * 8)
    return _integers(np.where(rounded < 0.9 * value, rounded + 8, rounded))


def _integers(values: np.ndarray) -> Width:
    truncated = values.astype(np.int64)
    return truncated if truncated.ndim else int(truncated)


def lower_head(
    g: Graph, features: tuple[Tensor, Tensor, Tensor], *, num_classes: int, reg_max: int, kernel: int
) -> tuple[Tensor, Tensor]:
    """ZeroHead with its decoding: class scores `[num_classes, A]` and boxes `[4, A]`.

    The learned scale of each level multiplies a linear layer, so deployment folds it into the box convolution.
    """
    g.stage = -1
    scores, sides = [], []
    for level, x in enumerate(features):
        scores.append(g.conv(f"head.cls{level}", x, num_classes, kernel=kernel, epilogue=("sigmoid",)))
        bins = g.conv(f"head.reg{level}", x, 4 * (reg_max + 1), kernel=kernel)
        sides.append(g.integral(f"head.integral{level}", bins))
    return g.flatten("concat", "head.scores", tuple(scores)), g.flatten("decode", "head.boxes", tuple(sides))


def lower(spec: DetectorSpec) -> tuple[Kernel, ...]:
    """All deployed kernels of a detector, in execution order; outputs are `head.scores` and `head.boxes`."""
    g = Graph()
    taps, neck, head = lower_backbone(g, spec.backbone, spec.input), spec.neck, spec.head
    features = lower_neck(
        g,
        taps,
        neck.out_channels,
        depth=neck.depth,
        hidden_ratio=neck.hidden_ratio,
        block=neck.block,
        act=neck.act,
    )
    lower_head(g, features, num_classes=head.num_classes, reg_max=head.reg_max, kernel=head.kernel)
    return tuple(g.kernels)
