"""Arithmetic that follows no convolution, and layer normalisations made of it."""

from __future__ import annotations

import math
from dataclasses import replace

from maenas.latency.onnx.fuser import Fuser, known, planes
from maenas.latency.onnx.node_graph import Node, TensorId


def pointwise(f: Fuser, node: Node) -> None:
    """Join the pointwise kernel that made an input of this shape, if that is the newest kernel; else start one."""
    out, shape = node.outputs[0][0], known(node.outputs[0][1])
    live = f.live(node)
    last = len(f.kernels) - 1
    if last >= 0 and last not in f.stand_ins:
        made = [size for tensor, size in live if f.values[tensor].kernel == last]
        joins = shape in made and f.kernels[last].op == "pointwise"
        if made and (joins or last in f.decoders):
            extend(f, node, last)
            return
    cin = sum(math.prod(s) for _, s in live) * planes(shape)[0] // math.prod(shape)
    f.write(out, f.emit(node, "pointwise", [t for t, _ in live], (shape, shape), in_channels=max(cin, 1)), shape)


def extend(f: Fuser, node: Node, index: int) -> None:
    """Let a kernel also read what `node` reads, and write what it writes instead.

    What it reads besides is not among the elements of the kernel: the published constants of GPUs were fitted so.
    """
    kernel, (out, written) = f.kernels[index], node.outputs[0]
    shape = known(written)
    channels, height, width = planes(shape)
    sources = [f.values[tensor].kernel for tensor, _ in f.live(node)]
    inputs = tuple(dict.fromkeys((*kernel.inputs, *(source for source in sources if source != index))))
    f.kernels[index] = replace(kernel, inputs=inputs, out_channels=channels, out_height=height, out_width=width)
    if kernel.op == "pointwise":
        f.joined.setdefault(index, []).append(node)
    f.write(out, index, shape)


def layer_normalisation(f: Fuser, mean: Node) -> list[int]:
    """The nodes behind `mean` that make a layer normalisation with it, in order; none where they do not.

    With d = x - mean(x) these are d / sqrt(mean(d^2) + constant), and a factor and a summand that are constant: as
    torch exports it below opset 17.
    """
    source = mean.inputs[0][0]
    first = _readers(f, mean.outputs[0][0])
    if len(first) != 1 or (difference := f.nodes[first[0]]).op != "Sub" or difference.inputs[0][0] != source:
        return []
    tensor = difference.outputs[0][0]
    readers = _readers(f, tensor)
    squares = [number for number in readers if f.nodes[number].op in ("Pow", "Mul")]
    if len(readers) != 2 or len(squares) != 1:
        return []
    found = [first[0], squares[0]]
    for op in ("ReduceMean", "Add", "Sqrt", "Div"):
        following = _readers(f, f.nodes[found[-1]].outputs[0][0])
        if len(following) != 1 or f.nodes[following[0]].op != op:
            return []
        found.append(following[0])
    if f.nodes[found[-1]].inputs[0][0] != tensor:
        return []
    for op in ("Mul", "Add"):
        following = _readers(f, f.nodes[found[-1]].outputs[0][0])
        if len(following) == 1 and f.nodes[following[0]].op == op and _has_constant(f, f.nodes[following[0]]):
            found.append(following[0])
    return found


def _readers(f: Fuser, tensor: TensorId) -> list[int]:
    """Nodes that read a tensor; none where it is an output, too."""
    return [] if tensor in f.outputs else f.readers.get(tensor, [])


def _has_constant(f: Fuser, node: Node) -> bool:
    return any(tensor not in f.computed for tensor, _ in node.inputs)
