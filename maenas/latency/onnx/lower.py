"""Operators -> fused kernels, so that any network can be predicted or calibrated on.

Fusion follows what TensorRT and ONNX Runtime do to convolutional networks:
- constant arithmetic, a residual add and every elementwise way from a convolution's result to one tensor of the same
  shape (ReLU; x sigmoid(x); HardSwish, GELU, Mish in one operator or in several) join the convolution before them;
- four stride-2 slices and a `Concat` are one space-to-depth;
- `Reshape` and its kin, `Slice` and `Split` are views: a consumer reads the part it needs from where it lies;
- `Transpose` and its kin are copies (a `concat` kernel of one input);
- arithmetic that follows no convolution joins its neighbours of the same shape into one `pointwise` kernel; a `Concat`
  of box distances that only it reads joins it, too, and after that the `Concat` of its results; a normalisation, in one
  operator or in several, is a kernel of its own;
- `Softmax` of rows is a kernel of its own, one across planes an `integral` that keeps its channels, or one with its
  expectation where only a product with a constant vector reads it;
- pools are `maxpool` and reductions `mean` kernels (bytes only);
- `MatMul` is a `matmul` with one group a batch entry: its right operand stands where weights would. So is an `Einsum`
  of two operands. A convolution that is not square is a 1x1 convolution with one tap a channel, and so is a transposed
  one (see `_transposed`); a depthwise one that is not square is a square one of as many taps;
- what depends on constants only is folded.
For any other operator stands a pointwise kernel that moves as many elements: `Lowered` says for which.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maenas.choices import Precision
from maenas.cost import Cost, kernel_traffic, total_cost
from maenas.errors import MaenasError
from maenas.kernels import IMAGE, Kernel
from maenas.latency.onnx.arithmetic import extend, layer_normalisation, pointwise
from maenas.latency.onnx.elements import count_elements
from maenas.latency.onnx.fuser import (
    COPIES,
    ELEMENTWISE,
    FOLDED,
    GATHERS,
    MAX_SIDE,
    NORMALISATIONS,
    POINTWISE,
    POOLS,
    PRODUCTS,
    REDUCTIONS,
    SOFTMAXES,
    SUPPORTED,
    VIEWS,
    Fuser,
    Value,
    known,
    positive,
    stand_in,
)
from maenas.latency.onnx.node_graph import Node, NodeGraph, Shape, read_json, read_onnx
from maenas.latency.onnx.products import conv, einsum, matmul

MOST_MOVED = 0.1  # of a network's bytes, by operators without a rule, where it is to be calibrated on


@dataclass(frozen=True)
class Lowered:
    """Kernels in execution order, and what they leave out.

    `stand_ins`: operators, by the index of the kernel that only moves as many elements as they do.
    `absorbed`: what follows a convolution or product and is in its kernel, by the kernel's index, way by way.
    `joined`: arithmetic behind the first operator of a pointwise kernel, by the kernel's index.
    `taps`: those of a depthwise convolution whose square kernel has about as many, by the kernel's index.
    `inside`: the share of a dilated convolution's taps that read the image, by the kernel's index.
    `untimed`: operators without any kernel, since a shape of theirs is not known; `blamed` is the one that the first
    product among them got its unknown shape from.
    `elements`: how many the nodes of every operator write, those inside of kernels too; see `count_elements`.
    `precision`, `where`: what the file computes in, and what messages call it; see `NodeGraph`.
    """

    kernels: tuple[Kernel, ...]
    stand_ins: dict[int, str]
    untimed: tuple[str, ...]
    elements: dict[str, list[int]]
    precision: Precision
    where: str
    absorbed: dict[int, tuple[tuple[Node, ...], ...]]
    joined: dict[int, tuple[Node, ...]]
    taps: dict[int, int]
    inside: dict[int, float]
    blamed: str

    @property
    def cost(self) -> Cost:
        """Totals of the network as the file has it, batch 1."""
        cost = total_cost(self.kernels)
        for index, taps in self.taps.items():
            kernel = self.kernels[index]
            more = (taps - kernel.kernel**2) * (kernel.in_channels // kernel.groups) * kernel.out_channels
            flops = cost.flops + 2 * more * kernel.out_height * kernel.out_width
            cost = replace(cost, params=cost.params + more, flops=flops)
        return cost


def kernels_from_json(document: Any, where: str = "graph") -> tuple[Kernel, ...]:
    """Kernels of a node list (see `node_graph.read_json`), as `kernels_from_onnx` those of a file."""
    return _complete(read_json(document, where))


def kernels_from_onnx(path: str | Path) -> tuple[Kernel, ...]:
    """Kernels of an ONNX file with fixed shapes; an operator without a rule is one that moves its bytes.

    Raises `MaenasError`, also where such operators move more than `MOST_MOVED` of all bytes.
    """
    return _complete(read_onnx(path))


def lower_onnx(path: str | Path, *, sides: tuple[int, int] | None = None) -> Lowered:
    """Kernels of an ONNX file, whatever its operators; `sides` as in `node_graph.read_onnx`.

    Raises `MaenasError`.
    """
    return fuse(read_onnx(path, sides=sides))


def _complete(graph: NodeGraph) -> tuple[Kernel, ...]:
    lowered = fuse(graph)
    missing = Counter((*lowered.stand_ins.values(), *lowered.untimed))
    moved = [int(kernel_traffic(kernel)) for kernel in lowered.kernels]
    guessed = sum(moved[index] for index in lowered.stand_ins)
    if lowered.untimed or guessed > MOST_MOVED * sum(moved):
        names = ", ".join(f"{count} {op}" for op, count in missing.items())
        raise MaenasError(
            f"{graph.where}: operators with no rule, or with a shape that is not static: {names}; "
            f"known ones: {', '.join(sorted(SUPPORTED))}"
        )
    return lowered.kernels


def fuse(graph: NodeGraph) -> Lowered:
    """Kernels of `graph`. Raises `MaenasError` for a batch, and for operators that contradict their shapes."""
    f = Fuser(graph)
    for image in graph.images:
        f.values[image] = Value(IMAGE, ())
    for number, node in enumerate(graph.nodes):
        if number in f.done or node.op in FOLDED or not f.live(node):
            continue
        if _is_sized(f, node):
            _walk(f, node)
        else:
            f.leave(node)
            first = f.values[f.live(node)[0][0]].kernel
            for tensor, shape in node.outputs:
                f.write(tensor, first, known(shape))
    if not f.kernels and not f.untimed:
        raise MaenasError(f"{graph.where}: no node reads the image (tensor {', '.join(map(repr, graph.images))})")
    return Lowered(
        kernels=tuple(f.kernels),
        stand_ins=f.stand_ins,
        untimed=tuple(f.untimed),
        elements=count_elements(f),
        precision=graph.precision,
        where=graph.where,
        absorbed={index: tuple(ways) for index, ways in f.absorbed.items()},
        joined={index: tuple(nodes) for index, nodes in f.joined.items()},
        taps=f.taps,
        inside=f.inside,
        blamed=f.blamed,
    )


def _is_sized(f: Fuser, node: Node) -> bool:
    """Whether all shapes are known. A node whose parts are missing is refused, so that the rest can count on them."""
    least = 2 if node.op in PRODUCTS and node.op != "Einsum" else 1
    if len(node.inputs) < least or not node.outputs:
        raise f.fail(node, f"it has {len(node.inputs)} inputs and {len(node.outputs)} outputs; too few")
    for tensor, shape in node.inputs:
        if shape and len(shape) == 4 and shape[0] > 1 and f.values.get(tensor) == Value(IMAGE, ()):
            raise f.fail(node, f"it reads a batch, {list(shape)}: export with batch 1, and predict with --batch")
    shapes = [shape for tensor, shape in node.inputs if tensor in f.values or node.op in PRODUCTS]
    return all(
        shape is not None and all(0 < side < MAX_SIDE for side in shape)
        for shape in (*shapes, *(shape for _, shape in node.outputs))
    )


def _walk(f: Fuser, node: Node) -> None:
    """Lower a node all of whose shapes are known."""
    if node.op in ("Conv", "ConvTranspose"):
        conv(f, node)
    elif node.op in ("MatMul", "Gemm"):
        matmul(f, node)
    elif node.op == "Einsum":
        einsum(f, node)
    elif node.op in VIEWS or _is_read_in_place(f, node):
        _view(f, node)
    elif node.op == "Concat":
        _concat(f, node)
    elif node.op in ELEMENTWISE:
        pointwise(f, node)
    elif node.op in SOFTMAXES:
        _softmax(f, node)
    elif node.op == "ReduceMean" and (nodes := layer_normalisation(f, node)):
        _normalise(f, node, nodes)
    elif node.op in SUPPORTED:
        _movement(f, node)
    else:
        stand_in(f, node)


def _is_read_in_place(f: Fuser, node: Node) -> bool:
    """Padding before convolutions, and the transpose before a softmax whose expectation is taken."""
    tensor = node.outputs[0][0]
    if node.op == "Pad":
        readers = f.readers.get(tensor, [])
        return bool(readers) and all(f.nodes[number].op in ("Conv", *POOLS) for number in readers)
    reader = f.only_reader(tensor)
    return node.op == "Transpose" and reader is not None and _expectation(f, reader) is not None


def _expectation(f: Fuser, node: Node) -> Node | None:
    """The product of a softmax with a constant vector, if nothing else reads the softmax."""
    reader = f.only_reader(node.outputs[0][0]) if node.op == "Softmax" and node.outputs else None
    if reader is None or reader.op != "MatMul" or len(reader.inputs) != 2:
        return None
    vector, shape = reader.inputs[1]
    return reader if vector not in f.computed and shape is not None and shape[1:] == (1,) else None


def _softmax(f: Fuser, node: Node) -> None:
    (source, shape), product = f.live(node)[0], _expectation(f, node)
    out, out_shape = node.outputs[0][0], known(node.outputs[0][1])
    number = f.values[source].kernel
    if product is not None and number >= 0:
        writer, bins = f.kernels[number], shape[-1]
        whole = (1, writer.out_channels, writer.out_height, writer.out_width)
        if math.prod(whole) == math.prod(shape) and writer.out_channels % bins == 0:
            f.done.update(f.readers[out])
            out, out_shape = product.outputs[0][0], known(product.outputs[0][1])
            index = f.emit(node, "integral", [source], (whole, (1, whole[1] // bins, *whole[2:])))
            f.write(out, index, out_shape)
            return
    if node.attributes.get("axis", -1) in (-1, len(shape) - 1):
        rows = (1, shape[-1], math.prod(shape[:-1]), 1)
        f.write(out, f.emit(node, "softmax", [source], (rows, rows)), out_shape)
    else:  # across planes, as the bins of box distances: with the transposes that this takes
        f.write(out, f.emit(node, "integral", [source], (shape, out_shape)), out_shape)


def _view(f: Fuser, node: Node) -> None:
    source, shape = f.live(node)[0]
    value = f.values[source]
    for tensor, out in node.outputs:
        halved = node.op == "Slice" and out in _halved(shape)
        root = (source if value.half_of is None else value.half_of) if halved else None
        f.write(tensor, value.kernel, known(out), root)


def _halved(shape: Shape) -> tuple[Shape, ...]:
    """Shapes of stride-2 slices of an image: both axes at once, or one after the other."""
    if len(shape) != 4:
        return ()
    n, c, h, w = shape
    return (n, c, h // 2, w // 2), (n, c, h // 2, w), (n, c, h, w // 2)


def _concat(f: Fuser, node: Node) -> None:
    live = f.live(node)
    values = [f.values[tensor] for tensor, _ in live]
    out, shape = node.outputs[0][0], known(node.outputs[0][1])
    last = len(f.kernels) - 1
    if last in f.decoders and all(value.kernel == last for value in values):
        extend(f, node, last)
        return
    root = values[0].half_of
    if len(live) == 4 and root is not None and all(v.half_of == root for v in values):
        whole = (1, shape[1] // 4, 2 * shape[2], 2 * shape[3])
        f.write(out, f.emit(node, "space_to_depth", [live[0][0]], (whole, shape), stride=2), shape)
        return
    sources, reader = [tensor for tensor, _ in live], f.only_reader(out)
    distances = all(value.kernel >= 0 and f.kernels[value.kernel].op == "integral" for value in values)
    if distances and len(live) > 1 and reader is not None and reader.op in POINTWISE:
        f.decoders.add(f.emit(reader, "decode", sources, (shape, shape)))
        f.write(out, len(f.kernels) - 1, shape)
        return
    f.write(out, f.emit(node, "concat", sources, (shape, shape)), shape)


def _normalise(f: Fuser, node: Node, nodes: list[int]) -> None:
    """One kernel for a normalisation that begins with `node`."""
    f.done.update(nodes)
    (source, shape), (out, out_shape) = f.live(node)[0], f.nodes[nodes[-1]].outputs[0]
    f.write(out, f.emit(node, "pointwise", [source], (shape, known(out_shape))), known(out_shape))


def _movement(f: Fuser, node: Node) -> None:
    """Pools, resize, space-to-depth, normalisations and copies: bytes in, bytes out."""
    source, shape = f.live(node)[0]
    out, out_shape = node.outputs[0][0], known(node.outputs[0][1])
    fields: dict[str, int] = {}
    if node.op in POOLS or node.op in REDUCTIONS:
        op = "mean"
        if isinstance(sides := node.attributes.get("kernel_shape"), (list, tuple)):
            kernel, stride = (positive(f, node, name, [1] * len(sides))[0] for name in ("kernel_shape", "strides"))
            op, fields = "maxpool", {"kernel": kernel, "stride": stride}
    elif node.op in NORMALISATIONS:
        op = "pointwise"
    elif node.op in COPIES or node.op in GATHERS:
        op, shape = "concat", out_shape if node.op in GATHERS else shape
    else:
        op = "space_to_depth" if node.op == "SpaceToDepth" else "resize"
    f.write(out, f.emit(node, op, [source], (shape, out_shape), **fields), out_shape)
    for extra, extra_shape in node.outputs[1:]:
        f.write(extra, len(f.kernels) - 1, known(extra_shape))
