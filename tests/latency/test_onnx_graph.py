"""Graphs become the kernels that a runtime would launch."""

from pathlib import Path
from typing import Any

import pytest

from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.latency.onnx_graph import kernels_from_json, kernels_from_onnx
from maenas.latency.published import network_kernels, read_published

IMAGE = [0, [1, 16, 32, 32]]


def conv(source: list[Any], out: int, channels: int = 16, *, size: int = 32, kernel: int = 3, group: int = 1) -> dict:
    weight = [100 + out, [channels, source[1][1] // group, kernel, kernel]]
    attributes = {"group": group, "strides": [source[1][2] // size] * 2}
    return {"op": "Conv", "in": [source, weight], "out": [[out, [1, channels, size, size]]], "attr": attributes}


def op(name: str, sources: list[Any], out: int, shape: list[int], **attributes: Any) -> dict:
    return {"op": name, "in": sources, "out": [[out, shape]], "attr": attributes}


def kernels(*nodes: dict):
    return kernels_from_json({"input": IMAGE[1], "nodes": list(nodes)})


def tensor(number: int, channels: int = 16, size: int = 32) -> list[Any]:
    return [number, [1, channels, size, size]]


def test_sigmoid_times_its_input_is_one_silu_epilogue():
    (kernel,) = kernels(
        conv(IMAGE, 1),
        op("Sigmoid", [tensor(1)], 2, tensor(2)[1]),
        op("Mul", [tensor(1), tensor(2)], 3, tensor(3)[1]),
    )
    assert (kernel.op, kernel.epilogue, kernel.inputs) == ("conv", ("silu",), (-1,))


@pytest.mark.parametrize(("name", "epilogue"), [("Relu", "relu"), ("Clip", "relu"), ("Sigmoid", "sigmoid")])
def test_an_activation_joins_the_convolution(name: str, epilogue: str):
    (kernel,) = kernels(conv(IMAGE, 1), op(name, [tensor(1)], 2, tensor(2)[1]))
    assert kernel.epilogue == (epilogue,)


def test_an_activation_of_a_tensor_read_twice_is_a_kernel_of_its_own():
    result = kernels(conv(IMAGE, 1), op("Relu", [tensor(1)], 2, tensor(2)[1]), conv(tensor(1), 3), conv(tensor(2), 4))
    assert [k.op for k in result] == ["conv", "decode", "conv", "conv"]


def test_add_of_an_earlier_tensor_is_the_residual_of_the_later_convolution():
    first, second = kernels(conv(IMAGE, 1), conv(tensor(1), 2), op("Add", [tensor(1), tensor(2)], 3, tensor(3)[1]))
    assert first.residual is None
    assert (second.residual, second.epilogue) == (0, ("add",))


def test_four_strided_slices_and_a_concat_are_one_space_to_depth():
    image = [0, [1, 3, 64, 64]]
    slices = [op("Slice", [image], i, [1, 3, 32, 32]) for i in (1, 2, 3, 4)]
    join = op("Concat", [[i, [1, 3, 32, 32]] for i in (1, 2, 3, 4)], 5, [1, 12, 32, 32])
    focus, after = kernels(*slices, join, conv([5, [1, 12, 32, 32]], 6))
    assert (focus.op, focus.in_channels, focus.out_channels, focus.in_height) == ("space_to_depth", 3, 12, 64)
    assert after.inputs == (0,)


def test_slices_along_one_axis_after_the_other_are_a_space_to_depth_too():
    image, tall, small = [0, [1, 3, 64, 64]], [1, 3, 32, 64], [1, 3, 32, 32]
    nodes = [op("Slice", [image], i, tall) for i in (1, 2)]
    nodes += [op("Slice", [[1 + i // 2, tall]], 3 + i, small) for i in range(4)]
    (kernel,) = kernels(*nodes, op("Concat", [[3 + i, small] for i in range(4)], 9, [1, 12, 32, 32]))
    assert (kernel.op, kernel.in_channels, kernel.in_width) == ("space_to_depth", 3, 64)


def test_slices_are_views_of_the_kernel_that_wrote_the_tensor():
    half = [2, [1, 8, 32, 32]]
    _, second = kernels(conv(IMAGE, 1), op("Slice", [tensor(1)], 2, half[1]), conv(half, 3))
    assert (second.inputs, second.in_channels) == ((0,), 8)


def test_matmul_of_activations_counts_its_operations():
    a, b = [1, [1, 2, 400, 32]], [2, [1, 2, 32, 400]]
    views = [op("Reshape", [IMAGE], 1, a[1]), op("Reshape", [IMAGE], 2, b[1])]
    (kernel,) = kernels(*views, op("MatMul", [a, b], 3, [1, 2, 400, 400]))
    assert total_cost([kernel]).flops == 2 * 2 * 400 * 400 * 32


def test_chained_arithmetic_is_one_pointwise_kernel():
    result = kernels(
        op("Sub", [IMAGE, [50, [16, 1, 1]]], 1, tensor(1)[1]), op("Div", [tensor(1), [51, []]], 2, tensor(2)[1])
    )
    assert [k.op for k in result] == ["decode"]


def test_transpose_is_a_copy_and_softmax_keeps_its_channels():
    copy, softmax = kernels(
        op("Transpose", [IMAGE], 1, [1, 32, 32, 16]), op("Softmax", [[1, [1, 32, 32, 16]]], 2, [1, 32, 32, 16])
    )
    assert (copy.op, len(copy.inputs)) == ("concat", 1)
    assert (softmax.op, softmax.in_channels, softmax.out_channels) == ("integral", 32, 32)


def test_an_unknown_operator_is_named_with_the_known_ones():
    with pytest.raises(MaenasError, match=r"FancyOp.*'fancyop0'.*not known; known ones: .*Conv"):
        kernels(op("FancyOp", [IMAGE], 1, tensor(1)[1]))


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"nodes": [{"op": 3}]},
        {"nodes": [{"op": "Relu"}]},
        {"nodes": [{"op": "Relu", "in": [[0]], "out": []}]},
        {"nodes": [{"op": "Relu", "in": [], "out": [], "attr": 1}]},
        {"nodes": []},
    ],
)
def test_a_malformed_graph_is_refused(document: Any):
    with pytest.raises(MaenasError):
        kernels_from_json(document)


@pytest.mark.parametrize("shape", [[1, 16, 0, 32], [2, 16, 32, 32]])
def test_dynamic_shapes_and_batches_are_refused(shape: list[int]):
    with pytest.raises(MaenasError, match=r"static|batch 1"):
        kernels(op("MaxPool", [[0, shape]], 1, shape))


@pytest.mark.parametrize(
    ("name", "gflops"), [("yolov8n", 8.7), ("yolox-s", 26.8), ("yolov8m", 78.9), ("yolo11m", 68.0)]
)
def test_operations_are_the_published_ones_within_one_percent(name: str, gflops: float):
    """Published: ultralytics and YOLOX model tables, 640x640."""
    network = next(n for n in read_published().networks if n.name == name)
    assert total_cost(network_kernels(network)).flops / 1e9 == pytest.approx(gflops, rel=0.01)


def test_an_onnx_file_gives_the_same_kernels_as_its_node_list(tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = helper.make_tensor("w", kind, [8, 16, 3, 3], [0.0] * (8 * 16 * 9))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, kind, s) for n, s in (("x", [1, 16, 32, 32]), ("y", [1, 8, 16, 16]))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), str(path))
    (kernel,) = kernels_from_onnx(path)
    shape = (kernel.op, kernel.in_channels, kernel.out_channels, kernel.out_height, kernel.stride, kernel.epilogue)
    assert shape == ("conv", 16, 8, 16, 2, ("silu",))


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path):
    pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(MaenasError, match=r"net\.onnx"):
        kernels_from_onnx(path)
    with pytest.raises(MaenasError, match="cannot read"):
        kernels_from_onnx(tmp_path / "missing.onnx")
