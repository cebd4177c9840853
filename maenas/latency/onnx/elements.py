"""How many elements the operators of a graph write, for what a runtime computes one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping

from maenas.latency.onnx.fuser import MAX_SIDE, Fuser, known, word
from maenas.latency.onnx.node_graph import Node, Shape, TensorId

ROWS = "of rows"  # after the name of a linear Resize that does not follow a convolution
# What keeps the layout that ONNX Runtime gives convolutions on a CPU, so that a linear Resize is computed in it.
OF_PLANES = (
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Add", "Mul", "BatchNormalization"),
    *("Concat", "MaxPool", "AveragePool", "Resize"),
)
OUTPUT = "output Reorder"
LEAST_CHANNELS, LEAST_PLANE = 16, 128 * 128  # of a result that OpenVINO brings into another layout by a slow way
ELSEWHERE = "pytorch_half_pixel"  # the one way of placing pixels that it has not in that layout


def count_elements(f: Fuser) -> dict[str, list[int]]:
    """By operator, for each of its nodes, where it is known.

    Of a `ConvTranspose` these are its products, before those of one position are added up. A `Resize` has its mode
    before its name, unless it takes the nearest; a linear one outside of the layout of convolutions `ROWS` behind it.
    `OUTPUT` are the large results of the network that leave the layout of convolutions.
    """
    found: dict[str, list[int]] = {}
    makers = {tensor: node for node in f.nodes for tensor, _ in node.outputs}
    for node in f.nodes:
        for tensor, shape in node.outputs[:1]:
            if tensor in f.computed and shape is not None and all(0 < side < MAX_SIDE for side in shape):
                found.setdefault(_name(node, makers), []).append(_products(node) or math.prod(shape))
                if tensor in f.outputs and _is_large(shape) and _of_planes(node, makers):
                    found.setdefault(OUTPUT, []).append(math.prod(shape))
    return found


def _is_large(shape: Shape) -> bool:
    return len(shape) == 4 and shape[1] >= LEAST_CHANNELS and math.prod(shape[2:]) >= LEAST_PLANE


def _name(node: Node, makers: Mapping[TensorId, Node]) -> str:
    mode = word(node, "mode", "nearest") if node.op in ("Resize", "Upsample") else "nearest"
    if mode == "nearest":
        return node.op
    in_rows = mode == "linear" and node.op == "Resize" and not _in_planes(node, makers)
    return f"{mode} {node.op}" + (f" {ROWS}" if in_rows else "")


def _in_planes(node: Node, makers: Mapping[TensorId, Node]) -> bool:
    """Whether what a Resize reads is in the layout of convolutions, and what it writes can be."""
    if word(node, "coordinate_transformation_mode", "half_pixel") == ELSEWHERE:
        return False
    maker = makers.get(node.inputs[0][0])
    return maker is not None and _of_planes(maker, makers)


def _of_planes(node: Node, makers: Mapping[TensorId, Node]) -> bool:
    """Whether what a node writes is in the layout of convolutions."""
    maker: Node | None = node
    for _ in makers:  # a broken file may lead round and round
        if maker is None or maker.op not in OF_PLANES:
            break
        maker = makers.get(maker.inputs[0][0])
    return maker is not None and maker.op == "Conv"


def _products(node: Node) -> int:
    """Of a transposed convolution, one for each position that it reads, tap and channel that it writes; else 0."""
    if node.op != "ConvTranspose":
        return 0
    image, weight, out = (known(shape) for _, shape in (*node.inputs[:2], node.outputs[0]))
    return math.prod(image[2:]) * math.prod(weight[2:]) * math.prod(out[1:2])
