"""Graphs that compute their own shapes have the kernels of those with fixed ones, and no file makes a large tensor."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maenas.errors import MaenasError
from maenas.latency.onnx.lower import lower_onnx
from maenas.latency.onnx.predict import predict_graph
from maenas.latency.predictor import load_predictor

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SIDE = 32


def constant(name: str, values: Any) -> Any:
    return numpy_helper.from_array(np.asarray(values), name)


WEIGHTS = [
    constant("w1", np.zeros((8, 3, 3, 3), np.float32)),
    constant("w2", np.zeros((16, 8, 3, 3), np.float32)),
    *(constant(f"i{axis}", np.int64(axis)) for axis in range(4)),
    constant("two", np.array([2], np.int64)),
    constant("rest", np.array([-1], np.int64)),
    constant("zero", np.array([0], np.int64)),
    constant("nothing", np.zeros(0, np.float32)),
]


def conv(source: str, weight: str, out: str) -> Any:
    return helper.make_node("Conv", [source, weight], [out], pads=[1, 1, 1, 1], kernel_shape=[3, 3])


def sizes_of(source: str, prefix: str) -> list[Any]:
    """Nodes that take the four sides of `source` apart: `prefix`0 to `prefix`3, one-dimensional."""
    nodes = [helper.make_node("Shape", [source], [f"{prefix}s"])]
    for axis in range(4):
        nodes.append(helper.make_node("Gather", [f"{prefix}s", f"i{axis}"], [f"{prefix}g{axis}"]))
        nodes.append(helper.make_node("Unsqueeze", [f"{prefix}g{axis}", "zero"], [f"{prefix}{axis}"]))
    return nodes


def dynamic_network() -> list[Any]:
    """conv, resize to twice its own size, conv, flattened and back, each by shapes that are computed."""
    return [
        conv("x", "w1", "a"),
        *sizes_of("a", "p"),
        helper.make_node("Mul", ["p2", "two"], ["h"]),
        helper.make_node("Mul", ["p3", "two"], ["w"]),
        helper.make_node("Concat", ["p0", "p1", "h", "w"], ["size"], axis=0),
        helper.make_node("Resize", ["a", "", "", "size"], ["b"], mode="nearest"),
        conv("b", "w2", "c"),
        *sizes_of("c", "q"),
        helper.make_node("Concat", ["q0", "q1", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["c", "flat"], ["d"]),
        helper.make_node("Concat", ["q0", "q1", "q2", "q3"], ["back"], axis=0),
        helper.make_node("Reshape", ["d", "back"], ["y"]),
        conv("y", "w3", "z"),
    ]


def fixed_network() -> list[Any]:
    return [
        conv("x", "w1", "a"),
        helper.make_node("Resize", ["a", "", "", "size"], ["b"], mode="nearest"),
        conv("b", "w2", "c"),
        conv("c", "w3", "z"),
    ]


def older(nodes: list[Any]) -> list[Any]:
    """The same for opsets before 13: `Unsqueeze` has its axes as an attribute, `Resize` leaves nothing out."""
    found = []
    for node in nodes:
        inputs = [name or "nothing" for name in node.input]
        if node.op_type == "Unsqueeze":
            found.append(helper.make_node("Unsqueeze", inputs[:1], node.output, axes=[0]))
        else:
            found.append(node)
            node.input[:] = inputs
    return found


def save(path: Path, nodes: list[Any], shape: list[Any], extra: list[Any], opset: int = 17) -> Path:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [*WEIGHTS, *extra])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 21])
def test_a_graph_that_computes_its_shapes_has_the_kernels_of_one_with_fixed_shapes(tmp_path: Path, opset: int) -> None:
    w3 = constant("w3", np.zeros((4, 16, 3, 3), np.float32))
    size = constant("size", np.array([1, 8, 2 * SIDE, 2 * SIDE], np.int64))
    nodes = dynamic_network() if opset > 12 else older(dynamic_network())
    dynamic = save(tmp_path / "dynamic.onnx", nodes, ["n", 3, "h", "w"], [w3], opset)
    fixed = save(tmp_path / "fixed.onnx", fixed_network(), [1, 3, SIDE, SIDE], [w3, size])
    ours, theirs = lower_onnx(dynamic, sides=(SIDE, SIDE)), lower_onnx(fixed)
    assert not ours.untimed
    assert not ours.stand_ins

    def sizes(lowered: Any) -> list[tuple]:
        return [(k.op, k.in_channels, k.out_channels, k.in_height, k.out_height, k.kernel) for k in lowered.kernels]

    assert sizes(ours) == sizes(theirs)


def padded_as_needed() -> list[Any]:
    """A convolution of stride 2 as TensorFlow pads it: max(0, 2 (ceil(side / 2) - 1) + 3 - side) rows and columns."""
    steps = [("Div", "two_f"), ("Ceil", ""), ("Sub", "one_f"), ("Mul", "two_f"), ("Add", "three_f"), ("Sub", "side")]
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "i2"], ["g"]),
        helper.make_node("Cast", ["g"], ["side"], to=TensorProto.FLOAT),
    ]
    last = "side"
    for number, (op, other) in enumerate(steps):
        nodes.append(helper.make_node(op, [last, *([other] if other else [])], [f"t{number}"]))
        last = f"t{number}"
    return [
        *nodes,
        helper.make_node("Clip", [last, "zero_f"], ["total"]),
        helper.make_node("Cast", ["total"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["whole", "zero"], ["end"]),
        helper.make_node("Concat", ["no", "end", "end"], ["pads"], axis=0),
        *padded(),
    ]


def padded() -> list[Any]:
    strided = helper.make_node("Conv", ["p", "w1"], ["a"], kernel_shape=[3, 3], strides=[2, 2])
    return [helper.make_node("Pad", ["x", "pads"], ["p"]), strided]


def test_pads_that_a_graph_computes_are_known(tmp_path: Path) -> None:
    numbers = {"zero_f": 0.0, "one_f": 1.0, "two_f": 2.0, "three_f": 3.0}
    extra = [constant(name, np.float32(value)) for name, value in numbers.items()]
    extra.append(constant("no", np.zeros(6, np.int64)))
    pads = constant("pads", np.array([0] * 6 + [1, 1], np.int64))
    ours = lower_onnx(save(tmp_path / "computed.onnx", padded_as_needed(), [1, 3, SIDE, SIDE], extra))
    theirs = lower_onnx(save(tmp_path / "fixed.onnx", padded(), [1, 3, SIDE, SIDE], [pads]))
    assert not ours.untimed
    assert [(k.op, k.in_height, k.out_height) for k in ours.kernels] == [
        (k.op, k.in_height, k.out_height) for k in theirs.kernels
    ]


def test_a_convolution_that_cannot_be_timed_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """NonZero has as many columns as the image has pixels that are not zero."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("NonZero", ["a"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["f", "zero"], ["u"]),
        helper.make_node("Conv", ["u", "line"], ["y"]),
    ]
    line = constant("line", np.zeros((4, 4, 1), np.float32))
    lowered = lower_onnx(save(tmp_path / "net.onnx", nodes, [1, 3, SIDE, SIDE], [line]))
    assert "Conv" in lowered.untimed
    with pytest.raises(MaenasError, match=r"1 Conv .*NonZero.*--input.*fixed sizes"):
        predict_graph(lowered, load_predictor("t4"))


