"""ONNX models with random weights from lists of nodes that give operators, shapes and attributes, but no values.

A tensor that no node makes, and that is not the image, is a constant: a weight, or one of the small integers that some
operators take as inputs. Weights are random, scaled so that activations keep their size. The integers follow from the
shapes; where these leave a choice (which part of a tensor a slice takes), the parts are taken in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IMAGE = 0  # number of the tensor that the network is given
Shape = tuple[int, ...]


def model_of(graph: Mapping[str, Any], rng: np.random.Generator) -> onnx.ModelProto:
    """The model; raises `ValueError` for an operator whose inputs cannot be made up."""
    made: set[int] = {IMAGE}
    shapes: dict[int, Shape] = {IMAGE: tuple(graph["input"])}
    nodes, constants = [], {}
    taken: dict[tuple[int, int], int] = {}  # (tensor, axis): where the next slice of it begins
    for number, node in enumerate(graph["nodes"]):
        inputs = [(int(tensor), tuple(shape)) for tensor, shape in node["in"]]
        outputs = [(int(tensor), tuple(shape)) for tensor, shape in node["out"]]
        given = [tensor in made for tensor, _ in inputs]
        values = _constants(node, inputs, outputs, given, taken, rng)
        names = []
        for place, (tensor, _) in enumerate(inputs):
            name = f"t{tensor}"
            if not given[place]:
                name = f"c{number}_{place}"
                constants[name] = numpy_helper.from_array(values[place], name)
            names.append(name)
        op, names, attributes = _written(node, names, outputs)
        if op == "Resize":
            constants[f"s{number}"] = numpy_helper.from_array(np.array(outputs[0][1], np.int64), f"s{number}")
            names = [names[0], "", "", f"s{number}"]
        nodes.append(helper.make_node(op, names, [f"t{tensor}" for tensor, _ in outputs], **attributes))
        made |= {tensor for tensor, _ in outputs}
        shapes |= dict(outputs)
    used = {name for node in nodes for name in node.input}
    ends = [tensor for tensor in shapes if tensor != IMAGE and f"t{tensor}" not in used]
    used_constants = [value for name, value in constants.items() if name in used]
    values_of = {t: helper.make_tensor_value_info(f"t{t}", TensorProto.FLOAT, shapes[t]) for t in (IMAGE, *ends)}
    whole = helper.make_graph(nodes, "listed", [values_of.pop(IMAGE)], list(values_of.values()), used_constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _written(node: Mapping[str, Any], names: list[str], outputs: Sequence[tuple[int, Shape]]) -> tuple[str, list, dict]:
    """The node as this opset writes it: operator, inputs, attributes. The lists come from several opsets."""
    op, attributes = node["op"], dict(node.get("attr", {}))
    if op == "Split" and len(names) == 1:
        attributes.pop("split", None)
    if op == "ReduceMean":
        attributes = {"axes": [2, 3], "keepdims": int(len(outputs[0][1]) == 4)}
        names = names[:1]
    if op == "Transpose" and "perm" not in attributes:
        attributes["perm"] = _permutation(node["in"][0][1], node["out"][0][1])
    if op == "Resize":
        attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return op, names, attributes


def _constants(
    node: Mapping[str, Any],
    inputs: Sequence[tuple[int, Shape]],
    outputs: Sequence[tuple[int, Shape]],
    given: Sequence[bool],
    taken: dict[tuple[int, int], int],
    rng: np.random.Generator,
) -> dict[int, NDArray]:
    """Values of the inputs that are no tensors, by their place."""
    op, out = node["op"], outputs[0][1]
    places = [place for place, is_tensor in enumerate(given) if not is_tensor]
    if op == "Reshape":
        return {1: np.array(out, np.int64)}
    if op == "Split":
        axis = node.get("attr", {}).get("axis", 0)
        return {1: np.array([shape[axis] for _, shape in outputs], np.int64)}
    if op == "Slice":
        return dict(zip(places, _slice(inputs[0], out, taken, len(places)), strict=True))
    if op == "Clip":
        return {1: np.array(0, np.float32), 2: np.array(6, np.float32)}
    if op == "BatchNormalization":
        return {place: rng.uniform(0.5, 1.5, inputs[place][1]).astype(np.float32) for place in places}
    return {place: _weight(op, place, inputs[place][1], rng) for place in places}


def _weight(op: str, place: int, shape: Shape, rng: np.random.Generator) -> NDArray[np.float32]:
    if op in ("Conv", "Gemm", "MatMul") and place == 1:
        fan_in = max(1, int(np.prod(shape[1:])))
        return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
    return rng.uniform(0.5, 1.5, shape).astype(np.float32) if op in ("Mul", "Div") else np.zeros(shape, np.float32)


def _slice(source: tuple[int, Shape], out: Shape, taken: dict[tuple[int, int], int], count: int) -> list[NDArray]:
    """Starts, ends, axes and steps: every second element of a spatial axis that halves, else the next part."""
    tensor, shape = source
    axes = [axis for axis, (have, want) in enumerate(zip(shape, out, strict=True)) if have != want] or [0]
    starts, ends, steps = [], [], []
    for axis in axes:
        halves = len(shape) == 4 and axis >= 2 and shape[axis] == 2 * out[axis]
        begin = taken.get((tensor, axis), 0)
        if begin + out[axis] > shape[axis] or halves:
            begin = 0
        taken[tensor, axis] = begin + out[axis]
        starts.append(begin)
        ends.append(shape[axis] if halves else begin + out[axis])
        steps.append(2 if halves else 1)
    return [np.array(values, np.int64) for values in (starts, ends, axes, steps)][:count]


def _permutation(shape: Sequence[int], out: Sequence[int]) -> list[int]:
    """One that leads from `shape` to `out`: equal sizes are matched from the front, those out of place first."""
    free = list(range(len(shape)))
    perm = []
    for size in out:
        match = next((axis for axis in free if shape[axis] == size and axis != len(perm)), None)
        match = next(axis for axis in free if shape[axis] == size) if match is None else match
        free.remove(match)
        perm.append(match)
    return perm
