"""What fusing operators into kernels keeps in mind, and what a kernel absorbs of the operators that follow it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from maenas.errors import MaenasError
from maenas.kernels import Kernel, Op
from maenas.latency.onnx.node_graph import PRODUCT_NAMES, Node, NodeGraph, Shape, TensorId

Entry = Literal["add", "relu", "silu", "sigmoid"]  # of an epilogue
ACTIVATIONS: dict[str, Literal["relu", "silu", "sigmoid"]] = {
    # cost classes of an epilogue: clamps and simple arithmetic, an exponential, or a product with one
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Clip", "ThresholdedRelu", "Abs", "Softsign"), "relu"),
    **dict.fromkeys(("HardSigmoid", "HardSwish"), "relu"),
    **dict.fromkeys(("Sigmoid", "Tanh", "Erf", "Exp", "Elu", "Selu", "Celu"), "sigmoid"),
    **dict.fromkeys(("Mish", "Gelu", "Swish", "Softplus"), "silu"),
}
# Done on the way by their neighbours.
FREE = (*("Identity", "Dropout", "Cast", "CastLike"), *("QuantizeLinear", "DequantizeLinear"))
VIEWS = (*FREE, "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Expand")
POINTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Mod", "BatchNormalization"),
    *("Sqrt", "Neg", "Log", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Not", "IsNaN", "IsInf"),
    *("Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"),
)
ELEMENTWISE = frozenset((*ACTIVATIONS, *POINTWISE, *FREE))
NORMALISATIONS = (
    *("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization"),
    *("LpNormalization", "MeanVarianceNormalization", "LRN"),
)
POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
REDUCTIONS = (
    *("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp"),
    *("ReduceSumSquare", "ArgMax", "ArgMin"),
)
COPIES = ("Transpose", "DepthToSpace", "Tile")
GATHERS = ("Gather", "GatherElements", "GatherND", "Pad")  # copies that are as large as their result
SOFTMAXES = ("Softmax", "LogSoftmax")
FOLDED = ("Constant", "ConstantOfShape", "Shape", "Size", "Range")
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum")
MAX_SIDE = 1 << 24  # more is not a size
LONGEST_EPILOGUE = 16  # operators
SUPPORTED = frozenset(
    (*ELEMENTWISE, *VIEWS, *NORMALISATIONS, *POOLS, *REDUCTIONS, *COPIES, *GATHERS, *SOFTMAXES, *FOLDED, *PRODUCTS)
) | {"Concat", "Resize", "Upsample", "SpaceToDepth"}


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor and the kernel that wrote it; `half_of` is set on a stride-2 spatial slice."""

    kernel: int
    shape: Shape
    half_of: TensorId | None = None


class Fuser:
    """State of one walk over the nodes."""

    def __init__(self, graph: NodeGraph) -> None:
        self.where = graph.where
        self.kernels: list[Kernel] = []
        self.stand_ins: dict[int, str] = {}
        self.untimed: list[str] = []
        self.blamed = ""  # see `Lowered`
        self._causes: dict[TensorId, str] = {}  # operators to blame for tensors whose shapes are not known
        self.inside: dict[int, float] = {}  # of dilated convolutions; see `Lowered`
        self.taps: dict[int, int] = {}  # of convolutions whose kernel has about as many; see `Lowered`
        self.decoders: set[int] = set()  # kernels that read the parts of a concat of box distances
        self.joined: dict[int, list[Node]] = {}  # see `Lowered`
        self.absorbed: dict[int, list[tuple[Node, ...]]] = {}  # ways that kernels absorbed; see `absorb`
        self.values: dict[TensorId, Value] = {}
        self.done: set[int] = set()  # nodes already inside a kernel
        self.nodes = graph.nodes
        self.outputs = graph.outputs
        self.readers: dict[TensorId, list[int]] = {}
        self.computed: set[TensorId] = set(graph.images)  # tensors that depend on the image
        for number, node in enumerate(graph.nodes):
            for tensor in dict.fromkeys(tensor for tensor, _ in node.inputs):
                self.readers.setdefault(tensor, []).append(number)
            if node.op not in FOLDED and any(tensor in self.computed for tensor, _ in node.inputs):
                self.computed.update(tensor for tensor, _ in node.outputs)

    def fail(self, node: Node, message: str) -> MaenasError:
        return MaenasError(f"{self.where}: {node.op} node {node.name!r}: {message}")

    def live(self, node: Node) -> list[tuple[TensorId, Shape]]:
        """Inputs that are not constants."""
        return [(tensor, known(shape)) for tensor, shape in node.inputs if tensor in self.values]

    def leave(self, node: Node) -> None:
        """Note that a node is not timed, and which one it got an unknown shape from, if not itself."""
        cause = next((self._causes[tensor] for tensor, _ in node.inputs if tensor in self._causes), node.op)
        self._causes.update((tensor, cause) for tensor, _ in node.outputs)
        self.untimed.append(node.op)
        if not self.blamed and PRODUCT_NAMES.search(node.op):
            self.blamed = cause

    def only_reader(self, tensor: TensorId) -> Node | None:
        """The node that reads `tensor`, if there is one, it has an output, and nothing else needs the tensor."""
        numbers = self.readers.get(tensor, [])
        only = self.nodes[numbers[0]] if len(numbers) == 1 and tensor not in self.outputs else None
        return only if only is not None and only.outputs else None

    def emit(self, node: Node, op: Op, sources: Sequence[TensorId], shapes: tuple[Shape, Shape], **fields: Any) -> int:
        """Append a kernel; a source that is a view counts the kernel that wrote what it looks at."""
        (cin, hin, win), (cout, hout, wout) = (planes(shape) for shape in shapes)
        inputs = tuple(dict.fromkeys(self.values[tensor].kernel for tensor in sources))
        self.kernels.append(
            Kernel(op, node.name, inputs, fields.pop("in_channels", cin), cout, hin, win, hout, wout, **fields)
        )
        return len(self.kernels) - 1

    def write(self, tensor: TensorId, kernel: int, shape: Shape, half_of: TensorId | None = None) -> None:
        self.values[tensor] = Value(kernel, shape, half_of)