FUZZ = """
import random, resource, sys
from pathlib import Path
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
import onnx.reference
from maenas.errors import MaenasError
from maenas.latency.onnx.node_graph import read_onnx

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
INTS = [0, 1, 2, 3, -1, 1000, 2**20, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1]
OPS = {"Range": 3, "ConstantOfShape": 1, "Expand": 2, "Tile": 2, "Concat": 2, "Mul": 2, "Add": 2, "Reshape": 2,
       "Gather": 2, "Unsqueeze": 2, "Div": 2, "Shape": 1, "Slice": 3, "Cast": 1, "ScatterND": 3, "CumSum": 2}

def graph(rng):
    names = [f"c{i}" for i in range(8)]
    constants = [numpy_helper.from_array(np.array(
        rng.choice(INTS) if rng.random() < 0.5 else [rng.choice(INTS) for _ in range(rng.randint(1, 3))], np.int64), n)
        for n in names]
    nodes = []
    for number in range(rng.randint(1, 40)):
        op = rng.choice(list(OPS))
        extra = {"axis": 0} if op == "Concat" else {"to": 7} if op == "Cast" else {}
        repeat = rng.choice(names)
        inputs = [repeat if rng.random() < 0.3 else rng.choice(names) for _ in range(OPS[op])]
        nodes.append(helper.make_node(op, inputs, [f"t{number}"], **extra))
        names.append(f"t{number}")
    nodes.append(helper.make_node("Reshape", ["x", names[-1]], ["y"]))
    info = helper.make_tensor_value_info
    g = helper.make_graph(nodes, "g", [info("x", 1, [1, 3, 8, 8])], [info("y", 1, None)], constants)
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)])

def doubling(count):
    one = numpy_helper.from_array(np.array([1], np.int64), "t0")
    nodes = [helper.make_node("Concat", [f"t{i}", f"t{i}"], [f"t{i+1}"], axis=0) for i in range(count)]
    nodes.append(helper.make_node("Reshape", ["x", f"t{count}"], ["y"]))
    info = helper.make_tensor_value_info
    g = helper.make_graph(nodes, "g", [info("x", 1, [1, 3, 8, 8])], [info("y", 1, None)], [one])
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)])

path, refused = Path(sys.argv[1]), 0
for seed in range(int(sys.argv[2])):
    onnx.save(doubling(45) if seed == 0 else graph(random.Random(seed)), path)
    try:
        read_onnx(path)
    except MaenasError:
        refused += 1
print("done", refused)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_no_graph_makes_a_large_constant(tmp_path: Path) -> None:
    """Ranges of 2^40 elements, concats that double 45 times and the like, with 1 GiB to spare."""
    command = [sys.executable, "-c", FUZZ, str(tmp_path / "net.onnx"), "400"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("done")
