"""Kernels -> ONNX model, without torch: with random weights to be timed, with trained ones to be deployed.

A `Conv` with bias for every convolution, its epilogue in order (SiLU as Sigmoid x Mul), stride-2 slices for
space-to-depth, softmax and a product with the bins for the integral. Shapes are static, except for the batch where
that is asked for.

Legend: B batch, C channels, H/W height and width, A positions of all levels, R largest bin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from maenas.deploy.program import Program, is_flatten
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.device import Precision
from maenas.spec import OUTPUT_STRIDES

OPSET = 20
IR_VERSION = 10
ELEMENT = {"fp32": (TensorProto.FLOAT, np.float32), "fp16": (TensorProto.FLOAT16, np.float16)}
SINK = "sink"  # begins the names of the nodes that read a tensor only for it to be computed
PATCHES = ((0, 0), (1, 0), (0, 1), (1, 1))  # row and column of top-left, bottom-left, top-right, bottom-right


def write_onnx(
    program: Program,
    *,
    precision: Precision = "fp32",
    batch: int | None = 1,
    weights: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """The model of `program`: inputs `image`, `image2`, ...; every output is named as its kernel.

    A `batch` of None leaves the first dimension open. `weights` has `NAME.conv.weight` and `NAME.conv.bias` for every
    convolution NAME, as the deployed module's state dict; without it they are random, scaled to keep magnitudes (fp16
    neither overflows nor goes denormal). Raises `MaenasError` for weights that do not fit, and for a precision that a
    plain graph cannot express.
    """
    if precision not in ELEMENT:
        raise MaenasError(f"an ONNX model of kernels is {' or '.join(ELEMENT)}, not {precision}")
    writer = _Writer(program, precision, batch, weights, np.random.default_rng(seed))
    for index, kernel in enumerate(program.kernels):
        EMIT[kernel.op](writer, index, kernel)
    outputs = [writer.output(index) for index in program.outputs]
    if program.sinks:
        outputs.append(writer.sink())
    writer.graph.input.extend(writer.images())
    writer.graph.output.extend(outputs)
    model = helper.make_model(writer.graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="maenas")
    model.ir_version = IR_VERSION
    return model


def add_node(graph: onnx.GraphProto, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
    """Append a node called as its only output; returns that name."""
    graph.node.append(helper.make_node(op, inputs, [output], output, **attributes))
    return output


def add_constant(graph: onnx.GraphProto, name: str, values: np.ndarray) -> str:
    """Append an initializer; returns its name."""
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


class _Writer:
    """A graph being written; the tensor of kernel n is called by its name."""

    def __init__(
        self,
        program: Program,
        precision: Precision,
        batch: int | None,
        weights: Mapping[str, np.ndarray] | None,
        rng: np.random.Generator,
    ) -> None:
        self.program, self.weights, self.rng = program, weights, rng
        self.batch: int | str = "batch" if batch is None else batch
        self.element, self.dtype = ELEMENT[precision]
        self.graph = onnx.GraphProto(name="maenas")

    def name(self, index: int) -> str:
        if index >= 0:
            return self.program.kernels[index].name
        return "image" if index == -1 else f"image{-index}"

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        return add_node(self.graph, op, inputs, output, **attributes)

    def constant(self, name: str, values: np.ndarray) -> str:
        return add_constant(self.graph, name, values)

    def parameters(self, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Weight of this shape and bias of a convolution."""
        if self.weights is None:
            scale = math.sqrt(1 / math.prod(shape[1:]))
            weight = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
            return weight.astype(self.dtype), np.zeros(shape[0], self.dtype)
        found = []
        for kind, wanted in (("weight", shape), ("bias", shape[:1])):
            values = self.weights.get(f"{name}.conv.{kind}")
            if values is None or values.shape != wanted:
                has = "there is none" if values is None else f"it has {list(values.shape)}"
                raise MaenasError(f"the weights do not fit the spec: {kind} of {name} must have {list(wanted)}, {has}")
            found.append(values.astype(self.dtype))
        return found[0], found[1]

    def shape(self, index: int) -> list[int]:
        """Shape as written, without the batch: [C, H, W], or [C, A] where positions are in one list."""
        channels, height, width = self.program.shape(index)
        if index >= 0:
            kernel = self.program.kernels[index]
            if kernel.op in ("integral", "decode") or (kernel.op == "concat" and is_flatten(self.program, kernel)):
                return [channels, height * width]
        return [channels, height, width]

    def is_float(self, index: int) -> bool:
        """Whether a tensor is fp32 whatever the precision: box distances lose pixels in fp16."""
        return index >= 0 and self.program.kernels[index].op in ("integral", "decode")

    def as_float(self, index: int, name: str) -> str:
        if self.is_float(index) or self.dtype == np.float32:
            return self.name(index)
        return self.node("Cast", [self.name(index)], name, to=TensorProto.FLOAT)

    def images(self) -> list[onnx.ValueInfoProto]:
        count = len(self.program.images)
        return [self.value(self.name(-n), self.element, self.shape(-n)) for n in range(1, count + 1)]

    def output(self, index: int) -> onnx.ValueInfoProto:
        element = TensorProto.FLOAT if self.is_float(index) else self.element
        return self.value(self.name(index), element, self.shape(index))

    def value(self, name: str, element: int, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, [self.batch, *shape])

    def sink(self) -> onnx.ValueInfoProto:
        """One position of each sunk tensor: a pool of one element whose stride leaves a single position.

        The strides of repeated sinks differ, so that no runtime takes them for one.
        """
        parts = []
        for number, index in enumerate(self.program.sinks):
            sides = self.shape(index)[1:]
            strides = [sides[0] + number, *sides[1:]]
            name = self.node(
                "MaxPool", [self.name(index)], f"{SINK}{number}", kernel_shape=[1] * len(sides), strides=strides
            )
            if self.is_float(index) and self.dtype != np.float32:
                name = self.node("Cast", [name], f"{SINK}{number}.cast", to=self.element)
            parts.append(name)
        rank = {len(self.shape(index)) for index in self.program.sinks}.pop()
        channels = sum(self.shape(index)[0] for index in self.program.sinks)
        self.node("Concat", parts, "sinks", axis=1)
        return self.value("sinks", self.element, [channels, *[1] * (rank - 1)])

    def activation(self, name: str, x: str, source: str) -> str:
        """`x` through relu, sigmoid or silu, into the tensor `name`."""
        if name == "silu":
            gate = self.node("Sigmoid", [x], f"{source}.gate")
            return self.node("Mul", [x, gate], f"{source}.silu")
        return self.node({"relu": "Relu", "sigmoid": "Sigmoid"}[name], [x], f"{source}.{name}")


