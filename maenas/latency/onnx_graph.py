"""ONNX-like graph -> fused kernels, so that any network can be predicted or calibrated on.

Fusion follows what TensorRT and ONNX Runtime do to convolutional networks:
- activation, constant scale or shift and residual add join the convolution before them;
- `Sigmoid` x `Mul` on one tensor is SiLU; four stride-2 slices and a `Concat` are one space-to-depth;
- `Reshape` and its kin, `Slice` and `Split` are views: a consumer reads the part it needs from where it lies;
- `Transpose` is a copy (a `concat` kernel of one input);
- arithmetic that follows no convolution joins its neighbours into one pointwise kernel (op `decode`);
- `Softmax` is an `integral` kernel that keeps its channels; pools of every kind are `maxpool` kernels (bytes only);
- `MatMul` is a grouped 1x1 convolution, one group a batch entry: its right operand stands where weights would;
- what depends on constants only is folded.
Any other operator is an error: nothing is skipped silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from maenas.errors import MaenasError
from maenas.lowering import IMAGE, Kernel

Shape = tuple[int, ...]
TensorId = int | str

ACTIVATIONS: dict[str, Literal["relu", "silu", "sigmoid"]] = {
    # cost classes of an epilogue: a clamp, a sigmoid, or a product with a sigmoid-like function
    "Relu": "relu",
    "LeakyRelu": "relu",
    "PRelu": "relu",
    "Clip": "relu",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "sigmoid",
    "Tanh": "sigmoid",
    "HardSwish": "silu",
    "Mish": "silu",
    "Gelu": "silu",
    "Swish": "silu",
}
GATES = ("Sigmoid", "HardSigmoid")  # x * gate(x) is a SiLU or HardSwish
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "Slice", "Split")
POINTWISE = ("Add", "Sub", "Mul", "Div", "Exp", "Sqrt", "Pow", "Max", "Min", "Neg", "BatchNormalization")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
FOLDED = ("Constant", "ConstantOfShape", "Shape", "Range")
LAYERS = ("Conv", "Concat", "Resize", "Upsample", "SpaceToDepth", "Transpose", "Softmax", "MatMul", "Gemm")
MAX_SIDE = 1 << 24  # more is not a size
SUPPORTED = tuple(sorted({*ACTIVATIONS, *VIEWS, *POINTWISE, *POOLS, *FOLDED, *LAYERS}))


@dataclass(frozen=True, slots=True)
class Node:
    """One operator: `inputs` and `outputs` are (tensor id, shape) pairs; `attributes` as in ONNX."""

    op: str
    inputs: tuple[tuple[TensorId, Shape], ...]
    outputs: tuple[tuple[TensorId, Shape], ...]
    attributes: Mapping[str, Any]
    name: str


@dataclass(frozen=True, slots=True)
class NodeGraph:
    """Nodes in execution order and the id of the image tensor."""

    image: TensorId
    nodes: tuple[Node, ...]
    where: str


def kernels_from_json(document: Any, where: str = "graph") -> tuple[Kernel, ...]:
    """Kernels of a parsed node list `{"input": shape, "nodes": [{"op", "in", "out", "attr"}]}`; tensor 0 is the image.

    Tensors nothing writes are weights and constants. Raises `MaenasError`.
    """
    return fuse(_parse_nodes(document, where))


def kernels_from_onnx(path: str | Path) -> tuple[Kernel, ...]:
    """Kernels of an ONNX file with static shapes and batch 1. Raises `MaenasError`."""
    return fuse(_read_onnx(Path(path)))


def _parse_nodes(document: Any, where: str) -> NodeGraph:
    def pairs(entries: Any, place: str) -> tuple[tuple[TensorId, Shape], ...]:
        try:
            return tuple((int(tensor), tuple(int(side) for side in shape)) for tensor, shape in entries)
        except (TypeError, ValueError):
            raise MaenasError(f"{place}: expected [tensor number, shape] pairs, found {entries!r:.80}") from None

    rows = document.get("nodes") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise MaenasError(f"{where}: a graph is an object with a list 'nodes'")
    nodes = []
    for number, row in enumerate(rows):
        place = f"{where}, node {number}"
        if not isinstance(row, dict) or not isinstance(row.get("op"), str):
            raise MaenasError(f"{place}: a node is an object with 'op', 'in', 'out' and an optional 'attr'")
        attributes = row.get("attr", {})
        if not isinstance(attributes, dict):
            raise MaenasError(f"{place}: 'attr' must be an object, found {attributes!r:.80}")
        inputs, outputs = pairs(row.get("in"), f"{place}, 'in'"), pairs(row.get("out"), f"{place}, 'out'")
        nodes.append(Node(row["op"], inputs, outputs, attributes, f"{row['op'].lower()}{number}"))
    return NodeGraph(0, tuple(nodes), where)


def _read_onnx(path: Path) -> NodeGraph:
    try:
        import onnx
    except ModuleNotFoundError:
        raise MaenasError(f"reading {path} needs the onnx package: pip install onnx") from None
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except OSError as error:
        raise MaenasError(f"cannot read {path}: {error.strerror or error}") from None
    except (DecodeError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError) as error:
        raise MaenasError(f"{path} is not a valid ONNX file: {error}".splitlines()[0]) from None
    graph = model.graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    images = [value.name for value in graph.input if value.name not in constants]
    if len(images) != 1:
        raise MaenasError(f"{path} has {len(images)} inputs ({', '.join(images)}); a network here takes one image")
    shapes: dict[str, Shape] = dict(constants)
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    nodes = []
    for number, node in enumerate(graph.node):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = tuple((name, shapes.get(name, ())) for name in node.input if name)
        outputs = tuple((name, shapes.get(name, ())) for name in node.output if name)
        nodes.append(Node(node.op_type, inputs, outputs, attributes, node.name or f"{node.op_type.lower()}{number}"))
    return NodeGraph(images[0], tuple(nodes), str(path))


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor and the kernel that wrote it; `half_of` is set on a stride-2 spatial slice."""

    kernel: int
    shape: Shape
    half_of: TensorId | None = None


