"""Graphs become the kernels that a runtime would launch."""

import math
from dataclasses import replace
from typing import Any

import pytest

from maenas.cost import kernel_activations, kernel_flops, kernel_params, total_cost
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.device import get_device
from maenas.latency.kernel_model import kernel_work
from maenas.latency.onnx.lower import fuse, kernels_from_json
from maenas.latency.onnx.node_graph import read_json
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


@pytest.mark.parametrize(
    ("name", "epilogue"), [("Relu", "relu"), ("Clip", "relu"), ("HardSwish", "relu"), ("Sigmoid", "sigmoid")]
)
def test_an_activation_joins_the_convolution(name: str, epilogue: str):
    (kernel,) = kernels(conv(IMAGE, 1), op(name, [tensor(1)], 2, tensor(2)[1]))
    assert kernel.epilogue == (epilogue,)


def test_an_activation_of_a_tensor_read_twice_is_a_kernel_of_its_own():
    result = kernels(conv(IMAGE, 1), op("Relu", [tensor(1)], 2, tensor(2)[1]), conv(tensor(1), 3), conv(tensor(2), 4))
    assert [k.op for k in result] == ["conv", "pointwise", "conv", "conv"]


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


def test_a_product_of_two_computed_tensors_has_no_weights_and_reads_both_for_every_image():
    a, b, out = [1, [1, 2, 400, 32]], [2, [1, 2, 32, 600]], [3, [1, 2, 400, 600]]
    views = [op("Reshape", [IMAGE], 1, a[1]), op("Reshape", [IMAGE], 2, b[1])]
    (both,) = kernels(*views, op("MatMul", [a, b], *out))
    (stored,) = kernels(views[0], op("MatMul", [a, [50, b[1]]], *out))
    assert total_cost([both]).params == 0
    assert total_cost([stored]).params == 2 * (32 * 600 + 600)
    t4 = get_device("t4")
    byte_s = 1 / (t4.memory_bandwidth_gbs.value * 1e9)
    image, weights = 2 * 2 * (400 * 32 + 400 * 600), 2 * 2 * 32 * 600
    for batch in (1, 8):
        memory = [kernel_work(k, device=t4, precision="fp16", batch=batch).memory_s for k in (both, stored)]
        assert memory == pytest.approx([batch * (image + weights) * byte_s, (batch * image + weights) * byte_s])


def test_chained_arithmetic_is_one_pointwise_kernel():
    result = kernels(
        op("Sub", [IMAGE, [50, [16, 1, 1]]], 1, tensor(1)[1]), op("Div", [tensor(1), [51, []]], 2, tensor(2)[1])
    )
    assert [k.op for k in result] == ["pointwise"]


def test_transpose_is_a_copy_and_softmax_one_of_rows_where_its_axis_is_the_last():
    shape = [1, 32, 64, 16]
    for axis, expected in ((None, "rows"), (-1, "rows"), (3, "rows"), (1, "planes"), (2, "planes")):
        attributes = {} if axis is None else {"attr": {"axis": axis}}
        copy, softmax = kernels(
            op("Transpose", [IMAGE], 1, shape), {**op("Softmax", [[1, shape]], 2, shape), **attributes}
        )
        assert (copy.op, len(copy.inputs)) == ("concat", 1)
        sizes = (softmax.in_channels, softmax.out_channels, softmax.in_height, softmax.in_width)
        rows = ("softmax", (16, 16, 32 * 64, 1))
        assert (softmax.op, sizes) == (rows if expected == "rows" else ("integral", (32, 32, 64, 16)))


def test_where_all_operators_must_be_known_an_unknown_one_is_named_with_the_known_ones():
    with pytest.raises(MaenasError, match=r"no rule.*1 FancyOp; known ones: .*Conv"):
        kernels(op("FancyOp", [IMAGE], 1, tensor(1)[1]))