def _conv(w: _Writer, index: int, kernel: Kernel) -> None:
    name, side, groups = kernel.name, kernel.kernel, int(kernel.groups)
    weight, bias = w.parameters(name, (int(kernel.out_channels), int(kernel.in_channels) // groups, side, side))
    output = f"{name}.conv" if kernel.epilogue else name
    x = w.node(
        "Conv",
        [w.name(kernel.inputs[0]), w.constant(f"{output}.weight", weight), w.constant(f"{output}.bias", bias)],
        output,
        kernel_shape=[side, side],
        strides=[kernel.stride] * 2,
        pads=[side // 2] * 4,
        group=groups,
    )
    for step in kernel.epilogue:
        if step == "add":
            assert kernel.residual is not None, f"{name} adds, but has no residual"
            x = w.node("Add", [x, w.name(kernel.residual)], f"{name}.add")
        else:
            x = w.activation(step, x, name)
    if kernel.epilogue:
        _rename_last(w, name)


def _rename_last(w: _Writer, name: str) -> None:
    w.graph.node[-1].output[0] = name
    w.graph.node[-1].name = name


def _maxpool(w: _Writer, index: int, kernel: Kernel) -> None:
    sides = [kernel.kernel] * 2
    w.node(
        "MaxPool",
        [w.name(kernel.inputs[0])],
        kernel.name,
        kernel_shape=sides,
        strides=[kernel.stride] * 2,
        pads=[kernel.kernel // 2] * 4,
    )


def _concat(w: _Writer, index: int, kernel: Kernel) -> None:
    if is_flatten(w.program, kernel):
        w.node("Concat", _flattened(w, kernel, [w.name(n) for n in kernel.inputs]), kernel.name, axis=2)
    else:
        w.node("Concat", [w.name(n) for n in kernel.inputs], kernel.name, axis=1)


def _flattened(w: _Writer, kernel: Kernel, tensors: list[str]) -> list[str]:
    """Each input as [B, C, H W]; in a shape, 0 keeps the batch."""
    is_map = [len(w.shape(index)) == 3 for index in kernel.inputs]
    if any(is_map):
        shape = w.constant(f"{kernel.name}.shape", np.array([0, int(kernel.out_channels), -1], np.int64))
        tensors = [
            w.node("Reshape", [x, shape], f"{kernel.name}.level{level}") if is_map[level] else x
            for level, x in enumerate(tensors)
        ]
    return tensors


def _resize(w: _Writer, index: int, kernel: Kernel) -> None:
    scales = w.constant(f"{kernel.name}.scales", np.array([1, 1, 2, 2], np.float32))
    w.node(
        "Resize",
        [w.name(kernel.inputs[0]), "", scales],
        kernel.name,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _space_to_depth(w: _Writer, index: int, kernel: Kernel) -> None:
    name = kernel.name
    axes = w.constant(f"{name}.axes", np.array([2, 3], np.int64))
    steps = w.constant(f"{name}.steps", np.array([2, 2], np.int64))
    ends = w.constant(f"{name}.ends", np.array([kernel.in_height, kernel.in_width], np.int64))
    patches = []
    for number, start in enumerate(PATCHES):
        starts = w.constant(f"{name}.start{number}", np.array(start, np.int64))
        patches.append(w.node("Slice", [w.name(kernel.inputs[0]), starts, ends, axes, steps], f"{name}.patch{number}"))
    w.node("Concat", patches, name, axis=1)


def _integral(w: _Writer, index: int, kernel: Kernel) -> None:
    """Expectation of each side's distribution over R + 1 bins, in fp32: [B, 4 (R+1), H, W] to [B, 4, H W]."""
    name, bins = kernel.name, int(kernel.in_channels) // 4
    x, positions = w.as_float(kernel.inputs[0], f"{name}.float"), kernel.in_height * kernel.in_width
    split = w.constant(f"{name}.split", np.array([0, 4, bins, positions], np.int64))
    joined = w.constant(f"{name}.joined", np.array([0, 4, positions], np.int64))
    values = w.constant(f"{name}.values", np.arange(bins, dtype=np.float32)[:, None])
    x = w.node("Reshape", [x, split], f"{name}.sides")
    x = w.node("Transpose", [x], f"{name}.bins", perm=[0, 1, 3, 2])  # [B, 4, H W, R+1]
    x = w.node("Softmax", [x], f"{name}.softmax", axis=-1)
    x = w.node("MatMul", [x, values], f"{name}.expectation")  # [B, 4, H W, 1]
    w.node("Reshape", [x, joined], name)


def _decode(w: _Writer, index: int, kernel: Kernel) -> None:
    """Distances to the four sides, in units of the stride -> boxes xyxy [B, 4, A], in fp32."""
    name = kernel.name
    centres, strides = [], []
    for stride, source in zip(OUTPUT_STRIDES, kernel.inputs, strict=False):
        _, height, width = w.program.shape(source)
        rows, columns = np.mgrid[:height, :width].reshape(2, -1)
        centres.append(np.stack([columns, rows]) * stride)
        strides.append(np.full((1, height * width), stride))
    centre = w.constant(f"{name}.centres", np.concatenate(centres, axis=1).astype(np.float32)[None])  # [1, 2, A]
    stride = w.constant(f"{name}.strides", np.concatenate(strides, axis=1).astype(np.float32)[None])  # [1, 1, A]
    sides = [w.as_float(source, f"{name}.float{level}") for level, source in enumerate(kernel.inputs)]
    x = w.node("Concat", _flattened(w, kernel, sides), f"{name}.distances", axis=2)
    x = w.node("Mul", [x, stride], f"{name}.pixels")
    axis = w.constant(f"{name}.axis", np.array([1], np.int64))
    bounds = [w.constant(f"{name}.bound{n}", np.array([n], np.int64)) for n in (0, 2, 4)]
    low = w.node("Slice", [x, bounds[0], bounds[1], axis], f"{name}.left_top")
    high = w.node("Slice", [x, bounds[1], bounds[2], axis], f"{name}.right_bottom")
    low = w.node("Sub", [centre, low], f"{name}.xy1")
    high = w.node("Add", [centre, high], f"{name}.xy2")
    w.node("Concat", [low, high], name, axis=1)


EMIT = {
    "conv": _conv,
    "maxpool": _maxpool,
    "concat": _concat,
    "resize": _resize,
    "space_to_depth": _space_to_depth,
    "integral": _integral,
    "decode": _decode,
}