class _Fuser:
    """State of one walk over the nodes."""

    def __init__(self, graph: NodeGraph) -> None:
        self.where = graph.where
        self.kernels: list[Kernel] = []
        self.values: dict[TensorId, _Value] = {}
        self.done: set[int] = set()  # nodes already inside a kernel
        self.nodes = graph.nodes
        self.readers: dict[TensorId, list[int]] = {}
        self.computed: set[TensorId] = {graph.image}  # tensors that depend on the image
        for number, node in enumerate(graph.nodes):
            for tensor, _ in node.inputs:
                self.readers.setdefault(tensor, []).append(number)
            if node.op not in FOLDED and any(tensor in self.computed for tensor, _ in node.inputs):
                self.computed.update(tensor for tensor, _ in node.outputs)

    def fail(self, node: Node, message: str) -> MaenasError:
        return MaenasError(f"{self.where}: {node.op} node {node.name!r}: {message}")

    def live(self, node: Node) -> list[tuple[TensorId, Shape]]:
        """Inputs that are not constants."""
        return [(tensor, shape) for tensor, shape in node.inputs if tensor in self.values]

    def emit(self, node: Node, op: Any, sources: Sequence[TensorId], shapes: tuple[Shape, Shape], **fields: Any) -> int:
        """Append a kernel; a source that is a view counts the kernel that wrote what it looks at."""
        (cin, hin, win), (cout, hout, wout) = (self.planes(node, shape) for shape in shapes)
        inputs = tuple(dict.fromkeys(self.values[tensor].kernel for tensor in sources))
        self.kernels.append(
            Kernel(op, node.name, inputs, fields.pop("in_channels", cin), cout, hin, win, hout, wout, **fields)
        )
        return len(self.kernels) - 1

    def planes(self, node: Node, shape: Shape) -> tuple[int, int, int]:
        """`[1, C, ...]` as (C, H, W); further axes are folded into H."""
        if not shape or shape[0] != 1:
            raise self.fail(node, f"shape {list(shape)}; the first axis must be a batch of 1: export with batch 1")
        rest = list(shape[1:]) or [1]
        if len(rest) < 3:
            return rest[0], rest[-1] if len(rest) > 1 else 1, 1
        return rest[0], math.prod(rest[1:-1]), rest[-1]

    def write(self, tensor: TensorId, kernel: int, shape: Shape, half_of: TensorId | None = None) -> None:
        self.values[tensor] = _Value(kernel, shape, half_of)


def fuse(graph: NodeGraph) -> tuple[Kernel, ...]:
    """Kernels of `graph` in execution order."""
    f = _Fuser(graph)
    f.values[graph.image] = _Value(IMAGE, ())
    for number, node in enumerate(graph.nodes):
        if node.op not in SUPPORTED:
            raise f.fail(node, f"this operator is not known; known ones: {', '.join(SUPPORTED)}")
        if number in f.done or node.op in FOLDED or not f.live(node):
            continue
        _walk(f, node)
    if not f.kernels:
        raise MaenasError(f"{graph.where}: no node reads the image (tensor {graph.image!r})")
    return tuple(f.kernels)


