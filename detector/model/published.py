"""What the released checkpoints call the tensors of a detector.

The names below are those of the files that the authors published (training form). A released layer is found by the
path of ours; its convolution and its batch norm have names of their own there.
"""

from __future__ import annotations

import re

import torch

from detector.model.layers import ConvBNAct
from detector.model.net import DetectorNet
from maenas.errors import MaenasError
from maenas.spec import BackboneSpec, DetectorSpec

BINS = "head.integral.project"  # a constant in the released files: 0, 1, ..., reg_max

# (our path, released path, released convolution, released batch norm); the first rule that matches is taken.
Rules = tuple[tuple[str, str, str, str], ...]

STEM_PARTS = {"focus": ("conv", "bn"), "conv": ("conv1", "bn1")}
RES_UNIT = r"backbone.block_list.\1.block_list.\2"
RES_RULES: Rules = (
    (r"backbone\.stage(\d+)\.unit(\d+)\.conv1", RES_UNIT + r".conv1", "conv1", "bn1"),
    (r"backbone\.stage(\d+)\.unit(\d+)\.conv2\.dense", RES_UNIT + r".conv2.rbr_dense", "conv", "bn"),
    (r"backbone\.stage(\d+)\.unit(\d+)\.conv2\.point", RES_UNIT + r".conv2.rbr_1x1", "conv", "bn"),
    (r"backbone\.stage(\d+)\.unit(\d+)\.project", RES_UNIT + r".residual_proj", "conv1", "bn1"),
    (r"backbone\.stage(\d+)\.spp\.conv(\d)", r"backbone.block_list.\1.block_list.1.conv\2", "conv", "bn"),
)
CSP_STAGE = r"backbone.csp_stage.\1"
CSP_RULES: Rules = (
    (r"backbone\.stage(\d+)\.downsample", CSP_STAGE + r".downsampler.conv", "conv1", "bn1"),
    (r"backbone\.stage(\d+)\.spp\.conv(\d)", CSP_STAGE + r".spp.conv\2", "conv", "bn"),
    (r"backbone\.stage(\d+)\.(start|shortcut|fuse)", CSP_STAGE + r".conv_\2.conv", "conv1", "bn1"),
    (r"backbone\.stage(\d+)\.unit(\d+)\.conv1", CSP_STAGE + r".convstem.\2.conv1", "conv1", "bn1"),
    (r"backbone\.stage(\d+)\.unit(\d+)\.conv2\.dense", CSP_STAGE + r".convstem.\2.conv2.rbr_dense", "conv", "bn"),
    (r"backbone\.stage(\d+)\.unit(\d+)\.conv2\.point", CSP_STAGE + r".convstem.\2.conv2.rbr_1x1", "conv", "bn"),
)
MOBILE_RULES: Rules = (
    (r"backbone\.stage(\d+)\.unit(\d+)\.conv1", RES_UNIT + r".conv", "0", "1"),
    (r"backbone\.stage(\d+)\.unit(\d+)\.conv2", RES_UNIT + r".conv", "3", "4"),
    (r"backbone\.stage(\d+)\.unit(\d+)\.conv3", RES_UNIT + r".conv", "7", "8"),
    (r"backbone\.stage(\d+)\.spp\.conv(\d)", r"backbone.block_list.\1.block_list.1.conv\2", "conv", "bn"),
)
BASIC_NECK_RULES: Rules = (
    (r"neck\.down(\d+)", r"neck.bu_conv\1", "conv", "bn"),
    (r"neck\.merge(\d)\.conv(\d)", r"neck.merge_\1.conv\2", "conv", "bn"),
    # The released block runs its conv2 first.
    (r"neck\.merge(\d)\.block(\d+)\.conv1\.dense", r"neck.merge_\1.convs.\2.conv2.rbr_dense", "conv", "bn"),
    (r"neck\.merge(\d)\.block(\d+)\.conv1\.point", r"neck.merge_\1.convs.\2.conv2.rbr_1x1", "conv", "bn"),
    (r"neck\.merge(\d)\.block(\d+)\.conv2", r"neck.merge_\1.convs.\2.conv1", "conv", "bn"),
)
MOBILE_NECK_RULES: Rules = (
    (r"neck\.down(\d+)\.depthwise", r"neck.bu_conv\1", "depthwise", "dwnorm"),
    (r"neck\.down(\d+)\.pointwise", r"neck.bu_conv\1", "pointwise", "pwnorm"),
    (r"neck\.merge(\d)\.conv(\d)", r"neck.merge_\1.conv\2", "conv", "bn"),
    (r"neck\.merge(\d)\.block(\d+)\.conv1", r"neck.merge_\1.convs.\2.conv.conv", "0", "1"),
    (r"neck\.merge(\d)\.block(\d+)\.conv2", r"neck.merge_\1.convs.\2.conv.conv", "3", "4"),
    (r"neck\.merge(\d)\.block(\d+)\.conv3", r"neck.merge_\1.convs.\2.conv.conv", "6", "7"),
)
HEAD_NAMES = (
    (r"head\.(cls|reg)(\d)\.(weight|bias)", r"head.gfl_\1.\2.\3"),
    (r"head\.scale(\d)", r"head.scales.\1.scale"),
)


