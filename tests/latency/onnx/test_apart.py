"""What ONNX Runtime computes apart from convolutions on a CPU is what its own optimised graphs have there."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maenas.latency.onnx.apart import as_run
from maenas.latency.onnx.lower import lower_onnx
from maenas.latency.predictor import load_predictor

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CHANNELS, SIDE = 32, 24
TABLE = "cpu-epyc-zen4-onnxruntime-t1-fp32-b1"
EACH = np.linspace(0.5, 1, CHANNELS, dtype=np.float32)
VALUES = {"zero": 0, "three": 3, "six": 6, "half": 0.5, "k": 1.7, "root": 2**0.5, "1": 1}
CONSTANTS = {
    **{name: np.float32(value) for name, value in VALUES.items()},
    **{"one": np.float32([1.5]), "each": EACH, "c11": EACH[:, None, None], "1c11": EACH[None, :, None, None]},
}

Way = list[tuple[Any, ...]]  # (operator, inputs, output, attributes); the convolution writes x, the next one reads y
HARD_SWISH: Way = [("Add", "x three", "a"), ("Clip", "a zero six", "b"), ("Mul", "x b", "c"), ("Div", "c six", "y")]
SCALED: Way = [("Mul", "x one", "a"), ("Add", "a one", "b"), ("HardSwish", "b", "c"), ("Mul", "c one", "y")]
GELU: Way = [
    ("Div", "x root", "a"),
    ("Erf", "a", "b"),
    ("Add", "b 1", "c"),
    ("Mul", "x c", "d"),
    ("Mul", "d half", "y"),
]
SILU: Way = [("Sigmoid", "x", "a"), ("Mul", "x a", "y")]
WAYS: dict[str, Way] = {
    **{op: [(op, "x", "y")] for op in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish")},
    **{op: [(op, "x", "y")] for op in ("Abs", "Exp", "Sqrt", "Neg")},
    "clip": [("Clip", "x zero six", "y")],
    "hard swish of two": [("HardSigmoid", "x", "a", {"alpha": 1 / 6}), ("Mul", "x a", "y")],
    "no hard swish": [("HardSigmoid", "x", "a"), ("Mul", "x a", "y")],
    "hard swish of four": HARD_SWISH,
    "hard sigmoid of three": [("Add", "x three", "a"), ("Clip", "a zero six", "b"), ("Div", "b six", "y")],
    "scaled": SCALED,
    "batch norm": [("BatchNormalization", "x each each each each", "a"), ("HardSwish", "a", "y")],
    **{f"{op} {c}": [(op, f"x {c}", "y")] for op in ("Mul", "Add", "Sub", "Div") for c in ("half", "one", "1c11")},
    **{f"{op} c11": [(op, "x c11", "y")] for op in ("Mul", "Add")},
    "relu, each": [("Relu", "x", "a"), ("Mul", "a 1c11", "y")],
    "relu, plus": [("Relu", "x", "a"), ("Add", "a 1c11", "y")],
    "relu, half": [("Relu", "x", "a"), ("Mul", "a half", "y")],
    "relu, batch norm": [("Relu", "x", "a"), ("BatchNormalization", "a each each each each", "y")],
    "relu, silu": [("Relu", "x", "a"), ("Sigmoid", "a", "b"), ("Mul", "a b", "y")],
    "relu, hard swish": [("Relu", "x", "a"), ("HardSwish", "a", "y")],
    "sum": [("Add", "x r", "y")],
    **{f"sum, {op}": [("Add", "x r", "a"), (op, "a", "y")] for op in ("Relu", "HardSwish", "LeakyRelu", "Sigmoid")},
    **{f"{op}, sum": [(op, "x", "a"), ("Add", "a r", "y")] for op in ("Relu", "HardSwish", "LeakyRelu", "Sigmoid")},
}
MEASURED: dict[str, Way] = {  # one operator there, which the kernels of a table are measured with
    "silu": SILU,
    "scaled silu": [("Mul", "x k", "a"), ("Sigmoid", "a", "b"), ("Mul", "x b", "y")],
    "sum, silu": [("Add", "x r", "a"), ("Sigmoid", "a", "b"), ("Mul", "a b", "y")],
    "gelu": GELU,
}
ENDS = [("image", "x"), ("image", "r"), ("y", "out")]
GATES = {"QuickGelu": "gate", "Gelu": "gate"}


def written(path: Path, way: Way) -> Path:
    """Two convolutions to x and r, the way from x to y, and one that reads y."""
    pads = {"pads": [1] * 4}
    convs = [("Conv", f"{source} w{n}", out, pads) for n, (source, out) in enumerate(ENDS)]
    rows = [*convs[:2], *way, convs[2]]
    nodes = [helper.make_node(op, inputs.split(), [out], **dict(*rest)) for op, inputs, out, *rest in rows]
    rng = np.random.default_rng(0)
    weights = {f"w{n}": rng.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32) for n in range(3)}
    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in {**CONSTANTS, **weights}.items()]
    shape = [1, CHANNELS, SIDE, SIDE]
    image, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "out"))
    graph = helper.make_graph(nodes, "g", [image], [out], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def ran(path: Path) -> Counter[str]:
    """The operators of the graph that ONNX Runtime runs, but for convolutions and the layouts of image and result."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    found = Counter(GATES.get(node.op_type, node.op_type) for node in nodes)
    found.subtract({"ReorderInput": 1, "ReorderOutput": 1, "Conv": min(found["Conv"], len(ENDS))})
    return +found


@pytest.mark.parametrize("name", [*WAYS, *MEASURED])
def test_what_is_computed_apart_is_what_onnx_runtime_runs(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "net.onnx", {**WAYS, **MEASURED}[name])
    lowered = lower_onnx(path)
    apart = as_run(lowered, load_predictor(TABLE)).kernels[len(lowered.kernels) :]
    ours = Counter(kernel.name.partition(": ")[2] for kernel in apart)
    if name in MEASURED:
        ours["gate"] += 1
    assert ours == ran(path)
    assert as_run(lowered, load_predictor("t4")) is lowered