def known(shape: Shape | None) -> Shape:
    return () if shape is None else shape


def planes(shape: Shape) -> tuple[int, int, int]:
    """`[1, C, ...]` as (C, H, W), further axes folded into H. Without a batch of 1: the axes themselves."""
    rest = list(shape[1:] if shape and shape[0] == 1 else shape) or [1]
    if len(rest) < 3:
        return rest[0], rest[-1] if len(rest) > 1 else 1, 1
    return rest[0], math.prod(rest[1:-1]), rest[-1]


def absorb(f: Fuser, index: int, tensor: TensorId, shape: Shape) -> None:
    """Pull the elementwise operators that follow, and a residual add, into kernel `index`; write its output."""
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
        f.absorbed.setdefault(index, []).append(tuple(f.nodes[number] for number in numbers))
        tensor, shape = f.nodes[numbers[-1]].outputs[0][0], known(f.nodes[numbers[-1]].outputs[0][1])
    f.write(tensor, index, shape)


def _next_epilogue(f: Fuser, tensor: TensorId, shape: Shape) -> tuple[Entry | None, TensorId | None, list[int]] | None:
    """(epilogue entry, residual tensor, nodes absorbed) of what follows `tensor`, or None if it must be stored."""
    reader = f.only_reader(tensor)
    if reader is not None and reader.op == "Add" and reader.outputs[0][1] == shape:
        others = [(t, s) for t, s in reader.inputs if t != tensor]
        if others and others[0][0] in f.values and others[0][1] == shape:
            return "add", others[0][0], f.readers[tensor]
    numbers = _converging(f, tensor)
    if numbers is None or f.nodes[numbers[-1]].outputs[0][1] != shape:
        return None
    if len(numbers) == 1:
        return ACTIVATIONS.get(f.nodes[numbers[0]].op), None, numbers
    kinds = {ACTIVATIONS.get(f.nodes[number].op) for number in numbers}
    entry: Entry = "silu" if kinds & {"sigmoid", "silu"} else "relu"
    return entry, None, numbers


def _converging(f: Fuser, start: TensorId) -> list[int] | None:
    """The fewest elementwise nodes through which all that reads `start` comes together in one tensor, or None.

    They read nothing else but constants: x sigmoid(x) is such a way, and so is a single ReLU.
    """
    if start in f.outputs:
        return None
    ahead = list(f.readers.get(start, []))
    unread = {start: len(ahead)}  # nodes that have still to read a tensor
    numbers: list[int] = []
    while ahead and len(numbers) < LONGEST_EPILOGUE:
        number = heapq.heappop(ahead)
        node = f.nodes[number]
        sources = {tensor for tensor, _ in node.inputs if tensor in f.computed}
        if node.op not in ELEMENTWISE or len(node.outputs) != 1 or not sources <= unread.keys():
            return None
        numbers.append(number)
        for source in sources:
            unread[source] -= 1
        tensor = node.outputs[0][0]
        following = f.readers.get(tensor, [])
        unread[tensor] = len(following) + (tensor in f.outputs)
        if not any(count for other, count in unread.items() if other != tensor):
            return numbers
        for reader in following:
            if reader not in ahead:
                heapq.heappush(ahead, reader)
    return None


def word(node: Node, name: str, default: str) -> str:
    """Attribute `name` as text: bytes in ONNX files, text in node lists."""
    found = node.attributes.get(name, default)
    return found.decode("ascii", "replace") if isinstance(found, bytes) else str(found)


def positive(f: Fuser, node: Node, name: str, default: list[int]) -> list[int]:
    """Attribute `name`, positive integers as many as in `default`."""
    found = node.attributes.get(name, default)
    found = [found] if isinstance(found, int) else found
    valid = isinstance(found, (list, tuple)) and all(isinstance(n, int) and 0 < n < MAX_SIDE for n in found)
    if not valid or len(found) != len(default):
        raise f.fail(node, f"{name} is {found!r:.60}; {len(default)} positive integers are expected")
    return list(found)


def stand_in(f: Fuser, node: Node) -> None:
    """A pointwise kernel that reads as many elements as the node does, constants too, and writes as many."""
    shape = known(node.outputs[0][1])
    channels, height, width = planes(shape)
    read = sum(math.prod(s) for _, s in node.inputs if s is not None)
    written = sum(math.prod(known(s)) for _, s in node.outputs)
    index = f.emit(node, "pointwise", [t for t, _ in f.live(node)], (shape, shape))
    plane = height * width
    f.kernels[index] = replace(
        f.kernels[index], in_channels=max(1, -(-read // plane)), out_channels=max(channels, -(-written // plane))
    )
    f.stand_ins[index] = node.op
    for tensor, out in node.outputs:
        f.write(tensor, index, known(out))
