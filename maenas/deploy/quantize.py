"""Explicit quantisation of an ONNX model's convolutions and of the residuals added to them.

Two forms. TensorRT wants int8 and symmetric scales. CPUs want unsigned activations: libraries multiply those by signed
weights, and clamp a result below zero in passing. CPUs without VNNI add two products in 16 bits, so that weights have 7
bits there; OpenVINO 2026.4 computes int8 activations wrongly where they are joined by a concat.

Legend: Cout output channels.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from maenas.deploy.onnx_graph import SINK
from maenas.headers import Int8Form

LEVELS = 127  # of int8 on either side of zero
WEIGHT_LEVELS: dict[Int8Form, int] = {"tensorrt": LEVELS, "cpu": 63}  # 2 x 255 x 63 fits into 16 bits
TIMING_LARGEST = LEVELS / 32  # of random activations around 1
KEEPS_SIGN = ("MaxPool", "Concat", "Resize", "Slice", "Reshape")
EPILOGUE = ("Relu", "Sigmoid", "Mul")  # what may stand between a convolution and its residual add


def quantize(
    model: onnx.ModelProto,
    *,
    largest: Mapping[str, float] | None = None,
    keep: Collection[str] = (),
    form: Int8Form = "tensorrt",
) -> onnx.ModelProto:
    """A copy whose convolutions read int8: one scale for an activation, one for each output channel of a weight.

    `model` is fp16 or fp32, with weights as initializers; biases, the convolutions called `keep` with their residuals,
    and everything else stay as they are. `largest` is the magnitude up to which each of `quantized_inputs` is
    represented, by its name; without it the model only serves timing, and what its sinks read is quantised, too, as a
    network's next convolution would do. The zero of the form "cpu" is 0 where nothing lies below it, else 128.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    reads = quantized_inputs(model, keep=keep, sinks=largest is None)
    filters = [weights[node.input[1]].data_type for node in graph.node if node.op_type == "Conv"]
    dtype = helper.tensor_dtype_to_np_dtype([*filters, graph.input[0].type.tensor_type.elem_type][0])
    unsigned = _unsigned(model) if form == "cpu" else frozenset()
    nodes: list[onnx.NodeProto] = []
    activations: set[str] = set()
    for node in graph.node:
        position = reads.get(node.name)
        if position is not None:
            source = node.input[position]
            if source not in activations:
                activations.add(source)
                reach = TIMING_LARGEST if largest is None else largest[source]
                zero = np.array(0, np.int8)
                if form == "cpu":
                    zero = np.array(0 if source in unsigned else 128, np.uint8)
                scale = _scales(reach / (2 * LEVELS + 1 if source in unsigned else LEVELS), dtype)
                nodes += _activation_nodes(graph, source, scale, zero)
            node.input[position] = f"{source}.dequantized"
            if node.op_type == "Conv":
                weight = weights[node.input[1]]
                nodes.append(_weight_node(graph, weight, WEIGHT_LEVELS[form]))
                node.input[1] = f"{weight.name}.dequantized"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def quantized_inputs(model: onnx.ModelProto, *, keep: Collection[str] = (), sinks: bool = False) -> dict[str, int]:
    """Which nodes read int8, by name, and which of their inputs: that of a convolution, the residual of an add.

    A residual in int8 lets a runtime add it inside the convolution and hand int8 to the next one.
    """
    makers = {node.output[0]: node for node in model.graph.node}
    constants = {tensor.name for tensor in model.graph.initializer}
    reads = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            is_read = node.name not in keep
        elif node.op_type == "Add" and not constants.intersection(node.input):
            maker = makers.get(node.input[0])
            while maker is not None and maker.op_type in EPILOGUE:
                maker = makers.get(maker.input[0])
            is_read = maker is not None and maker.op_type == "Conv" and maker.name not in keep
        else:
            is_read = sinks and _is_sink_of_a_map(node, makers)
        if is_read:
            reads[node.name] = 1 if node.op_type == "Add" else 0
    return reads


def tensors_to_quantize(model: onnx.ModelProto) -> list[str]:
    """Names of what `quantize` needs ranges for, each once."""
    reads = quantized_inputs(model)
    return list(dict.fromkeys(node.input[reads[node.name]] for node in model.graph.node if node.name in reads))


def _is_sink_of_a_map(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether this is a sink of what a convolution might read: no scores, no list of positions."""
    if node.op_type != "MaxPool" or not node.name.startswith(SINK):
        return False
    maker = makers.get(node.input[0])
    return (maker is None or maker.op_type != "Sigmoid") and len(helper.get_node_attr_value(node, "strides")) == 2


def _scales(values: np.ndarray | float, dtype: np.dtype) -> np.ndarray:
    """Scales in the type of the model, none so small that this loses it; below 2^-17 fp16 has less than 7 bits."""
    least = 2.0**-17 if dtype == np.float16 else np.finfo(np.float32).tiny
    return np.maximum(values, least).astype(dtype)


def _unsigned(model: onnx.ModelProto) -> frozenset[str]:
    """Tensors that hold nothing below zero: images, what ReLU and the sigmoid give, and what is made of them only."""
    told = {entry.key: entry.value for entry in model.metadata_props}
    lowest = json.loads(told.get("value_range", "[0]"))[0]  # of an image, in an exported detector
    found = {value.name for value in model.graph.input} if lowest >= 0 else set()
    for node in model.graph.node:
        if node.op_type in ("Relu", "Sigmoid") or (node.op_type in KEEPS_SIGN and found.issuperset(_data(node))):
            found.add(node.output[0])
    return frozenset(found)


def _data(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node that hold activations, not indices or scales."""
    return list(node.input) if node.op_type == "Concat" else [node.input[0]]


def _activation_nodes(graph: onnx.GraphProto, name: str, value: np.ndarray, offset: np.ndarray) -> list[onnx.NodeProto]:
    scale, zero = f"{name}.scale", f"{name}.zero"
    graph.initializer.append(numpy_helper.from_array(value, scale))
    graph.initializer.append(numpy_helper.from_array(offset, zero))
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.quantized"], f"{name}.quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{name}.quantized", scale, zero], [f"{name}.dequantized"], f"{name}.dequantize"
        ),
    ]


def _weight_node(graph: onnx.GraphProto, weight: onnx.TensorProto, levels: int) -> onnx.NodeProto:
    """Replace an initializer by int8 values and the node that restores them."""
    values, name = numpy_helper.to_array(weight), weight.name
    largest = np.abs(values.astype(np.float32)).max(axis=(1, 2, 3))
    scale = _scales(largest / levels, values.dtype)  # [Cout]
    rounded = np.rint(values.astype(np.float32) / scale.astype(np.float32)[:, None, None, None])
    weight.CopyFrom(numpy_helper.from_array(np.clip(rounded, -levels, levels).astype(np.int8), name))
    zero = np.zeros(len(scale), np.int8)
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
    graph.initializer.append(numpy_helper.from_array(zero, f"{name}.zero"))
    inputs = [name, f"{name}.scale", f"{name}.zero"]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}.dequantized"], f"{name}.dequantize", axis=0)
