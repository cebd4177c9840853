"""Normalisations that a file has in several operators, as torch exports them below opset 17."""

from __future__ import annotations

from maenas.latency.onnx.fuser import Fuser
from maenas.latency.onnx.node_graph import Node, TensorId


def normalisation(f: Fuser, mean: Node) -> list[int]:
    """The nodes behind `mean` that make a layer normalisation with it, in order; none where they do not.

    With d = x - mean(x) these are d / sqrt(mean(d^2) + constant), and a factor and a summand that are constant.
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
    for ops in (("ReduceMean",), ("Add",), ("Sqrt",), ("Div",)):
        following = _readers(f, f.nodes[found[-1]].outputs[0][0])
        if len(following) != 1 or f.nodes[following[0]].op not in ops:
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
