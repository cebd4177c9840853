"""INT8 represents what it should, costs what the report says, and gives way where accuracy is asked for."""

from dataclasses import replace
from itertools import chain, pairwise, repeat
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor

from detector.choices import Method
from detector.export.calibrate import BINS, calibrate, entropy_range, percentile_range
from detector.export.metadata import NmsSettings, exported, from_properties, to_properties
from detector.export.onnx import ExportSettings, to_onnx
from detector.export.parity import natural_images
from detector.export.quantize import (
    Quantization,
    aligned_iou,
    conv_names,
    layer_sensitivities,
    output_error,
    quantize_all,
    quantize_within,
)
from detector.images import normalise, stack
from detector.model.deploy import DeployedNet, deploy
from detector.runtime.onnx import onnx_runtime
from maenas.deploy.quantize import quantize, tensors_to_quantize
from maenas.errors import MaenasError
from maenas.spec import BackboneSpec, DetectorSpec, HeadSpec, InputSpec, NeckSpec, StageSpec, StemSpec

pytest.importorskip("onnxruntime")

NAMES = ("cat", "dog", "car")
STAGES = tuple(StageSpec("k1kx", a, b, 8, 3, 2, 1) for a, b in ((8, 8), (8, 16), (16, 16), (16, 16)))
SPEC = DetectorSpec(
    InputSpec(64, 64),
    BackboneSpec(StemSpec("conv", 8), STAGES, "silu", (2, 3, 4), spp=False),
    NeckSpec((16, 16, 16), 1, 1.0, "basic", "relu"),
    HeadSpec(len(NAMES), 7, 3),
)


@pytest.fixture(scope="module")
def net(lively) -> DeployedNet:
    return deploy(lively(SPEC))


@pytest.fixture(scope="module")
def model(net: DeployedNet) -> onnx.ModelProto:
    return to_onnx(net, NAMES, ExportSettings())


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return [normalise(stack([image]), SPEC.input) for image in natural_images(4, SPEC.input)]


def test_ranges_are_those_of_the_activations(net: DeployedNet, model: onnx.ModelProto, images: list[Tensor]) -> None:
    """Against hooks on the convolutions in torch."""
    seen: dict[str, float] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: max(seen.get(name, 0.0), inputs[0].abs().max().item())})
        )
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    with torch.no_grad():
        for batch in images:
            net(batch)
    for handle in handles:
        handle.remove()
    largest = calibrate(model, images, "minmax")
    reads = {node.name.removesuffix(".conv"): node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    assert set(reads.values()) <= set(largest)
    for name, value in seen.items():
        assert largest[reads[name.removesuffix(".conv")]] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("method", get_args(Method))
def test_no_method_reaches_beyond_the_largest_value(model: onnx.ModelProto, images: list[Tensor], method) -> None:
    largest, chosen = calibrate(model, images, "minmax"), calibrate(model, images, method)
    assert all(0 < chosen[name] <= largest[name] * (1 + 1e-6) for name in tensors_to_quantize(model))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1000))
def test_a_percentile_leaves_out_what_it_should(seed: int, scale: float) -> None:
    values = np.abs(np.random.default_rng(seed).standard_normal(50_000)) * scale
    largest = float(values.max())
    counts = np.histogram(values, BINS, (0, largest))[0].astype(float)
    reach = percentile_range(counts, largest)
    assert (values > reach).mean() <= 1e-4
    assert (values > reach - 1.01 * largest / BINS).mean() >= 1e-4