def _check(f: _Fuser, node: Node) -> None:
    """Refuse a node whose parts are missing, so that the rest can count on them."""
    least = 2 if node.op in ("Conv", "MatMul", "Gemm") else 1
    if len(node.inputs) < least or not node.outputs:
        raise f.fail(node, f"it has {len(node.inputs)} inputs and {len(node.outputs)} outputs; too few")
    if node.op in ("MatMul", "Gemm") and any(len(shape) < 2 for _, shape in (*node.inputs[:2], node.outputs[0])):
        raise f.fail(node, "only matrices of rank 2 or more can be multiplied")
    for _, shape in (*f.live(node), *node.outputs):
        if any(not 0 < side < MAX_SIDE for side in shape):
            raise f.fail(node, f"shape {list(shape)} is not static; export with fixed input sizes")


def _numbers(f: _Fuser, node: Node, name: str, default: list[int]) -> list[int]:
    """Attribute `name`, positive integers as many as in `default`."""
    found = node.attributes.get(name, default)
    found = [found] if isinstance(found, int) else found
    valid = isinstance(found, (list, tuple)) and all(isinstance(n, int) and 0 < n < MAX_SIDE for n in found)
    if not valid or len(found) != len(default):
        raise f.fail(node, f"{name} is {found!r:.60}; {len(default)} positive integers are expected")
    return list(found)


def _walk(f: _Fuser, node: Node) -> None:
    _check(f, node)
    if node.op == "Conv":
        _conv(f, node)
    elif node.op in ("MatMul", "Gemm"):
        _matmul(f, node)
    elif node.op in VIEWS:
        _view(f, node)
    elif node.op == "Concat":
        _concat(f, node)
    elif node.op in POINTWISE or node.op in ACTIVATIONS:
        _pointwise(f, node)
    else:
        _movement(f, node)


def _conv(f: _Fuser, node: Node) -> None:
    (source, shape), (_, weight) = node.inputs[0], node.inputs[1]
    if len(weight) != 4 or weight[2] != weight[3]:
        raise f.fail(node, f"weights of shape {list(weight)}; only square two-dimensional kernels are supported")
    strides = _numbers(f, node, "strides", [1, 1])
    if strides[0] != strides[1]:
        raise f.fail(node, f"strides {strides}; they must be equal")
    (groups,) = _numbers(f, node, "group", [1])
    out = node.outputs[0][1]
    if (
        source not in f.values
        or len(shape) != 4
        or len(out) != 4
        or shape[1] != weight[1] * groups
        or weight[0] != out[1]
    ):
        raise f.fail(node, f"{list(shape)} by {list(weight)} in {groups} groups is not a convolution to {list(out)}")
    if shape[1] % groups or out[1] % groups:
        raise f.fail(node, f"{groups} groups do not divide {shape[1]} and {out[1]} channels")
    index = f.emit(node, "conv", [source], (shape, out), kernel=weight[2], stride=strides[0], groups=groups)
    _absorb(f, index, node.outputs[0])


def _matmul(f: _Fuser, node: Node) -> None:
    (left, a), (right, b) = node.inputs[:2]
    out, out_shape = node.outputs[0]
    depth = b[-1] if node.op == "Gemm" and node.attributes.get("transB") else b[-2]
    batch = math.prod(out_shape[:-2]) if right in f.values else 1
    rows, columns = math.prod(out_shape) // (batch * out_shape[-1]), out_shape[-1]
    if left not in f.values or a[-1] != depth:
        raise f.fail(node, f"operands of shapes {list(a)} and {list(b)} are not a plain matrix product of activations")
    shapes = ((1, batch * depth, rows), (1, batch * columns, rows))
    index = f.emit(node, "conv", [tensor for tensor, _ in f.live(node)], shapes, groups=batch)
    _absorb(f, index, (out, out_shape))


def _absorb(f: _Fuser, index: int, output: tuple[TensorId, Shape]) -> None:
    """Pull activation, residual add and constant arithmetic that follow into kernel `index`; write its output."""
    tensor, shape = output
    while True:
        step = _next_epilogue(f, tensor, shape)
        if step is None:
            break
        entry, residual, numbers = step
        kernel = f.kernels[index]
        if residual is not None:
            if kernel.residual is not None:
                break
            kernel = replace(kernel, residual=f.values[residual].kernel)
        f.kernels[index] = replace(kernel, epilogue=kernel.epilogue if entry is None else (*kernel.epilogue, entry))
        f.done.update(numbers)
        tensor, shape = f.nodes[numbers[-1]].outputs[0]
    f.write(tensor, index, shape)


