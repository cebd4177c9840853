"""Which operators does ONNX Runtime compute one element after the other on this CPU? Nanoseconds an element of each.

Usage: python benchmarks/one_by_one.py [--rounds 25]

Every operator is a file of its own that reads one image of 64 x 56 x 56; thread CPU time, one thread, the median.
The image has as many negative numbers as positive ones, for PRelu branches on the sign: on positive ones alone, as a
profile's backend feeds them, it takes a tenth. A transposed convolution (of each channel alone, 4x4) counts by its
products, before those of one position are added up. `maenas.latency.onnx.apart.ONE_BY_ONE` has what takes longest.
Prints a table, writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 64, 56, 56)
LARGE = (1, 64, 112, 112)
PLAIN = (
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Gelu", "Erf", "Exp", "Softsign"),
    *("Softplus", "Mish", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sqrt", "Log", "Sin", "Cos"),
)
GRID = np.random.default_rng(1).uniform(-1, 1, (1, *SHAPE[2:], 2))
SCALES = [1, 1, 2, 2]


@dataclass(frozen=True)
class Case:
    """An operator with its constants, attributes and result; the time counts by `elements`, else by the result's."""

    op: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    out: tuple[int, ...] = SHAPE
    elements: int | None = None


CASES = {
    **{op: Case(op) for op in PLAIN},
    "PRelu": Case("PRelu", {"slope": np.full((64, 1, 1), 0.25)}),
    "LRN": Case("LRN", attributes={"size": 5}),
    "DepthToSpace": Case("DepthToSpace", attributes={"blocksize": 2}, out=(1, 16, 112, 112)),
    "SpaceToDepth": Case("SpaceToDepth", attributes={"blocksize": 2}, out=(1, 256, 28, 28)),
    "GridSample": Case("GridSample", {"grid": GRID}),
    **{f"{m} Resize": Case("Resize", {"": 0, "scales": SCALES}, {"mode": m}, LARGE) for m in ("linear", "cubic")},
    "ConvTranspose": Case(
        "ConvTranspose",
        {"weight": np.full((64, 1, 4, 4), 0.1)},
        {"group": 64, "strides": [2, 2], "pads": [1] * 4},
        LARGE,
        elements=16 * int(np.prod(SHAPE)),
    ),
}


def nanoseconds(case: Case, rounds: int) -> float:
    """Median time of an operator, an element."""
    node = helper.make_node(case.op, ["x", *case.constants], ["y"], **case.attributes)
    constants = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in case.constants.items() if name]
    shapes = {"x": SHAPE, "y": case.out}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], case.op, values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)}
    times = []
    for _ in range(rounds + 3):
        began = time.thread_time()
        session.run(None, feed)
        times.append(time.thread_time() - began)
    return statistics.median(times[3:]) * 1e9 / (case.elements or int(np.prod(case.out)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    for name, value in sorted(((n, nanoseconds(case, rounds)) for n, case in CASES.items()), key=lambda row: -row[1]):
        print(f"{name:<16}{value:6.2f} ns")


if __name__ == "__main__":
    main()
