"""What a detector inherits from one of other widths and depths."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from detector.model import inherit as inheriting
from detector.model.inherit import estimate_statistics, inherit, match
from detector.model.layers import ConvBNAct
from detector.model.net import DetectorNet
from maenas.errors import MaenasError
from maenas.spec import DetectorSpec, published_spec
from tests.detector.conftest import TINY

EVERY = {label: label for label in range(TINY.head.num_classes)}


def trained(spec: DetectorSpec, seed: int = 0) -> DetectorNet:
    """A network whose batch norms are as unlike as after training, with the statistics of some images."""
    torch.manual_seed(seed)
    net = DetectorNet(spec)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.3)
    estimate_statistics(net, [images(seed)])
    return net


def images(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(4, 3, 64, 64, generator=generator) * 255


def scaled(spec: DetectorSpec, factor: float, depth: int = 0) -> DetectorSpec:
    """`spec` with its widths times `factor`, in sixteens, and `depth` more units in every stage and merge."""

    def wide(width: int) -> int:
        return max(16, round(width * factor / 16) * 16)

    backbone = spec.backbone
    stages = tuple(
        replace(
            stage,
            in_channels=wide(stage.in_channels),
            out_channels=wide(stage.out_channels),
            bottleneck=wide(stage.bottleneck),
            depth=stage.depth + depth,
        )
        for stage in backbone.stages
    )
    stem = replace(backbone.stem, out_channels=wide(backbone.stem.out_channels))
    outs = tuple(map(wide, spec.neck.out_channels))
    neck = replace(spec.neck, out_channels=outs, depth=spec.neck.depth + depth)
    return replace(spec, backbone=replace(backbone, stem=stem, stages=stages), neck=neck)


def outputs(net: DetectorNet) -> torch.Tensor:
    with torch.no_grad():
        raw = net.double()(images(7).double())
    return torch.cat([raw.logits, raw.bins], dim=-1)


def test_the_same_detector_inherits_every_weight() -> None:
    source = trained(TINY)
    net, rows = inherit(source, TINY, EVERY)
    own = net.state_dict()
    for name, tensor in source.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(own[name], tensor), name
    assert all(row.source == row.layer for row in rows)


@pytest.mark.parametrize(
    ("name", "factor", "depth"),
    [
        ("damo-yolo-nano-s", 1.5, 0),
        ("damo-yolo-nano-s", 2, 1),
        ("damo-yolo-s", 1.5, 0),
        ("damo-yolo-s", 2, 1),
        ("damo-yolo-s", 1, 2),
        ("damo-yolo-m", 2, 0),  # no deeper: SiLU follows the link of a unit, so that a further one is no identity
    ],
)
def test_a_wider_and_deeper_detector_computes_the_same(
    name: str, factor: float, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inheriting, "NOISE", 0.0)
    small = published_spec(name)
    source = trained(
        scaled(replace(small, head=replace(small.head, num_classes=3)), 0.25, 1)
    )  # a unit or more behind SPP, whose SiLU a ReLU cuts
    net, _ = inherit(source, scaled(source.spec, factor, depth), {0: 0, 1: 1, 2: 2})
    torch.testing.assert_close(outputs(net), outputs(source), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("source", "new"), [(1, 1), (4, 2), (2, 4), (3, 5), (6, 4)])
def test_units_keep_their_order_and_every_unit_of_a_shorter_source_is_used_once(source: int, new: int) -> None:
    owners = [owner for owner in match(source, new) if owner is not None]
    assert owners == sorted(set(owners))
    assert len(owners) == min(source, new)
    assert match(source, new)[0] == 0


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_stages_have_the_statistics_that_their_batch_norms_expect(factor: float) -> None:
    source = trained(scaled(TINY, 2))
    net, _ = inherit(source, scaled(source.spec, factor), EVERY)
    batches = [images(seed) for seed in range(1, 9)]
    estimate_statistics(net, batches)
    seen: dict[str, list[torch.Tensor]] = {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda _, args, __, name=name: seen.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        for batch in batches:
            net(batch)
    for name, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and name.startswith("backbone"):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            values = torch.cat(seen[name]).transpose(0, 1).flatten(1)  # [C, B H W]
            standard = (values - layer.running_mean[:, None]) / layer.running_var.sqrt()[:, None]
            assert abs(float(standard.mean())) < 0.2, name
            assert 0.8 < float(standard.var(dim=1).mean()) < 1.2, name


def test_classes_match_as_told_and_the_others_stay_new() -> None:
    source = trained(TINY)
    wider = replace(TINY, head=replace(TINY.head, num_classes=3))
    net, _ = inherit(source, wider, {2: 1})
    assert torch.equal(net.head.get_submodule("cls0").weight[2], source.head.get_submodule("cls0").weight[1])
    fresh, _ = inherit(trained(TINY, seed=1), wider, {})
    assert torch.equal(net.head.get_submodule("cls0").weight[:2], fresh.head.get_submodule("cls0").weight[:2])


def test_the_same_seed_gives_the_same_network() -> None:
    source, spec = trained(TINY), scaled(TINY, 1.5, 1)
    first, second, other = (inherit(source, spec, EVERY, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("other", "words"),
    [("damo-yolo-m", "stages"), ("damo-yolo-nano-s", "neck"), ("damo-yolo-nano-m", "stem")],
)
def test_a_source_of_another_style_is_refused(other: str, words: str) -> None:
    with pytest.raises(MaenasError, match=words):
        inherit(DetectorNet(published_spec(other)), published_spec("damo-yolo-t"), {})


def test_every_layer_of_the_new_network_has_its_row() -> None:
    net, rows = inherit(trained(TINY), scaled(TINY, 1.5, 1), EVERY)
    layers = [name for name, layer in net.named_modules() if isinstance(layer, ConvBNAct)]
    assert [row.layer for row in rows if not row.layer.startswith("head")] == layers
    assert {row.shape for row in rows if not row.source} != set()


@pytest.mark.parametrize("more", [-4, 0, 5])
def test_a_head_of_other_reach_inherits_its_bins(more: int) -> None:
    """Those beyond the source's share the probability of its last one; of fewer the nearest are kept."""
    old, bins = TINY.head.reg_max, TINY.head.reg_max + more
    source = trained(TINY)
    for level in range(3):
        nn.init.normal_(source.head.get_submodule(f"reg{level}").weight, std=0.5)
        nn.init.constant_(source.head.get_parameter(f"scale{level}"), 0.7)
    net, _ = inherit(source, replace(TINY, head=replace(TINY.head, reg_max=bins)), EVERY)
    with torch.no_grad():
        theirs = source.double()(images(7).double()).bins.unflatten(-1, (4, old + 1))
        ours = net.double()(images(7).double()).bins.unflatten(-1, (4, bins + 1))
    kept = min(old, bins + 1)
    torch.testing.assert_close(ours[..., :kept], theirs[..., :kept])
    if bins >= old:
        theirs, ours = theirs.softmax(-1), ours.softmax(-1)
        torch.testing.assert_close(ours[..., :old], theirs[..., :old])
        torch.testing.assert_close(ours[..., old:].sum(-1), theirs[..., old])
