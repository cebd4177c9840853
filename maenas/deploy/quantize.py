"""Explicit quantisation of an ONNX model's convolutions.

Legend: Cout output channels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

LEVELS = 127  # of int8 on either side of zero
TIMING_LARGEST = LEVELS / 32  # of random activations around 1


def quantize(
    model: onnx.ModelProto, *, largest: Mapping[str, float] | None = None, keep: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy whose convolutions read int8: one scale for an activation, one for each output channel of a weight.

    `model` is fp16 or fp32, with weights as initializers; biases, the convolutions called `keep` and everything else
    stay as they are. `largest` is the magnitude up to which each input of a convolution is represented, by its name;
    without it the model only serves timing. Both scales are symmetric, as TensorRT wants them.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    activations: set[str] = set()
    for node in graph.node:
        if node.op_type == "Conv" and node.name not in keep:
            source, weight = node.input[0], weights[node.input[1]]
            if source not in activations:
                activations.add(source)
                scale = (TIMING_LARGEST if largest is None else largest[source]) / LEVELS
                nodes += _activation_nodes(graph, source, _scales(scale, numpy_helper.to_array(weight).dtype))
            nodes.append(_weight_node(graph, weight))
            node.input[0], node.input[1] = f"{source}.dequantized", f"{weight.name}.dequantized"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def _scales(values: np.ndarray | float, dtype: np.dtype) -> np.ndarray:
    """Scales in the type of the model, none so small that fp16 loses it."""
    return np.maximum(values, np.finfo(np.float16).tiny).astype(dtype)


def _activation_nodes(graph: onnx.GraphProto, name: str, value: np.ndarray) -> list[onnx.NodeProto]:
    scale, zero = f"{name}.scale", f"{name}.zero"
    graph.initializer.append(numpy_helper.from_array(value, scale))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), zero))
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.quantized"], f"{name}.quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{name}.quantized", scale, zero], [f"{name}.dequantized"], f"{name}.dequantize"
        ),
    ]


def _weight_node(graph: onnx.GraphProto, weight: onnx.TensorProto) -> onnx.NodeProto:
    """Replace an initializer by int8 values and the node that restores them."""
    values, name = numpy_helper.to_array(weight), weight.name
    largest = np.abs(values.astype(np.float32)).max(axis=(1, 2, 3))
    scale = _scales(largest / LEVELS, values.dtype)  # [Cout]
    rounded = np.rint(values.astype(np.float32) / scale.astype(np.float32)[:, None, None, None])
    weight.CopyFrom(numpy_helper.from_array(np.clip(rounded, -LEVELS, LEVELS).astype(np.int8), name))
    zero = np.zeros(len(scale), np.int8)
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
    graph.initializer.append(numpy_helper.from_array(zero, f"{name}.zero"))
    inputs = [name, f"{name}.scale", f"{name}.zero"]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}.dequantized"], f"{name}.dequantize", axis=0)
