"""The precision of an engine's convolutions is read from what its inspector says, of either major version."""

from typing import Any

import pytest
from onnx import helper

from maenas.deploy.engine_types import check_precision, convolution_names, refuse_merged, tensor_type
from maenas.errors import MaenasError


def layer(*types: dict[str, str], kind: str = "CaskConvolution") -> dict[str, Any]:
    inputs = [{"Name": "x", "Dimensions": [1, 3, 8, 8], **fields} for fields in types]
    return {"Name": "stem.conv + relu", "LayerType": kind, "Inputs": inputs, "Outputs": []}


TEN = {
    "fp32": {"Format/Datatype": "Row major linear FP32"},
    "fp16": {"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"},
    "int8": {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"},
}
ELEVEN = {
    "fp32": {"Format": "Row major linear", "Datatype": "Float"},
    "fp16": {"Format": "Channel major, channel % 8 == 0", "Datatype": "Half"},
    "int8": {"Format": "Thirty-two wide channel vectorized", "Datatype": "Int8"},
}


@pytest.mark.parametrize("schema", [TEN, ELEVEN], ids=["10", "11"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_precision_that_was_not_asked_for_is_an_error(schema: dict[str, dict], precision: Any) -> None:
    for found, fields in schema.items():
        assert tensor_type(fields) == found
        document = {"Layers": [layer(fields)], "Bindings": ["x"]}
        if found == precision:
            check_precision(document, precision, runtime="tensorrt")
        else:
            with pytest.raises(MaenasError, match=rf"tensorrt runs (stem|no).* in {found}|not in {precision}"):
                check_precision(document, precision, runtime="tensorrt")


def test_bf16_is_neither_of_the_others() -> None:
    assert tensor_type({"Datatype": "BFloat16"}) == "bf16"
    assert tensor_type({"Format/Datatype": "Row major linear BF16"}) == "bf16"
    assert tensor_type({"Datatype": "Int64"}) is None


def test_some_quantised_convolutions_may_run_in_fp16_but_not_in_fp32() -> None:
    layers = [layer(TEN["int8"]), layer(TEN["fp16"])]
    check_precision({"Layers": layers}, "int8", runtime="tensorrt")
    with pytest.raises(MaenasError, match=r"runs stem\.conv \+ relu in fp32, not in int8"):
        check_precision({"Layers": [*layers, layer(TEN["fp32"])]}, "int8", runtime="tensorrt")
    with pytest.raises(MaenasError, match="runs no convolution in int8, but in fp16"):
        check_precision({"Layers": layers[1:]}, "int8", runtime="tensorrt")


def test_only_convolutions_count() -> None:
    layers = [layer(ELEVEN["fp16"]), layer(ELEVEN["fp32"], kind="Reformat"), layer(ELEVEN["fp32"], kind="gemm")]
    check_precision({"Layers": layers}, "fp16", runtime="tensorrt")
    check_precision({"Layers": [{**layers[0], "LayerType": "x", "ParameterType": "Convolution"}]}, "fp16", runtime="t")


def fused(types: dict[str, str], *nodes: str) -> dict[str, Any]:
    """A layer of the fusing compiler, as TensorRT 10.9 and later describe it: the nodes that it holds."""
    separated = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {**layer(types, kind="kgen"), "Name": "__myl_ConvAddRelu_myl0_3", "Metadata": separated}


@pytest.mark.parametrize("schema", [TEN, ELEVEN], ids=["10", "11"])
def test_a_convolution_inside_a_fused_layer_counts_too(schema: dict[str, dict]) -> None:
    """Such a layer does not say that it convolves, but which nodes of the model it holds."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
        helper.make_node("Conv", ["y", "w"], ["z"], name="conv"),
        helper.make_node("Conv", ["z", "w"], ["out"]),
    ]
    names = convolution_names(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    assert names == {"conv", "node_of_out"}
    wide, narrow = schema["fp32"], schema["fp16"]
    for node in names:
        document = {"Layers": [layer(narrow), fused(wide, "relu", node)]}
        check_precision(document, "fp16", runtime="tensorrt")  # nothing is known of the model: as before
        with pytest.raises(MaenasError, match="__myl_ConvAddRelu_myl0_3 in fp32, not in fp16"):
            check_precision(document, "fp16", runtime="tensorrt", convolutions=names)
    others = [fused(narrow, "conv"), fused(wide, "relu"), fused(wide) | {"Metadata": None}]
    others.append(fused(wide, "conv") | {"LayerType": "Reformat"})
    check_precision({"Layers": others}, "fp16", runtime="tensorrt", convolutions=names)


@pytest.mark.parametrize("document", [{}, {"Layers": ["only a name"]}, {"Layers": [layer()]}, {"Layers": 3}, [], None])
def test_an_engine_that_says_nothing_of_its_convolutions_is_an_error(document: Any) -> None:
    with pytest.raises(MaenasError, match="tensorrt does not say in which precision"):
        check_precision(document, "fp16", runtime="tensorrt")


def test_a_product_that_tensorrt_made_a_convolution_of_is_none() -> None:
    """Where a layer names the nodes that it holds, these decide and not what it is called."""
    product = {**layer(TEN["fp32"], kind="CaskGemmConvolution"), "Metadata": "[ONNX Layer: head.integral0.matmul]"}
    layers = [{**layer(TEN["fp16"]), "Metadata": "[ONNX Layer: conv]\x1e[ONNX Layer: relu]"}, product]
    check_precision({"Layers": layers}, "fp16", runtime="tensorrt", convolutions={"conv"})
    with pytest.raises(MaenasError, match="in fp32, not in fp16"):
        check_precision({"Layers": layers}, "fp16", runtime="tensorrt", convolutions={"conv", "head.integral0.matmul"})


def test_copies_that_became_one_layer_are_refused() -> None:
    for name in ("probe0.conv + probe0.relu || probe1.conv + probe1.relu", "copy0.a.conv || copy1.a.conv"):
        with pytest.raises(MaenasError, match="trt computes copies of a kernel as one"):
            refuse_merged({"Layers": ["x", {"Name": name}]}, runtime="trt")
    refuse_merged({"Layers": [{"Name": "copy0.a.conv || copy0.b.conv"}, {"Name": "probe1.conv"}]}, runtime="trt")
    refuse_merged({}, runtime="trt")