def test_an_unknown_operator_has_a_kernel_that_moves_what_it_moves():
    many = [2, [1, 7, 3]]
    node = {"op": "FancyOp", "in": [IMAGE, [50, [5]]], "out": [tensor(1), many], "attr": {}}
    lowered = fuse(read_json({"nodes": [node, conv(tensor(1), 3)]}))
    assert lowered.stand_ins == {0: "FancyOp"}
    read, written = kernel_reads(lowered.kernels[0]), kernel_activations(lowered.kernels[0])
    assert 0 <= read - (16 * 32 * 32 + 5) < 32 * 32
    assert 0 <= written - (16 * 32 * 32 + 21) < 32 * 32
    assert lowered.kernels[1].inputs == (0,)


def kernel_reads(kernel: Kernel) -> int:
    return kernel.in_channels * kernel.in_height * kernel.in_width


def test_an_operator_whose_shape_is_not_known_is_listed_and_what_follows_is_timed():
    known = read_json({"nodes": [op("NonZero", [IMAGE], 1, [0]), conv(tensor(1), 2)]})
    lowered = fuse(known)
    assert lowered.untimed == ("NonZero",)
    assert [k.op for k in lowered.kernels] == ["conv"]


ACTIVATION_NODES = {
    "hard swish": [("HardSigmoid", (1,), 2), ("Mul", (1, 2), 3)],
    "hard swish in parts": [("Add", (1, 50), 2), ("Clip", (2, 51, 52), 3), ("Mul", (1, 3), 4), ("Div", (4, 53), 5)],
    "gelu": [("Div", (1, 50), 2), ("Erf", (2,), 3), ("Add", (3, 51), 4), ("Mul", (1, 4), 5), ("Mul", (5, 52), 6)],
    "mish": [("Softplus", (1,), 2), ("Tanh", (2,), 3), ("Mul", (1, 3), 4)],
}


@pytest.mark.parametrize("name", ACTIVATION_NODES)
def test_an_activation_in_parts_is_one_epilogue(name: str):
    nodes = [
        op(kind, [[n, []] if n >= 50 else tensor(n) for n in sources], out, tensor(out)[1])
        for kind, sources, out in ACTIVATION_NODES[name]
    ]
    last = ACTIVATION_NODES[name][-1][2]
    first, second = kernels(conv(IMAGE, 1), *nodes, conv(tensor(last), 20))
    exponential = name in ("gelu", "mish")
    assert (first.epilogue, second.inputs) == (("silu" if exponential else "relu",), (0,))


def test_a_branch_that_leaves_the_activation_keeps_it_apart():
    gate = op("Sigmoid", [tensor(1)], 2, tensor(2)[1])
    result = kernels(conv(IMAGE, 1), gate, op("Mul", [tensor(1), tensor(2)], 3, tensor(3)[1]), conv(tensor(2), 4))
    assert [k.op for k in result] == ["conv", "pointwise", "conv"]


def weighted(name: str, weight: list[int], out: list[int], **attributes: Any) -> Kernel:
    (kernel,) = kernels(op(name, [IMAGE, [50, weight]], 1, out, **attributes))
    return kernel


def test_a_convolution_that_is_not_square_keeps_operations_weights_and_bytes():
    kernel = weighted("Conv", [24, 16, 1, 7], [1, 24, 32, 32], strides=[1, 1], pads=[0, 3, 0, 3])
    assert kernel_flops(kernel) == 2 * 16 * 7 * 24 * 32 * 32
    assert kernel_params(kernel) == 16 * 7 * 24 + 24
    assert 0 <= kernel_reads(kernel) - 16 * 32 * 32 < 16 * 7
    assert kernel_activations(kernel) == 24 * 32 * 32


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (4, 2), (3, 2), (3, 1)])
def test_a_transposed_convolution_counts_each_input_position_once_a_tap(size: int, stride: int):
    kernel = weighted("ConvTranspose", [16, 8, size, size], [1, 8, 32 * stride, 32 * stride], strides=[stride, stride])
    assert kernel_flops(kernel) == 2 * 16 * 8 * size**2 * 32 * 32
    if size % stride == 0:
        assert kernel_activations(kernel) == 8 * (32 * stride) ** 2


