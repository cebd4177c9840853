"""Convolutions and matrix products as `conv` and `matmul` kernels."""

from __future__ import annotations

import math

from maenas.latency.onnx.fuser import Fuser, absorb, known, positive, stand_in
from maenas.latency.onnx.node_graph import Node


def conv(f: Fuser, node: Node) -> None:
    """`Conv` and `ConvTranspose` of any rank. Raises `MaenasError` where the shapes contradict each other."""
    (source, shape), (_, weight) = ((tensor, known(shape)) for tensor, shape in node.inputs[:2])
    tensor, out = node.outputs[0][0], known(node.outputs[0][1])
    strides = positive(f, node, "strides", [1] * (len(shape) - 2))
    (groups,) = positive(f, node, "group", [1])
    transposed = node.op == "ConvTranspose"
    cout, cin = (out[1:2], shape[1:2]) if not transposed else (shape[1:2], out[1:2])
    if (
        source not in f.values
        or not len(weight) == len(shape) == len(out) > 2
        or weight[:2] != (cout[0], cin[0] // groups)
        or any(channels % groups for channels in (*cout, *cin))
    ):
        raise f.fail(node, f"{list(shape)} by {list(weight)} in {groups} groups is not a convolution to {list(out)}")
    square = len(weight) == 4 and len({*weight[2:]}) == 1 and len({*strides}) == 1
    if transposed:
        index = _transposed(f, node, weight[2] if square else 0, strides[0], groups)
    elif square:
        shapes = ((1, cin[0], shape[0] * shape[2], shape[3]), (1, cout[0], out[0] * out[2], out[3]))
        index = f.emit(node, "conv", [source], shapes, kernel=weight[2], stride=strides[0], groups=groups)
    elif 1 < groups == cin[0]:
        stand_in(f, node)  # as a product, its one column a group would be mistaken for a whole tile
        return
    else:
        taps = math.prod(weight[2:])
        unrolled = (1, cin[0] * taps, -(-math.prod(shape) // (cin[0] * taps)), 1)  # each element is read once
        index = f.emit(node, "conv", [source], (unrolled, (1, cout[0], math.prod(out) // cout[0], 1)), groups=groups)
    absorb(f, index, tensor, out)


def _transposed(f: Fuser, node: Node, size: int, stride: int, groups: int) -> int:
    """A square kernel whose size is a multiple of the stride: that many times smaller, one set of outputs a phase.

    Any other: each input position gives one value a tap and output channel, so the operations are exact and too many
    elements are written. `size` is 0 for a kernel or stride that is not square.
    """
    (source, shape), (_, weight) = ((tensor, known(shape)) for tensor, shape in node.inputs[:2])
    phases = stride**2 if size and size % stride == 0 else math.prod(weight[2:])
    kernel = size // stride if size and size % stride == 0 else 1
    positions = shape[0] * math.prod(shape[2:-1])
    shapes = ((1, shape[1], positions, shape[-1]), (1, weight[1] * groups * phases, positions, shape[-1]))
    return f.emit(node, "conv", [source], shapes, kernel=kernel, groups=groups)


def matmul(f: Fuser, node: Node) -> None:
    """`MatMul` and `Gemm`: rows are positions, columns and depth are channels of one group a batch entry."""
    (left, a), (right, b) = ((tensor, known(shape)) for tensor, shape in node.inputs[:2])
    out, out_shape = node.outputs[0][0], known(node.outputs[0][1])
    operands = [tensor for tensor in (left, right) if tensor in f.values]
    if min(len(a), len(b), len(out_shape)) < 2 or not operands:
        stand_in(f, node)
        return
    depth = a[-2] if node.op == "Gemm" and node.attributes.get("transA") else a[-1]
    if depth != (b[-1] if node.op == "Gemm" and node.attributes.get("transB") else b[-2]):
        raise f.fail(node, f"operands of shapes {list(a)} and {list(b)} cannot be multiplied")
    batch = math.prod(out_shape[:-2]) if len(operands) == 2 else 1
    columns = out_shape[-1] if left in f.values else out_shape[-2]  # of constants, or of the right operand
    rows = math.prod(out_shape) // (batch * columns)
    shapes = ((1, batch * depth, rows), (1, batch * columns, rows))
    absorb(f, f.emit(node, "matmul", operands, shapes, groups=batch), out, out_shape)
