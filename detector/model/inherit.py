"""A detector's weights for another detector of the same style with other widths and depths.

Channel i of a tensor with n channels comes from channel floor(i s / n) of the source's s. Fewer channels are thus
chosen evenly (weight selection, arXiv 2311.18823). More are copies that share their weights out (Net2Net, arXiv
1511.05641). The choice depends on the two widths alone, so links and concatenations stay consistent. Units match by
depth, evenly, and those beyond the source's begin as the identity, but for the activation behind their link. Kernels
are cropped, or padded with zeros.

Legend: O, I channels out and in; s, n channels of the source and of the new tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from detector.model.layers import ConvBNAct, RepConv
from detector.model.neck import Merge
from detector.model.net import DetectorNet
from maenas.errors import MaenasError
from maenas.lowering import SPP_KERNELS
from maenas.spec import DetectorSpec

NOISE = 0.05  # of a weight's spread, added where channels are copies, so that they can part

NUMBERED = re.compile(r"^(?P<chain>.*\.(?:unit|block))(?P<number>\d+)(?P<rest>\..*)?$")


class Part(NamedTuple):
    """Channels of a concatenation: `wide` of the source from `start` on, which become `new` ones."""

    start: int
    wide: int
    new: int


class Inherited(NamedTuple):
    """A layer of the new network, the layer its weights come from ("" for none), and both shapes."""

    layer: str
    source: str
    source_shape: tuple[int, ...]
    shape: tuple[int, ...]


def inherit(
    source: DetectorNet, spec: DetectorSpec, classes: Mapping[int, int], *, seed: int = 0
) -> tuple[DetectorNet, list[Inherited]]:
    """The network of `spec` in eval mode with the weights of `source`, and what came from where.

    `classes` are the labels of `spec` that the source knows, with its labels for them. `seed` draws what is not
    inherited, and the noise between copies. The statistics of batch norm are the source's; `estimate_statistics`
    renews them where there are images. Raises `MaenasError` for a source of another style.
    """
    _require_alike(source.spec, spec)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = DetectorNet(spec).eval()
        return net, [*_body(net, source), *_head(net, source, classes)]


@torch.no_grad()
def estimate_statistics(net: DetectorNet, batches: Iterable[Tensor]) -> None:
    """Mean and variance of every batch norm anew: averages over `batches` of float `[B, 3, H, W]`.

    Leaves the network in eval mode.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    net.train()
    for number, images in enumerate(batches, start=1):
        for layer in layers:
            layer.momentum = 1 / number
        net(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    net.eval()


def match(source: int, new: int) -> list[int | None]:
    """For every unit of a chain of `new` the unit of the source's `source`; None for one more than the source has.

    Both chains have at least one unit, and the first ones match.

    >>> match(4, 2), match(2, 4)
    ([0, 2], [0, None, 1, None])
    """
    owners = [number * source // new for number in range(new)]
    return [None if number and owners[number - 1] == owner else owner for number, owner in enumerate(owners)]


def other_style(source: DetectorSpec, new: DetectorSpec) -> str:
    """What keeps `new` from inheriting from `source`; empty where nothing does."""
    theirs, ours = _style(source), _style(new)
    return "; ".join(f"{key} {theirs[key]} is not {ours[key]}" for key in ours if theirs[key] != ours[key])


def _require_alike(source: DetectorSpec, new: DetectorSpec) -> None:
    if other := other_style(source, new):
        raise MaenasError(f"nothing can be inherited from a detector of another style: {other}")


def _style(spec: DetectorSpec) -> dict[str, object]:
    backbone, neck = spec.backbone, spec.neck
    return {
        "stem": backbone.stem.kind,
        "stages (block, stride)": ", ".join(f"{stage.block} {stage.stride}" for stage in backbone.stages),
        "taps": backbone.taps,
        "SPP": backbone.spp,
        "activation": f"{backbone.act} {neck.act}",
        "neck": neck.block,
        "input": f"{spec.input.channel_order} {spec.input.value_range}",
    }


def _body(net: DetectorNet, source: DetectorNet) -> list[Inherited]:
    """Backbone and neck."""
    theirs, rows = dict(source.named_modules()), []
    depths = _chain_lengths(net), _chain_lengths(source)
    for name, layer in net.named_modules():
        if not isinstance(layer, ConvBNAct):
            continue
        origin = theirs.get(_origin(name, *depths) or "")
        shape = tuple(layer.conv.weight.shape)
        if not isinstance(origin, ConvBNAct):
            rows.append(Inherited(name, "", (), shape))
            continue
        outs = [Part(0, origin.conv.out_channels, layer.conv.out_channels)]
        _convolution(layer.conv, origin.conv, outs, _inputs(name, layer.conv, origin.conv, net, source))
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            getattr(layer.bn, tensor).copy_(getattr(origin.bn, tensor)[_chosen(outs)])
        rows.append(Inherited(name, _origin(name, *depths) or "", tuple(origin.conv.weight.shape), shape))
    for name, unit in net.named_modules():
        found = NUMBERED.match(name)
        if found and not found["rest"] and _owner(found, *depths) is None:
            _silence(unit)
    return rows


def _chain_lengths(net: DetectorNet) -> dict[str, int]:
    """How many units (blocks) every chain has: `backbone.stage2.unit` 3."""
    found = [NUMBERED.match(name) for name, _ in net.named_modules()]
    chains = [row["chain"] for row in found if row and not row["rest"]]
    return {chain: chains.count(chain) for chain in chains}


def _owner(found: re.Match[str], new: Mapping[str, int], source: Mapping[str, int]) -> int | None:
    """The source's number for a unit of the new network.

    The first unit of a stage is unlike the others: it strides, or changes the width. It matches the first alone.
    """
    chain, number = found["chain"], int(found["number"])
    if not chain.startswith("backbone.") or number == 0:
        return match(source[chain], new[chain])[number]
    others = source[chain] - 1
    if others == 0:
        return None
    owner = match(others, new[chain] - 1)[number - 1]
    return None if owner is None else owner + 1


def _origin(name: str, new: Mapping[str, int], source: Mapping[str, int]) -> str | None:
    """Name of the source's layer for the layer `name` of the new network; None where there is none."""
    found = NUMBERED.match(name)
    if found is None:
        return name
    owner = _owner(found, new, source)
    return None if owner is None else f"{found['chain']}{owner}{found['rest'] or ''}"


def _inputs(name: str, new: nn.Conv2d, old: nn.Conv2d, net: DetectorNet, source: DetectorNet) -> list[Part]:
    """Parts of the input of a layer."""
    path, _, last = name.rpartition(".")
    if last == "conv2" and path.endswith(".spp"):
        return _equal_parts(old.in_channels, new.in_channels, 1 + len(SPP_KERNELS))
    if last == "fuse":
        return _equal_parts(old.in_channels, new.in_channels, 2)
    merge = re.fullmatch(r"neck\.merge(\d)", path)
    if merge and last == "conv3":
        return _merged(net.get_submodule(path), source.get_submodule(path))
    if merge:
        widths = [_merge_inputs(each.spec)[int(merge[1])] for each in (source, net)]
        return _in_a_row(list(zip(*widths, strict=True)))
    return [Part(0, old.in_channels, new.in_channels)]


def _merge_inputs(spec: DetectorSpec) -> dict[int, tuple[int, ...]]:
    """Widths of what every merge of the neck concatenates; `detector.model.neck` has the wiring."""
    c3, c4, c5 = spec.backbone.tap_channels
    n3, n4, _ = spec.neck.out_channels
    return {3: (c5, c4), 4: (c4, c3, c5), 5: (c3, c4), 7: (c4, n3), 6: (c5, c4, n4)}


def _merged(new: nn.Module, old: nn.Module) -> list[Part]:
    """The side branch, and the output of every block; a block that is the identity repeats the one before it."""
    assert isinstance(new, Merge)
    assert isinstance(old, Merge)
    side = old.conv1.conv.out_channels, new.conv1.conv.out_channels
    width = old.conv2.conv.out_channels, new.conv2.conv.out_channels
    parts, last = [Part(0, *side)], 0
    for owner in match(old.depth, new.depth):
        last = last if owner is None else owner
        parts.append(Part(side[0] + last * width[0], *width))
    return parts


def _equal_parts(wide: int, count: int, parts: int) -> list[Part]:
    return _in_a_row([(wide // parts, count // parts)] * parts)


def _in_a_row(widths: Sequence[tuple[int, int]]) -> list[Part]:
    starts = [sum(wide for wide, _ in widths[:number]) for number in range(len(widths))]
    return [Part(start, *row) for start, row in zip(starts, widths, strict=True)]


def _chosen(parts: Sequence[Part]) -> Tensor:
    """Source channel of every new channel, `[n]`."""
    return torch.cat([part.start + torch.arange(part.new) * part.wide // part.new for part in parts])


def _shares(parts: Sequence[Part]) -> Tensor:
    """What the weights of every input channel are multiplied by, `[n]`.

    Copies share out what their channel gave. Where channels are left out, those kept carry sqrt(s / n), which keeps
    the variance of a sum of independent ones.
    """
    chosen = _chosen(parts)
    kept = torch.cat([torch.full((part.new,), max(1.0, part.wide / part.new) ** 0.5) for part in parts])
    return kept / torch.bincount(chosen)[chosen]


def _convolution(new: nn.Conv2d, old: nn.Conv2d, outs: Sequence[Part], ins: Sequence[Part]) -> None:
    """Weights `[O, I, k, k]` of `new` from `old`, both depthwise or neither."""
    margin = (new.kernel_size[0] - old.kernel_size[0]) // 2
    weight = F.pad(old.weight, [margin] * 4)[_chosen(outs)]
    if new.groups == 1:
        weight = weight[:, _chosen(ins)] * _shares(ins)[:, None, None]
    if any(part.new > part.wide for part in (*outs, *ins)):
        weight = weight + NOISE * weight.std() * torch.randn_like(weight)
    new.weight.copy_(weight)


def _silence(unit: nn.Module) -> None:
    """Make a linked unit the identity: its last batch norm puts out nothing (zero init, arXiv 1706.02677)."""
    last = [layer for layer in unit.children() if isinstance(layer, ConvBNAct | RepConv)][-1]
    for layer in (last.dense, last.point) if isinstance(last, RepConv) else (last,):
        nn.init.zeros_(layer.bn.weight)
        nn.init.zeros_(layer.bn.bias)


def _head(net: DetectorNet, source: DetectorNet, classes: Mapping[int, int]) -> list[Inherited]:
    """Box convolutions, and those rows of the class convolutions that the source knows."""
    rows = []
    labels = torch.tensor(list(classes.items()), dtype=torch.int64).reshape(-1, 2)
    for level in range(3):
        for kind in ("cls", "reg"):
            name = f"{kind}{level}"
            new, old = (each.head.get_submodule(name) for each in (net, source))
            assert isinstance(new, nn.Conv2d)
            assert isinstance(old, nn.Conv2d)
            fitted = nn.Conv2d(new.in_channels, old.out_channels, new.kernel_size[0])
            same = [Part(0, old.out_channels, old.out_channels)]
            _convolution(fitted, old, same, [Part(0, old.in_channels, new.in_channels)])
            to, of, copies = labels[:, 0], labels[:, 1], torch.ones(len(labels))
            if kind == "reg":
                to, of = torch.arange(new.out_channels), _bins(new.out_channels, old.out_channels)
                copies = of.bincount()[of]  # which share the probability of one bin, behind the level's scale
            new.weight[to] = fitted.weight[of]
            if new.bias is not None and old.bias is not None:
                new.bias[to] = old.bias[of] - copies.log() / source.head.get_parameter(f"scale{level}")
            taken = kind == "reg" or len(labels)
            origin = (f"head.{name}", tuple(old.weight.shape)) if taken else ("", ())
            rows.append(Inherited(f"head.{name}", *origin, tuple(new.weight.shape)))
        getattr(net.head, f"scale{level}").copy_(getattr(source.head, f"scale{level}"))
    return rows


def _bins(new: int, old: int) -> Tensor:
    """Source row of every row of a box convolution, `[4 (R + 1)]`; bins beyond the source's are its last one."""
    bins = torch.arange(new // 4).clamp(max=old // 4 - 1)
    return (torch.arange(4)[:, None] * (old // 4) + bins).flatten()