@pytest.mark.parametrize(("image", "weight"), [([1, 16, 100], [16, 1, 9]), ([1, 16, 20, 20], [16, 1, 1, 9])])
def test_a_depthwise_convolution_that_is_not_square_is_one_of_as_many_taps(image: list[int], weight: list[int]):
    (kernel,) = kernels(
        op("Reshape", [IMAGE], 50, image),
        op("Conv", [[50, image], [51, weight]], 1, image, strides=[1] * (len(image) - 2), group=16),
    )
    assert (kernel.kernel, kernel.groups) == (3, 16)
    assert kernel_flops(kernel) == 2 * 9 * math.prod(image)
    assert kernel_reads(kernel) == kernel_activations(kernel) == math.prod(image)


def test_the_cost_of_a_depthwise_line_is_that_of_its_own_taps():
    nodes = [op("Conv", [IMAGE, [50, [16, 1, 1, 7]]], 1, IMAGE[1], group=16, pads=[0, 3, 0, 3])]
    cost = fuse(read_json({"input": IMAGE[1], "nodes": nodes})).cost
    assert (cost.flops, cost.params) == (2 * 7 * math.prod(IMAGE[1]), 16 * 7 + 16)


@pytest.mark.parametrize(
    ("equation", "left", "right", "out"),
    [
        ("bchw,dc->bdhw", [1, 16, 32, 32], [24, 16], [1, 24, 32, 32]),
        ("bchw,bchk -> bcwk", [1, 16, 32, 32], [1, 16, 32, 8], [1, 16, 32, 8]),
    ],
)
def test_an_einsum_of_two_operands_has_the_operations_of_its_axes(equation: str, left: Any, right: Any, out: Any):
    (kernel,) = kernels(op("Einsum", [[0, left], [50, right]], 1, out, equation=equation))
    summed = {"bchw,dc->bdhw": 16}.get(equation, 32)
    assert kernel_flops(kernel) == 2 * math.prod(out) * summed
    assert kernel_activations(kernel) == math.prod(out)


def test_an_einsum_of_two_computed_tensors_is_their_product():
    read, by, out = [1, [1, 16, 32, 32]], [2, [1, 16, 32, 32]], [1, 16, 32, 32]
    before = [op("Relu", [IMAGE], 1, read[1]), op("Softmax", [IMAGE], 2, by[1])]
    *_, product = kernels(*before, op("MatMul", [read, by], 3, out))
    *_, einsum = kernels(*before, op("Einsum", [read, by], 3, out, equation="bcij,bcjk->bcik"))
    assert replace(einsum, name="") == replace(product, name="")
    assert (einsum.groups, einsum.inputs) == (16, (0, 1))


@pytest.mark.parametrize("equation", ["bchw->bc", "bchw,bchw,bchw->b", "...c,c->...", "bchw,bchw->bxyz", "", 3])
def test_an_einsum_that_is_no_product_of_two_is_refused(equation: Any):
    with pytest.raises(MaenasError, match="Einsum node"):
        kernels(op("Einsum", [IMAGE, [50, IMAGE[1]]], 1, [1, 16, 32, 32], equation=equation))


def test_a_product_with_a_vector_has_one_column():
    (kernel,) = kernels(op("MatMul", [IMAGE, [50, [32]]], 1, [1, 16, 32]))
    assert kernel_flops(kernel) == 2 * 16 * 32 * 32
    assert kernel_activations(kernel) == 16 * 32


def test_constants_may_stand_on_the_left_of_a_product():
    (kernel,) = kernels(op("MatMul", [[50, [8, 32]], IMAGE], 1, [1, 16, 8, 32]))
    assert kernel_flops(kernel) == 2 * 8 * 32 * 32 * 16
    assert kernel.groups == 1


def test_normalisations_pools_and_reductions_move_bytes_only():
    whole, small = tensor(1)[1], [1, 16, 1, 1]
    for name, out in (("LayerNormalization", whole), ("GlobalAveragePool", small), ("ReduceMean", small)):
        (kernel,) = kernels(op(name, [IMAGE], 1, out))
        assert kernel_flops(kernel) == 0
        assert kernel_activations(kernel) == 16 * out[2] * out[3]


def test_padding_before_a_convolution_is_free():
    wide = [1, [1, 16, 34, 34]]
    (kernel,) = kernels(op("Pad", [IMAGE], 1, wide[1]), conv(wide, 2))
    assert (kernel.op, kernel.in_height, kernel.inputs) == ("conv", 34, (-1,))


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
