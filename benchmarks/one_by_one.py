"""Which operators does ONNX Runtime compute one element after the other on this CPU? Nanoseconds an element of each.

Usage: python benchmarks/one_by_one.py [--rounds 25]

Every operator is a file of its own that reads one image of 64 x 56 x 56; thread CPU time, one thread, the median.
The image has as many negative numbers as positive ones, for PRelu branches on the sign: on positive ones alone, as a
profile's backend feeds them, it takes a tenth. `maenas.latency.onnx.predict.ONE_BY_ONE` has those that take more than a
nanosecond. Prints a table, writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 64, 56, 56)
PLAIN = (
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Gelu", "Erf", "Exp", "Softsign"),
    *("Softplus", "Mish", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sqrt", "Log", "Sin", "Cos", "PRelu"),
)
MOVES = {"DepthToSpace": (1, 16, 112, 112), "SpaceToDepth": (1, 256, 28, 28)}


def nanoseconds(op: str, rounds: int) -> float:
    """Median time of `op`, an element."""
    slope = [numpy_helper.from_array(np.full((SHAPE[1], 1, 1), 0.25, np.float32), "slope")] if op == "PRelu" else []
    attributes = {"blocksize": 2} if op in MOVES else {}
    node = helper.make_node(op, ["x", *(tensor.name for tensor in slope)], ["y"], **attributes)
    shapes = {"x": SHAPE, "y": MOVES.get(op, SHAPE)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], op, values[:1], values[1:], slope)
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
    return statistics.median(times[3:]) * 1e9 / np.prod(SHAPE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    for op, value in sorted(((op, nanoseconds(op, rounds)) for op in (*PLAIN, *MOVES)), key=lambda row: -row[1]):
        print(f"{op:<16}{value:6.2f} ns")


if __name__ == "__main__":
    main()
