"""An exported file computes what torch computes, says how to use it, and holds nothing superfluous."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from detector.export.metadata import NmsSettings, from_properties
from detector.export.onnx import ExportSettings, count_nodes, to_onnx
from detector.export.parity import Parity, check_parity, natural_images
from detector.model.deploy import DeployedNet, deploy
from maenas.deploy.onnx_writer import write_onnx
from maenas.deploy.program import network
from maenas.errors import MaenasError
from maenas.lowering import lower
from maenas.spec import published_specs, resized

pytest.importorskip("onnxruntime")

NAMES = tuple(f"class {number}" for number in range(80))
NMS = NmsSettings(conf=0.05, iou=0.7, max_det=100, candidates=400)
SPECS = published_specs(96)


@pytest.fixture(scope="module")
def nets(lively) -> dict[str, DeployedNet]:
    return {name: deploy(lively(SPECS[name])) for name in ("damo-yolo-t", "damo-yolo-nano-s")}


def export_and_check(net: DeployedNet, settings: ExportSettings, count: int = 3) -> tuple[onnx.ModelProto, Parity]:
    model = to_onnx(net, NAMES, settings)
    size = resized(net.spec, settings.size).input
    images = natural_images(count, size)
    return model, check_parity(model, net, images, size, precision=settings.precision, nms=settings.nms)


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-nano-s"])
@pytest.mark.parametrize("batch", [1, 2, None])
def test_an_export_equals_torch(nets: dict[str, DeployedNet], name: str, batch: int | None) -> None:
    _, parity = export_and_check(nets[name], ExportSettings(batch=batch))
    assert parity.images == (4 if batch == 2 else 3)
    assert parity.boxes < 1e-5
    assert parity.scores < 1e-5


@pytest.mark.parametrize("batch", [1, None])
def test_suppression_in_the_graph_equals_torchvision(nets: dict[str, DeployedNet], batch: int | None) -> None:
    _, parity = export_and_check(nets["damo-yolo-nano-s"], ExportSettings(batch=batch, nms=NMS))
    assert parity.detections is not None
    assert parity.detections > 20


def test_half_precision_is_close(nets: dict[str, DeployedNet]) -> None:
    model, parity = export_and_check(nets["damo-yolo-t"], ExportSettings(precision="fp16"))
    assert 0 < parity.scores < 1e-2
    assert 0 < parity.boxes < 5e-3
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith("conv.weight")]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}


def test_another_size_is_another_input(nets: dict[str, DeployedNet]) -> None:
    model, _ = export_and_check(nets["damo-yolo-nano-s"], ExportSettings(size=160))
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, 160, 160]
    with pytest.raises(MaenasError, match="multiple of 32"):
        to_onnx(nets["damo-yolo-nano-s"], NAMES, ExportSettings(size=100))


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-nano-s"])
def test_the_graph_is_the_lowering(nets: dict[str, DeployedNet], name: str) -> None:
    spec = SPECS[name]
    exported, timed = to_onnx(nets[name], NAMES, ExportSettings()), write_onnx(network(lower(spec)))
    assert count_nodes(exported) == count_nodes(timed)
    assert count_nodes(exported)["Conv"] == sum(kernel.op == "conv" for kernel in lower(spec))


@pytest.mark.parametrize("nms", [None, NMS])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_node_does_nothing(nets: dict[str, DeployedNet], nms: NmsSettings | None, precision) -> None:
    model = to_onnx(nets["damo-yolo-t"], NAMES, ExportSettings(nms=nms, precision=precision))
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    assert all(set(node.output) & read for node in model.graph.node)
    assert {tensor.name for tensor in model.graph.initializer} <= read
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    for node in model.graph.node:
        assert node.op_type != "Identity"
        if node.op_type == "Cast" and node.input[0] in types and nms is None:
            assert types[node.input[0]] != onnx.helper.get_attribute_value(node.attribute[0])


def test_the_file_says_how_to_use_it(nets: dict[str, DeployedNet]) -> None:
    spec = SPECS["damo-yolo-t"]
    model = to_onnx(nets["damo-yolo-t"], NAMES, ExportSettings(nms=NMS))
    stored = {entry.key: entry.value for entry in model.metadata_props}
    export = from_properties(stored, where="export")
    assert (export.detector, export.names, export.precision, export.nms) == (spec, NAMES, "fp32", NMS)
    assert json.loads(stored["names"]) == list(NAMES)
    assert (stored["height"], stored["width"], stored["resize"], stored["channel_order"]) == (
        "96",
        "96",
        "stretch",
        "rgb",
    )
    assert json.loads(stored["nms"])["iou"] == NMS.iou


def test_wrong_weights_do_not_pass_the_check(nets: dict[str, DeployedNet]) -> None:
    net = nets["damo-yolo-nano-s"]
    model = to_onnx(net, NAMES, ExportSettings())
    place = next(i for i, tensor in enumerate(model.graph.initializer) if "stage1" in tensor.name)
    for change, reason in ((lambda w: w * 1.5, "differs from torch"), (lambda w: w * np.nan, "NaN")):
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        tensor = broken.graph.initializer[place]
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
        with pytest.raises(MaenasError, match=reason):
            check_parity(broken, net, natural_images(1, net.spec.input), net.spec.input, precision="fp32", nms=None)


def test_wrong_suppression_does_not_pass_the_check(nets: dict[str, DeployedNet]) -> None:
    net, size = nets["damo-yolo-nano-s"], SPECS["damo-yolo-nano-s"].input
    model = to_onnx(net, NAMES, ExportSettings(nms=NMS))
    with pytest.raises(MaenasError, match="suppression in the graph"):
        check_parity(model, net, natural_images(1, size), size, precision="fp32", nms=replace(NMS, iou=0.5))


def test_weights_of_another_network_are_refused(nets: dict[str, DeployedNet]) -> None:
    program = network(lower(SPECS["damo-yolo-s"]))
    weights = {name: value.numpy() for name, value in nets["damo-yolo-t"].state_dict().items()}
    with pytest.raises(MaenasError, match="weights do not fit"):
        write_onnx(program, weights=weights)


def test_the_images_of_the_check_look_natural() -> None:
    images = natural_images(2, SPECS["damo-yolo-t"].input)
    for image in images:
        assert 100 < image.mean() < 155
        assert image.std() > 40
        assert np.abs(np.diff(image.astype(int), axis=1)).mean() < 0.7 * image.std()  # of noise: 1.13
    assert not np.array_equal(*images)