def slow_divergence(counts: np.ndarray, end: int) -> float:
    clipped = counts[:end].copy()
    clipped[-1] += counts[end:].sum()
    quantised = np.zeros(end)
    for level in range(128):
        members = [bin for bin in range(end) if bin * 128 // end == level]
        filled = [bin for bin in members if counts[bin] > 0]
        for bin in filled:
            quantised[bin] = counts[members].sum() / len(filled)
    quantised[(quantised == 0) & (clipped > 0)] = 1e-4
    p, q = clipped / clipped.sum(), quantised / quantised.sum()
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@given(seed=st.integers(0, 2**32 - 1), first=st.integers(0, BINS - 2))
def test_the_entropy_range_clips_few_values(seed: int, first: int) -> None:
    """Also where none lies near zero, as with photographs on a white ground."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(BINS)
    counts[first:] = rng.poisson(rng.exponential(20, BINS - first))
    counts[-1] += 1
    end = round(entropy_range(counts, 1.0) * BINS)
    assert counts[end:].sum() <= 0.01 * counts.sum()


def test_the_entropy_range_is_that_of_the_plain_definition() -> None:
    rng = np.random.default_rng(1)
    values = np.abs(np.concatenate([rng.standard_normal(20_000), rng.standard_normal(20) * 20]))
    counts = np.histogram(values, 256, (0, values.max()))[0].astype(float)
    ends = list(range(128, 257, 8))
    smooth = np.concatenate([counts[1:2], counts[1:]])
    wanted = ends[int(np.argmin([slow_divergence(smooth, end) for end in ends]))]
    assert entropy_range(counts, float(values.max())) == pytest.approx(wanted / 256 * values.max())


def test_entropy_cuts_off_outliers_and_keeps_even_values() -> None:
    rng = np.random.default_rng(0)
    even = np.histogram(rng.random(100_000), BINS, (0, 1))[0].astype(float)
    assert entropy_range(even, 1.0) > 0.9
    outliers = np.concatenate([np.abs(rng.standard_normal(100_000)), [100.0]])
    counts = np.histogram(outliers, BINS, (0, 100))[0].astype(float)
    assert entropy_range(counts, 100.0) < 10


def test_the_file_says_that_it_is_int8_and_runs(model: onnx.ModelProto, images: list[Tensor]) -> None:
    found = quantize_all(model, images, "minmax")
    result = found.apply(model)
    onnx.checker.check_model(result, full_check=True)
    stored = {entry.key: entry.value for entry in result.metadata_props}
    assert from_properties(stored, where="it").precision == "int8"
    assert stored["precision"] == "int8"
    plain, small = (onnx_runtime(m.SerializeToString(), "cpu", where="it") for m in (model, result))
    batch = torch.cat(images)
    assert output_error(plain.network(batch), small.network(batch)) == pytest.approx(found.error, rel=1e-5)
    assert 0 < found.error < 0.6


def test_the_form_for_cpus_is_unsigned_and_computes_the_same_in_both_libraries(
    model: onnx.ModelProto, images: list[Tensor]
) -> None:
    pytest.importorskip("openvino")
    from detector.runtime.openvino import openvino_runtime

    found = quantize_all(model, images, "minmax", "cpu")
    result = found.apply(model)
    onnx.checker.check_model(result, full_check=True)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = tensors[node.input[2]]
            assert zero.dtype == np.uint8
            assert zero in (0, 128)
        elif node.op_type == "Conv":
            assert np.abs(tensors[node.input[1].removesuffix(".dequantized")]).max() == 63
    data, batch = result.SerializeToString(), torch.cat(images)
    plain = onnx_runtime(model.SerializeToString(), "cpu", where="it").network(batch)
    one = onnx_runtime(data, "cpu", where="it").network(batch)
    two = openvino_runtime(data, "cpu", where="it").network(batch)
    assert output_error(plain, one) == pytest.approx(found.error, rel=1e-5)
    assert output_error(one, two) < 0.3 * found.error
    assert output_error(plain, two) < 1.3 * found.error


def test_what_can_be_negative_has_its_zero_in_the_middle(net: DeployedNet, images: list[Tensor]) -> None:
    signed = replace(net.spec, input=replace(net.spec.input, value_range=(-1.0, 1.0)))
    for spec, zero in ((net.spec, 0), (signed, 128)):
        model = to_onnx(net, NAMES, ExportSettings())
        onnx.helper.set_model_props(model, to_properties(exported(spec, NAMES, precision="fp32", nms=None)))
        result = quantize(model, largest=dict.fromkeys(tensors_to_quantize(model), 1.0), form="cpu")
        offsets = [t for t in result.graph.initializer if t.name.endswith(".zero") and not t.dims]
        zeros = {t.name: int(numpy_helper.to_array(t)) for t in offsets}
        assert zeros["image.zero"] == zero
        assert {zeros[f"{name}.zero"] for name in tensors_to_quantize(model)} == {0, 128}


def test_openvino_refuses_the_form_that_it_computes_wrongly(model: onnx.ModelProto, images: list[Tensor]) -> None:
    pytest.importorskip("openvino")
    from detector.runtime.openvino import openvino_runtime

    data = quantize_all(model, images, "minmax").apply(model).SerializeToString()
    with pytest.raises(MaenasError, match="export it with --target cpu"):
        openvino_runtime(data, "cpu", where="it")


def test_what_is_left_can_be_half_precision_with_suppression(
    net: DeployedNet, model: onnx.ModelProto, images: list[Tensor]
) -> None:
    found = quantize_all(model, images, "minmax")
    half = to_onnx(net, NAMES, ExportSettings(batch=None, precision="fp16", nms=NmsSettings(0.05, 0.7, 20, 100)))
    result = found.apply(half)
    onnx.checker.check_model(result, full_check=True)
    scores, boxes = onnx_runtime(result.SerializeToString(), "cpu", where="it").network(torch.cat(images))
    assert scores.shape == (4, 20, 3)
    assert boxes.isfinite().all()


def test_nothing_quantised_changes_nothing_and_every_layer_something(
    model: onnx.ModelProto, images: list[Tensor]
) -> None:
    largest = calibrate(model, images, "minmax")
    names = conv_names(model)
    rows = layer_sensitivities(model, images[:1], largest)
    assert sorted(row.layer for row in rows) == sorted(names)
    assert all(one.error >= two.error > 0 for one, two in pairwise(rows))
    kept = Quantization("minmax", 4, largest, tuple(names), 0.0).apply(model)
    assert not any(node.op_type == "QuantizeLinear" for node in kept.graph.node)


@pytest.mark.parametrize("needed", [0, 1, 6])
def test_as_few_layers_are_kept_as_the_ap_needs(model: onnx.ModelProto, images: list[Tensor], needed: int) -> None:
    """The AP of a fake evaluation that holds once the `needed` most sensitive layers are kept."""
    total = len(conv_names(model))

    def measure(candidate: onnx.ModelProto) -> float:
        reads = {name for node in candidate.graph.node if node.op_type == "Conv" for name in node.input}
        quantised = sum(name.endswith(".weight.dequantized") for name in reads)
        return 0.5 if total - quantised >= needed else 0.4

    found = quantize_within(model, model, images[:1], "minmax", max_drop=0.01, measure_ap=measure)
    assert len(found.keep) == needed
    assert found.keep == tuple(row.layer for row in found.sensitivities[:needed])
    assert found.ap_before == 0.5
    assert dict(found.trades)[needed] == 0.5
    document = found.document()
    assert document["kept_in_higher_precision"] == list(found.keep)
    assert len(document["sensitivities"]) == total


def test_a_drop_that_no_int8_file_keeps_to_is_an_error(model: onnx.ModelProto, images: list[Tensor]) -> None:
    """What fp16 or suppression in the file costs stays, whatever is left out; a file without int8 is not int8."""
    aps = chain([0.5], repeat(0.4))
    with pytest.raises(MaenasError, match=r"0\.4000 with a single convolution in int8.*larger one"):
        quantize_within(model, model, images[:1], "minmax", max_drop=0.01, measure_ap=lambda _: next(aps))


def test_layers_whose_quantisation_costs_ap_are_kept_first(model: onnx.ModelProto, images: list[Tensor]) -> None:
    """The fake evaluation of a layer alone knows one that matters; by output error it is the last."""
    largest = calibrate(model, images, "minmax")
    calm = layer_sensitivities(model, images[:1], largest)[-1].layer

    def layer_ap(candidate: onnx.ModelProto) -> float:
        (quantised,) = [
            node.name
            for node in candidate.graph.node
            if node.op_type == "Conv" and node.input[1].endswith(".weight.dequantized")
        ]
        return 0.3 if quantised == calm else 0.5

    aps = iter([0.5, 0.4, 0.5])  # of the model, with nothing kept, and with one layer kept
    found = quantize_within(
        model, model, images[:1], "minmax", max_drop=0.01, measure_ap=lambda _: next(aps), layer_ap=layer_ap
    )
    assert found.keep == (calm,)
    assert found.sensitivities[0].ap == 0.3
    errors = [row.error for row in found.sensitivities[1:]]
    assert errors == sorted(errors, reverse=True)


def test_without_images_there_is_no_calibration(model: onnx.ModelProto) -> None:
    with pytest.raises(MaenasError, match="no image to calibrate on"):
        calibrate(model, [], "minmax")


def test_overlap_of_pairs_of_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [3, 3, 3, 3]])
    others = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [3, 3, 3, 3]])
    torch.testing.assert_close(aligned_iou(boxes, others), torch.tensor([1, 1 / 3, 0, 1]))