def _next_epilogue(f: _Fuser, tensor: TensorId, shape: Shape) -> tuple[Any, TensorId | None, list[int]] | None:
    """(epilogue entry, residual tensor, nodes absorbed) of what follows `tensor`, or None if it must be stored."""
    numbers = f.readers.get(tensor, [])
    readers = [f.nodes[number] for number in numbers]
    if len(readers) == 2 and readers[1].op == "Mul" and readers[0].op in GATES:
        gate = readers[0].outputs[0][0]
        if {t for t, _ in readers[1].inputs} == {tensor, gate} and len(f.readers[gate]) == 1:
            return "silu", None, numbers
    if len(readers) != 1 or readers[0].outputs[0][1] != shape:
        return None
    reader = readers[0]
    if reader.op in ACTIVATIONS:
        return ACTIVATIONS[reader.op], None, numbers
    if reader.op not in ("Add", "Sub", "Mul", "Div", "BatchNormalization"):
        return None
    others = [(t, s) for t, s in reader.inputs if t != tensor]
    if all(t not in f.computed for t, _ in others):
        return None, None, numbers
    if reader.op == "Add" and others[0][0] in f.values and others[0][1] == shape:
        return "add", others[0][0], numbers
    return None


def _view(f: _Fuser, node: Node) -> None:
    source, shape = f.live(node)[0]
    value = f.values[source]
    for tensor, out in node.outputs:
        halved = node.op == "Slice" and out in _halved(shape)
        root = (source if value.half_of is None else value.half_of) if halved else None
        f.write(tensor, value.kernel, out, root)


def _halved(shape: Shape) -> tuple[Shape, ...]:
    """Shapes of stride-2 slices of an image: both axes at once, or one after the other."""
    if len(shape) != 4:
        return ()
    n, c, h, w = shape
    return (n, c, h // 2, w // 2), (n, c, h // 2, w), (n, c, h, w // 2)


def _concat(f: _Fuser, node: Node) -> None:
    live = f.live(node)
    values = [f.values[tensor] for tensor, _ in live]
    out, shape = node.outputs[0]
    root = values[0].half_of
    if len(live) == 4 and root is not None and all(v.half_of == root for v in values):
        whole = (1, shape[1] // 4, 2 * shape[2], 2 * shape[3])
        f.write(out, f.emit(node, "space_to_depth", [live[0][0]], (whole, shape), stride=2), shape)
        return
    sources = [tensor for tensor, _ in live]
    f.write(out, f.emit(node, "concat", sources, (shape, shape)), shape)


def _pointwise(f: _Fuser, node: Node) -> None:
    """Join the pointwise kernel that made an input, if that is the newest kernel; else start one."""
    out, shape = node.outputs[0]
    live = f.live(node)
    last = len(f.kernels) - 1
    if any(f.values[t].kernel == last for t, _ in live) and last >= 0 and f.kernels[last].op == "decode":
        extra = tuple(f.values[t].kernel for t, _ in live if f.values[t].kernel != last)
        kernel = f.kernels[last]
        c, h, w = f.planes(node, shape)
        inputs = tuple(dict.fromkeys((*kernel.inputs, *extra)))
        f.kernels[last] = replace(kernel, inputs=inputs, out_channels=c, out_height=h, out_width=w)
        f.write(out, last, shape)
        return
    cin = sum(math.prod(s) for _, s in live) * f.planes(node, shape)[0] // math.prod(shape)
    f.write(out, f.emit(node, "decode", [t for t, _ in live], (shape, shape), in_channels=max(cin, 1)), shape)


def _movement(f: _Fuser, node: Node) -> None:
    """Pools, resize, space-to-depth, softmax and transpose: bytes in, bytes out."""
    source, shape = f.live(node)[0]
    out, out_shape = node.outputs[0]
    op = {"Softmax": "integral", "Transpose": "concat", "SpaceToDepth": "space_to_depth"}.get(node.op)
    fields: dict[str, int] = {}
    if node.op in POOLS:
        op = "maxpool"
        if "kernel_shape" in node.attributes:
            kernel, stride = (_numbers(f, node, name, [1, 1])[0] for name in ("kernel_shape", "strides"))
            fields = {"kernel": kernel, "stride": stride}
    f.write(out, f.emit(node, op or "resize", [source], (shape, out_shape), **fields), out_shape)
