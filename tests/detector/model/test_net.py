"""Sizes, initial values, and the same outputs in every form, precision and memory format."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from detector.boxes import decode_boxes, make_priors
from detector.model.deploy import deploy
from detector.model.layers import BN_MOMENTUM, ConvBNAct, RepConv
from detector.model.net import DetectorNet
from maenas.errors import MaenasError
from maenas.spec import DetectorSpec, published_specs

PUBLISHED = published_specs()


def random_net(spec: DetectorSpec) -> DetectorNet:
    """A network whose activations have about unit size everywhere and whose predictions differ; in eval mode."""
    torch.manual_seed(0)
    net = DetectorNet(spec)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0  # statistics of the one batch below
    for level in range(3):
        for conv in (getattr(net.head, f"cls{level}"), getattr(net.head, f"reg{level}")):
            nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)
            nn.init.normal_(conv.bias)
        nn.init.uniform_(getattr(net.head, f"scale{level}"), 0.5, 1.5)
    with torch.no_grad():
        net.train()(image(128, 128, batch=4))
    for norm in norms:
        norm.momentum = BN_MOMENTUM
    return net.eval()


def image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["damo-yolo-t", "damo-yolo-m", "damo-yolo-nano-s"])
def net(request: pytest.FixtureRequest) -> DetectorNet:
    return random_net(PUBLISHED[request.param])


# Forms ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(spec=...)
def test_the_deployed_form_of_any_spec_decodes_what_the_training_form_predicts(spec: DetectorSpec) -> None:
    net, x = random_net(spec).double(), image(64, 96, batch=2).double()  # what is left are faults, not rounding
    with torch.inference_mode():
        raw = net(x)
        scores, boxes = deploy(net)(x)
    anchors = 64 * 96 * 21 // 1024
    assert raw.logits.shape == (2, anchors, spec.head.num_classes)
    assert raw.bins.shape == (2, anchors, 4 * (spec.head.reg_max + 1))
    torch.testing.assert_close(scores, raw.logits.sigmoid(), rtol=0, atol=1e-9)
    wanted = decode_boxes(raw.bins, make_priors(64, 96), spec.head.reg_max)
    torch.testing.assert_close(boxes, wanted, rtol=0, atol=1e-2)


def test_deploying_leaves_the_network_as_it_is(net: DetectorNet) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    deployed = deploy(net)
    assert not any(isinstance(module, ConvBNAct | RepConv | nn.BatchNorm2d) for module in deployed.modules())
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_image_gives_the_same_alone_and_in_a_batch(net: DetectorNet) -> None:
    x = image(96, 64, batch=3)
    with torch.inference_mode():
        scores, boxes = deploy(net)(x)
        for number in range(3):
            alone = deploy(net)(x[number : number + 1])
            torch.testing.assert_close(alone[0][0], scores[number], rtol=0, atol=3e-4)
            torch.testing.assert_close(alone[1][0], boxes[number], rtol=0, atol=3e-2)


def test_the_head_on_the_features_is_the_whole_network(net: DetectorNet) -> None:
    x = image(64, 64)
    with torch.inference_mode():
        features = net.features(x)
        assert [f.shape[1:] for f in features] == [
            (width, 64 // stride, 64 // stride)
            for width, stride in zip(net.spec.neck.out_channels, (8, 16, 32), strict=True)
        ]
        for part, whole in zip(net.predict_from(features), net(x), strict=True):
            assert torch.equal(part, whole)


def test_every_parameter_gets_a_gradient() -> None:
    net = random_net(PUBLISHED["damo-yolo-nano-s"]).train()
    raw = net(image(64, 64, batch=2))
    (raw.logits.sum() + raw.bins.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 100, 64),
        torch.zeros(1, 3, 64, 33),
        torch.zeros(1, 3, 0, 64),
        torch.zeros(1, 4, 64, 64),
        torch.zeros(3, 64, 64),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ],
    ids=lambda images: f"{images.dtype}{list(images.shape)}",
)
@pytest.mark.parametrize("form", ["training", "deployed"])
def test_images_of_another_kind_are_refused(images: Tensor, form: str) -> None:
    net = DetectorNet(PUBLISHED["damo-yolo-nano-s"]).eval()
    with pytest.raises(MaenasError, match="images are"):
        (deploy(net) if form == "deployed" else net)(images)


# Precision and layout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_outputs_by_its_rounding_only(net: DetectorNet, dtype: torch.dtype) -> None:
    x, deployed = image(64, 64), deploy(net)
    with torch.inference_mode():
        scores, boxes = deployed(x)
        half_scores, half_boxes = deployed.to(dtype)(x.to(dtype))
    assert half_scores.dtype == dtype
    assert half_boxes.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa and float16 has 11; the error adds up over some hundred convolutions.
    step = 2.0 ** (-8 if dtype == torch.bfloat16 else -11)
    strides = make_priors(64, 64)[:, 2:]
    assert (half_scores.float() - scores).square().mean().sqrt() < 24 * step
    assert ((half_boxes - boxes) / strides).square().mean().sqrt() < 160 * step


def test_channels_last_changes_nothing_but_rounding(net: DetectorNet) -> None:
    x, deployed = image(64, 64), deploy(net)
    with torch.inference_mode():
        scores, boxes = deployed(x)
        last = deployed.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last[0], scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(last[1], boxes, rtol=0, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"), [("damo-yolo-t", "deployed"), ("damo-yolo-m", "deployed"), ("damo-yolo-nano-s", "training")]
)
def test_compiling_changes_nothing_but_rounding(name: str, form: str) -> None:
    net = random_net(PUBLISHED[name])
    network = net if form == "training" else deploy(net)
    with torch.inference_mode():
        plain, compiled = network(image(64, 64)), torch.compile(network, fullgraph=True)(image(64, 64))
    for found, expected in zip(compiled, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=3e-2)


# Initial values -------------------------------------------------------------------------------------------------------


def spread(values: Tensor) -> float:
    return values.double().std().item()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_head_starts_with_rare_classes_and_no_preferred_distance(name: str) -> None:
    head = DetectorNet(PUBLISHED[name]).head
    for level in range(3):
        cls, reg = getattr(head, f"cls{level}"), getattr(head, f"reg{level}")
        assert cls.bias.sigmoid().unique().item() == pytest.approx(0.01)
        assert not reg.bias.any()
        assert spread(cls.weight) == pytest.approx(0.01, rel=0.05)
        assert spread(reg.weight) == pytest.approx(0.01, rel=0.05)
        assert getattr(head, f"scale{level}").item() == 1


def test_nano_backbones_and_their_downsampling_start_as_released() -> None:
    torch.manual_seed(0)
    net = DetectorNet(PUBLISHED["damo-yolo-nano-l"])
    for module in net.backbone.modules():
        if isinstance(module, nn.Conv2d):
            assert spread(module.weight) * module.weight.shape[1] == pytest.approx(1, rel=0.15)
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 1)
            assert torch.all(module.bias == 1e-4)
    for name in ("down13", "down24", "down57", "down46", "down76"):
        depthwise, pointwise = (getattr(net.neck.get_submodule(name), part) for part in ("depthwise", "pointwise"))
        width = pointwise.conv.out_channels
        assert spread(depthwise.conv.weight) == pytest.approx(math.sqrt(2 / (9 * width)), rel=0.15)
        assert spread(pointwise.conv.weight) == pytest.approx(math.sqrt(2 / width), rel=0.05)
        assert not pointwise.bn.bias.any()


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-m"])
def test_other_backbones_and_necks_start_with_the_defaults_of_torch(name: str) -> None:
    torch.manual_seed(0)
    net = DetectorNet(PUBLISHED[name])
    for part in (net.backbone, net.neck):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                bound = module.weight[0].numel() ** -0.5
                assert module.weight.abs().max() <= bound
                assert spread(module.weight) == pytest.approx(bound / math.sqrt(3), rel=0.1)
            elif isinstance(module, nn.BatchNorm2d):
                assert (module.eps, module.momentum) == (1e-3, 0.03)
                assert torch.all(module.weight == 1)
                assert not module.bias.any()


def test_the_size_in_the_spec_is_no_part_of_the_network() -> None:
    spec = PUBLISHED["damo-yolo-nano-s"]
    other = dataclasses.replace(spec, input=dataclasses.replace(spec.input, height=64))
    shapes = [{name: t.shape for name, t in DetectorNet(s).state_dict().items()} for s in (spec, other)]
    assert shapes[0] == shapes[1]
