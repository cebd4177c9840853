"""Legal files that few tools write: what they compute is counted, whatever form it has."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maenas.cost import kernel_flops, kernel_params
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.onnx.apart import IN_PLACE
from maenas.latency.onnx.lower import Lowered, lower_onnx
from maenas.latency.onnx.predict import predict_graph
from maenas.latency.predictor import load_predictor

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, external_data_helper, helper, numpy_helper  # noqa: E402

ORT = "cpu-epyc-zen4-onnxruntime-t1-fp32-b1"
SAME = [1, 1, 1, 1]


def value(name: str, shape: list | None) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def weights(name: str, *shape: int) -> Any:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def integers(name: str, values: list[int]) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def lowered(
    tmp_path: Path,
    nodes: list[Any],
    inputs: dict[str, list],
    constants: list[Any],
    *,
    outputs: dict[str, list | None] | None = None,
    known: dict[str, list] | None = None,
    functions: list[Any] | None = None,
    domains: tuple[tuple[str, int], ...] = (("", 17),),
    sides: tuple[int, int] | None = None,
) -> Lowered:
    last = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, shape) for name, shape in inputs.items()],
        [value(name, shape) for name, shape in (outputs or {last: None}).items()],
        constants,
        value_info=[value(name, shape) for name, shape in (known or {}).items()],
    )
    opsets = [helper.make_opsetid(*domain) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions or [])
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return lower_onnx(path, sides=sides)


def flops(found: Lowered) -> int:
    return sum(int(kernel_flops(kernel)) for kernel in found.kernels if kernel.op in ("conv", "matmul"))


def elements(kernel: Kernel) -> int:
    """Read and written."""
    read = int(kernel.in_channels) * kernel.in_height * kernel.in_width
    return read + int(kernel.out_channels) * kernel.out_height * kernel.out_width


@pytest.mark.parametrize("terms", [2, 3, 9])
def test_onnx_runtime_reads_all_terms_of_a_sum_one_after_the_other(tmp_path: Path, terms: int) -> None:
    inputs = {f"x{number}": [1, 64, 32, 32] for number in range(terms)}
    adds = [
        helper.make_node("Add", ["x0" if number == 1 else f"s{number - 1}", f"x{number}"], [f"s{number}"])
        for number in range(1, terms)
    ]
    chain = lowered(tmp_path, adds, inputs, [])
    assert len(chain.kernels) == 1
    first, *passes = predict_graph(chain, load_predictor(ORT)).lowered.kernels
    assert elements(first) == 3 * 64 * 32 * 32
    assert [elements(kernel) for kernel in passes] == [round(IN_PLACE * 64) * 3 * 32 * 32] * (terms - 2)


def test_a_gate_on_a_map_moves_the_map(tmp_path: Path) -> None:
    """The sigmoid of one number a channel comes first; what multiplies the map with it is no part of that."""
    nodes = [
        helper.make_node("Sigmoid", ["gate"], ["s"]),
        helper.make_node("Mul", ["map", "s"], ["y"]),
    ]
    found = lowered(tmp_path, nodes, {"gate": [1, 64, 1, 1], "map": [1, 64, 56, 56]}, [])
    assert [elements(kernel) for kernel in found.kernels] == [2 * 64, pytest.approx(64 + 2 * 64 * 56 * 56, rel=1e-3)]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0]])
def test_nodes_may_be_listed_in_any_order(tmp_path: Path, order: list[int]) -> None:
    """As runtimes take them: the float16 converter of ONNX Runtime puts the casts of inputs and outputs at the end."""
    branch = helper.make_graph([helper.make_node("Identity", ["c"], ["b"])], "b", [], [value("b", None)])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"], pads=SAME),
        helper.make_node("If", ["sure"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Conv", ["i", "w"], ["y"], pads=SAME),
    ]
    constants = [weights("w", 8, 8, 3, 3), numpy_helper.from_array(np.array(True), "sure")]
    listed = [nodes[number] for number in order]
    outputs: dict[str, list | None] = {"y": None}
    found = lowered(tmp_path, listed, {"x": [1, 8, 16, 16]}, constants, outputs=outputs)
    assert [kernel.op for kernel in found.kernels] == ["pointwise", "conv", "pointwise", "conv"]
    assert not found.untimed


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (helper.make_node("Own", ["x"], ["y"], domain="own"), "own::Own.*state the shape of its result"),
        (helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft"), "FusedConv.*Export with plain"),
        (helper.make_node("NonZero", ["x"], ["y"]), "NonZero.*with --input"),
    ],
)
def test_a_refusal_says_what_helps_against_the_operator_to_blame(tmp_path: Path, node: Any, told: str) -> None:
    nodes = [node, helper.make_node("Conv", ["y", "w"], ["z"], pads=SAME)]
    domains = (("", 17), ("own", 1), ("com.microsoft", 1))
    found = lowered(tmp_path, nodes, {"x": [1, 8, 16, 16]}, [weights("w", 8, 8, 3, 3)], domains=domains)
    with pytest.raises(MaenasError, match=told):
        predict_graph(found, load_predictor("t4"))


def test_a_layer_normalisation_in_parts_is_one_in_one_operator(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["x", "mean"], ["d"]),
        helper.make_node("Pow", ["d", "two"], ["d2"]),
        helper.make_node("ReduceMean", ["d2"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["ve"]),
        helper.make_node("Sqrt", ["ve"], ["s"]),
        helper.make_node("Div", ["d", "s"], ["n"]),
        helper.make_node("Mul", ["n", "gamma"], ["g"]),
        helper.make_node("Add", ["g", "beta"], ["y"]),
        helper.make_node("MatMul", ["y", "W"], ["z"]),
    ]
    constants = [weights("two", 1), weights("eps", 1), weights("gamma", 384), weights("beta", 384)]
    parts = lowered(tmp_path, nodes, {"x": [1, 197, 384]}, [*constants, weights("W", 384, 384)])
    whole = [helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["y"], axis=-1), nodes[-1]]
    one = lowered(tmp_path, whole, {"x": [1, 197, 384]}, [*constants[2:], weights("W", 384, 384)])
    assert [kernel.op for kernel in parts.kernels] == [kernel.op for kernel in one.kernels] == ["pointwise", "matmul"]
    assert list(map(elements, parts.kernels)) == list(map(elements, one.kernels))
    again = [*nodes[:-1], helper.make_node("Mul", ["y", "d"], ["z"])]  # its difference is needed elsewhere, too
    assert len(lowered(tmp_path, again, {"x": [1, 197, 384]}, constants).kernels) > 3


def test_a_network_of_nothing_that_has_a_model_has_no_latency(tmp_path: Path) -> None:
    node = helper.make_node("GridSample", ["x", "g"], ["y"])
    found = lowered(tmp_path, [node], {"x": [1, 16, 32, 32], "g": [1, 32, 32, 2]}, [])
    with pytest.raises(MaenasError, match="the network has no latency: 100% of it would be guessed"):
        predict_graph(found, load_predictor(ORT))


@pytest.mark.parametrize("version", [16, 17, 18])
def test_a_function_of_another_opset_is_opened_too(tmp_path: Path, version: int) -> None:
    inner = helper.make_node("Conv", ["X", "V2"], ["Y"], pads=SAME)
    block = helper.make_function("pkg", "Block", ["X", "V2"], ["Y"], [inner], [helper.make_opsetid("", version)])
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["a"], pads=SAME),
        helper.make_node("Block", ["a", "V"], ["b"], domain="pkg"),
    ]
    constants = [weights("W", 64, 3, 3, 3), weights("V", 64, 64, 3, 3)]
    inputs = {"x": [1, 3, 64, 64]}
    found = lowered(tmp_path, nodes, inputs, constants, functions=[block], domains=(("", 17), ("pkg", 1)))
    assert flops(found) == 2 * 64 * 64 * 64 * 9 * (3 + 64)
    assert not found.stand_ins


TWO = [
    helper.make_node("Conv", ["x", "W"], ["a"], pads=SAME),
    helper.make_node("Conv", ["a", "V"], ["b"], pads=SAME),
]
TWO_WEIGHTS = [weights("W", 64, 3, 3, 3), weights("V", 64, 64, 3, 3)]


def test_sizes_follow_from_the_input_and_not_from_what_the_file_says_of_its_results(tmp_path: Path) -> None:
    """The sizes of a file whose input was opened after it was exported, and ones below zero."""
    stale = {"a": [1, 64, 224, 224]}
    inputs, outputs = {"x": ["N", 3, "H", "W"]}, {"b": ["N", 64, "H", "W"]}
    found = lowered(tmp_path, TWO, inputs, TWO_WEIGHTS, outputs=outputs, known=stale, sides=(320, 256))
    assert flops(found) == 2 * 320 * 256 * 64 * 9 * (3 + 64)
    below = lowered(tmp_path, TWO, {"x": [-1, 3, 64, 64]}, TWO_WEIGHTS, outputs={"b": [-1, 64, 64, 64]})
    assert flops(below) == 2 * 64 * 64 * 64 * 9 * (3 + 64)


def test_what_nothing_infers_has_the_size_that_the_file_says(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["nz"]),
        helper.make_node("Reshape", ["x", "nz"], ["r"]),
        helper.make_node("Conv", ["r", "W"], ["y"], pads=SAME),
    ]
    found = lowered(tmp_path, nodes, {"x": [1, 3, 64, 64]}, [weights("W", 64, 3, 3, 3)], known={"r": [1, 3, 64, 64]})
    assert flops(found) == 2 * 64 * 64 * 64 * 27


@pytest.mark.parametrize(
    ("op", "more"), [("GroupNormalization", ["scale", "shift"]), ("MeanVarianceNormalization", [])]
)
def test_normalisations_keep_the_size(tmp_path: Path, op: str, more: list[str]) -> None:
    settings = {"num_groups": 8} if more else {}
    nodes = [TWO[0], helper.make_node(op, ["a", *more], ["n"], **settings), helper.make_node("Conv", ["n", "V"], ["b"])]
    constants = [*TWO_WEIGHTS, *(weights(name, 64) for name in more)]
    found = lowered(tmp_path, nodes, {"x": [1, 3, "h", "w"]}, constants, domains=(("", 21),), sides=(64, 64))
    assert [kernel.op for kernel in found.kernels] == ["conv", "pointwise", "conv"]


@pytest.mark.parametrize(
    ("shape", "perm"), [(["c3", "h", "w"], [0, 1, 2]), (["h", "w", "c3"], [2, 0, 1]), (["n", "c3", "h", "w"], None)]
)
def test_height_and_width_of_an_input_go_where_its_image_has_them(tmp_path: Path, shape: list, perm: Any) -> None:
    shape = [3 if side == "c3" else side for side in shape]
    head = []
    if perm is not None:
        head = [
            helper.make_node("Transpose", ["x"], ["t"], perm=perm),
            helper.make_node("Unsqueeze", ["t", "z"], ["u"]),
        ]
    nodes = [*head, helper.make_node("Conv", ["u" if head else "x", "W"], ["y"], pads=SAME)]
    constants = [weights("W", 64, 3, 3, 3), *([integers("z", [0])] if head else [])]
    found = lowered(tmp_path, nodes, {"x": shape}, constants, sides=(48, 64))
    (conv,) = (kernel for kernel in found.kernels if kernel.op == "conv")
    assert (conv.out_height, conv.out_width) == (48, 64)


def test_films_have_their_image_last_and_tokens_have_none(tmp_path: Path) -> None:
    film = helper.make_node("Conv", ["x", "W"], ["y"], pads=[1] * 6)
    found = lowered(tmp_path, [film], {"x": ["n", 3, 16, "h", "w"]}, [weights("W", 8, 3, 3, 3, 3)], sides=(48, 64))
    assert flops(found) == 2 * 8 * 3 * 27 * 16 * 48 * 64
    product = helper.make_node("MatMul", ["x", "W"], ["y"])
    tokens = lowered(tmp_path, [product], {"x": ["n", "length", 96]}, [weights("W", 96, 8)], sides=(48, 64))
    assert flops(tokens) == 2 * 48 * 96 * 8


def test_an_input_contradicts_only_where_no_image_is_of_its_size(tmp_path: Path) -> None:
    nodes = [TWO[0], helper.make_node("Mul", ["a", "mask"], ["y"])]
    inputs = {"x": ["N", 3, "H", "W"], "mask": [1, 64, 1, 1]}
    assert flops(lowered(tmp_path, nodes, inputs, TWO_WEIGHTS[:1], sides=(64, 96))) == 2 * 64 * 96 * 64 * 27
    with pytest.raises(MaenasError, match="an input of 32x32 contradicts it"):
        lowered(tmp_path, TWO[:1], {"x": [3, 224, 224]}, TWO_WEIGHTS[:1], sides=(32, 32))


def test_a_constant_of_several_matrices_has_all_of_them(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "W"], ["y"])
    found = lowered(tmp_path, [node], {"x": [64, 1, 128]}, [weights("W", 64, 128, 96)])
    assert flops(found) == 2 * 64 * 128 * 96
    assert int(kernel_params(found.kernels[0])) >= 64 * 128 * 96
    shared = lowered(tmp_path, [node], {"x": [64, 5, 128]}, [weights("W", 128, 96)])
    assert int(kernel_params(shared.kernels[0])) < 2 * 128 * 96
    assert flops(shared) == 2 * 64 * 5 * 128 * 96


@pytest.mark.parametrize(
    ("equation", "shapes", "depth"),
    [
        ("...ij,...jk->...ik", ([8, 16, 32], [8, 32, 24]), 32),
        ("bij,bjk", ([8, 16, 32], [8, 32, 24]), 8 * 32),  # the result has what only one operand has
        ("bij,jk->bik", ([8, 16, 32], [32, 24]), 32),
        ("bhqd,bhkd->bhqk", ([1, 4, 16, 32], [1, 4, 24, 32]), 32),
        ("ij,jk", ([16, 32], [32, 24]), 32),
        ("bij,jk->bk", ([8, 16, 32], [32, 24]), 32),
    ],
)
def test_every_form_of_a_product_is_one(
    tmp_path: Path, equation: str, shapes: tuple[list[int], list[int]], depth: int
) -> None:
    node = helper.make_node("Einsum", ["a", "b"], ["y"], equation=equation)
    found = lowered(tmp_path, [node], {"a": shapes[0], "b": shapes[1]}, [])
    result = np.einsum(equation, *(np.ones(shape, np.float32) for shape in shapes))
    assert flops(found) == 2 * depth * result.size
    (kernel,) = found.kernels
    assert int(kernel.out_channels) * kernel.out_height * kernel.out_width == result.size


def test_an_equation_of_one_operand_is_a_copy(tmp_path: Path) -> None:
    node = helper.make_node("Einsum", ["a"], ["y"], equation="bchw->bhwc")
    (kernel,) = lowered(tmp_path, [node], {"a": [1, 8, 16, 32]}, []).kernels
    assert (kernel.op, elements(kernel)) == ("concat", 2 * math.prod([8, 16, 32]))


def test_the_operator_to_blame_is_the_one_whose_size_the_product_lacks(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["nz"]),
        helper.make_node("Conv", ["x", "W"], ["a"], pads=SAME),
        helper.make_node("Resize", ["a", "", "", "size"], ["r"]),
        helper.make_node("Relu", ["r"], ["q"]),
        helper.make_node("Conv", ["q", "V"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", [1, 3, 64, 64]), helper.make_tensor_value_info("size", TensorProto.INT64, [4])],
        [value("y", None)],
        TWO_WEIGHTS,
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    with pytest.raises(MaenasError, match=r"1 Conv are not known\. .* depends on data is Resize"):
        predict_graph(lower_onnx(path), load_predictor("t4"))


def test_what_takes_a_type_only_reads_nothing(tmp_path: Path) -> None:
    nodes = [TWO[0], helper.make_node("CastLike", ["c", "a"], ["d"]), helper.make_node("Mul", ["a", "d"], ["y"])]
    found = lowered(tmp_path, nodes, {"x": [1, 3, 64, 64]}, [TWO_WEIGHTS[0], weights("c", 1)], domains=(("", 19),))
    assert [kernel.op for kernel in found.kernels] == ["conv"]


@pytest.mark.parametrize("there", [True, False])
def test_small_numbers_outside_of_the_file_are_read_and_a_bias_is_not_missed(tmp_path: Path, there: bool) -> None:
    """The scales of a Resize decide on sizes; a bias decides on nothing."""
    nodes = [
        helper.make_node("Conv", ["x", "W", "bias"], ["a"], pads=SAME),
        *([helper.make_node("Resize", ["a", "", "scales"], ["r"])] if there else []),
        helper.make_node("Conv", ["r" if there else "a", "V"], ["y"], pads=SAME),
    ]
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    outside = scales if there else weights("bias", 64)
    (tmp_path / "data.bin").write_bytes(outside.raw_data)
    size = len(outside.raw_data)
    external_data_helper.set_external_data(outside, "data.bin", 0, size)
    outside.ClearField("raw_data")
    if not there:
        (tmp_path / "data.bin").unlink()
    constants = [*TWO_WEIGHTS, outside, *([weights("bias", 64)] if there else [])]
    found = lowered(tmp_path, nodes, {"x": [1, 3, 32, 32]}, constants)
    factor = 4 if there else 1
    assert flops(found) == 2 * 32 * 32 * 64 * 9 * (3 + 64 * factor)