def published_names(spec: DetectorSpec) -> dict[str, str]:
    """Our name -> released name of every tensor of `DetectorNet(spec).state_dict()`, in its order.

    Raises `MaenasError` for a backbone of which there are no released checkpoints.
    """
    rules = _rules(spec)
    with torch.device("meta"):
        net = DetectorNet(spec)
    names = {}
    for path, module in net.named_modules():
        if isinstance(module, ConvBNAct):
            released, conv, bn = _released_layer(path, spec.backbone, rules)
            for part, released_part in (("conv", conv), ("bn", bn)):
                tensors = module.get_submodule(part).state_dict()
                names |= {f"{path}.{part}.{leaf}": f"{released}.{released_part}.{leaf}" for leaf in tensors}
    for name in net.head.state_dict(prefix="head."):
        names[name] = next(re.sub(ours, released, name) for ours, released in HEAD_NAMES if re.fullmatch(ours, name))
    return {name: names[name] for name in net.state_dict()}


def _rules(spec: DetectorSpec) -> Rules:
    blocks = {stage.block for stage in spec.backbone.stages}
    neck = BASIC_NECK_RULES if spec.neck.block == "basic" else MOBILE_NECK_RULES
    if blocks <= {"k1kx", "kxkx"}:
        stages, rules = "block_list", RES_RULES
    elif blocks == {"csp"}:
        stages, rules = "csp_stage", CSP_RULES
    elif blocks == {"k1dwk1"}:
        stages, rules = "block_list", MOBILE_RULES
    else:
        raise MaenasError(f"there are no released checkpoints of a backbone of {', '.join(sorted(blocks))} blocks")
    stem = (r"backbone\.stem\.conv", rf"backbone.{stages}.0.conv", *STEM_PARTS[spec.backbone.stem.kind])
    return (stem, *rules, *neck)


def _released_layer(path: str, backbone: BackboneSpec, rules: Rules) -> tuple[str, str, str]:
    """(layer, convolution, batch norm) as released, of our layer at `path`."""
    numbered = _numbered(path, backbone)
    for ours, released, conv, bn in rules:
        if re.fullmatch(ours, numbered):
            return re.sub(ours, released, numbered), conv, bn
    raise AssertionError(f"no rule for {path}")


def _numbered(path: str, backbone: BackboneSpec) -> str:
    """`path` with units numbered as released, where SPP counts as the second unit of its stage (but for csp)."""
    unit = re.match(rf"(backbone\.stage{len(backbone.stages)}\.unit)([1-9]\d*)", path)
    if unit is None or not backbone.spp or backbone.stages[-1].block == "csp":
        return path
    return f"{unit[1]}{int(unit[2]) + 1}{path[unit.end() :]}"
