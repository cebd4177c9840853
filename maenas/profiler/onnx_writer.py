"""Kernels -> ONNX model with random weights, without torch.

The nodes are those that the trained detector's export has after folding: a `Conv` with bias for every convolution,
its epilogue in order (SiLU as Sigmoid x Mul), stride-2 slices for space-to-depth, softmax and a product with the
bins for the integral. Shapes are static.

Legend: B batch, C channels, H/W height and width, A positions of all levels, R largest bin.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from maenas.errors import MaenasError
from maenas.latency.device import Precision
from maenas.lowering import Kernel
from maenas.profiler.program import Program, is_flatten
from maenas.spec import OUTPUT_STRIDES

OPSET = 20
IR_VERSION = 10
ELEMENT = {"fp32": (TensorProto.FLOAT, np.float32), "fp16": (TensorProto.FLOAT16, np.float16)}
PATCHES = ((0, 0), (1, 0), (0, 1), (1, 1))  # row and column of top-left, bottom-left, top-right, bottom-right


def write_onnx(program: Program, *, precision: Precision = "fp32", batch: int = 1, seed: int = 0) -> onnx.ModelProto:
    """The model of `program`: inputs `image`, `image2`, ...; every output is named as its kernel.

    Weights are random, scaled to keep magnitudes (fp16 neither overflows nor goes denormal). Raises `MaenasError` for
    a precision that a plain graph cannot express.
    """
    if precision not in ELEMENT:
        raise MaenasError(f"an ONNX model of kernels is {' or '.join(ELEMENT)}, not {precision}")
    writer = _Writer(program, precision, batch, np.random.default_rng(seed))
    for index, kernel in enumerate(program.kernels):
        EMIT[kernel.op](writer, index, kernel)
    outputs = [writer.output(index) for index in program.outputs]
    if program.sinks:
        outputs.append(writer.sink())
    graph = helper.make_graph(writer.nodes, "maenas", writer.images(), outputs, writer.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="maenas")
    model.ir_version = IR_VERSION
    return model


class _Writer:
    """A graph being written; the tensor of kernel n is called by its name."""

    def __init__(self, program: Program, precision: Precision, batch: int, rng: np.random.Generator) -> None:
        self.program, self.batch, self.rng = program, batch, rng
        self.element, self.dtype = ELEMENT[precision]
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def name(self, index: int) -> str:
        if index >= 0:
            return self.program.kernels[index].name
        return "image" if index == -1 else f"image{-index}"

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def dims(self, index: int) -> list[int]:
        """Shape as written: [B, C, H, W], or [B, C, A] after flattening."""
        channels, height, width = self.program.shape(index)
        if index >= 0:
            kernel = self.program.kernels[index]
            if kernel.op == "decode" or (kernel.op == "concat" and is_flatten(self.program, kernel)):
                return [self.batch, channels, height]
        return [self.batch, channels, height, width]

    def is_float(self, index: int) -> bool:
        """Whether a tensor is fp32 whatever the precision: box distances lose pixels in fp16."""
        return index >= 0 and self.program.kernels[index].op in ("integral", "decode")

    def as_float(self, index: int, name: str) -> str:
        if self.is_float(index) or self.dtype == np.float32:
            return self.name(index)
        return self.node("Cast", [self.name(index)], name, to=TensorProto.FLOAT)

    def images(self) -> list[onnx.ValueInfoProto]:
        count = len(self.program.images)
        return [helper.make_tensor_value_info(self.name(-n), self.element, self.dims(-n)) for n in range(1, count + 1)]

    def output(self, index: int) -> onnx.ValueInfoProto:
        element = TensorProto.FLOAT if self.is_float(index) else self.element
        return helper.make_tensor_value_info(self.name(index), element, self.dims(index))

    def sink(self) -> onnx.ValueInfoProto:
        """One position of each sunk tensor: a pool of one element whose stride leaves a single position.

        The strides of repeated sinks differ, so that no runtime takes them for one.
        """
        parts = []
        for number, index in enumerate(self.program.sinks):
            sides = self.dims(index)[2:]
            strides = [sides[0] + number, *sides[1:]]
            name = self.node(
                "MaxPool", [self.name(index)], f"sink{number}", kernel_shape=[1] * len(sides), strides=strides
            )
            if self.is_float(index) and self.dtype != np.float32:
                name = self.node("Cast", [name], f"sink{number}.cast", to=self.element)
            parts.append(name)
        rank = {len(self.dims(index)) for index in self.program.sinks}.pop()
        channels = sum(self.dims(index)[1] for index in self.program.sinks)
        self.node("Concat", parts, "sinks", axis=1)
        return helper.make_tensor_value_info("sinks", self.element, [self.batch, channels, *[1] * (rank - 2)])

    def activation(self, name: str, x: str, source: str) -> str:
        """`x` through relu, sigmoid or silu, into the tensor `name`."""
        if name == "silu":
            gate = self.node("Sigmoid", [x], f"{source}.gate")
            return self.node("Mul", [x, gate], f"{source}.silu")
        return self.node({"relu": "Relu", "sigmoid": "Sigmoid"}[name], [x], f"{source}.{name}")

    def conv_node(self, x: str, output: str, weight: np.ndarray, *, bias: bool, **attributes: Any) -> str:
        inputs = [x, self.constant(f"{output}.weight", weight)]
        if bias:
            inputs.append(self.constant(f"{output}.bias", np.zeros(len(weight), weight.dtype)))
        return self.node("Conv", inputs, output, **attributes)


def _conv(w: _Writer, index: int, kernel: Kernel) -> None:
    name, side, groups = kernel.name, kernel.kernel, int(kernel.groups)
    shape = (int(kernel.out_channels), int(kernel.in_channels) // groups, side, side)
    scale = math.sqrt(1 / (shape[1] * side * side))
    weight = (w.rng.standard_normal(shape, np.float32) * np.float32(scale)).astype(w.dtype)
    attributes: dict[str, Any] = {
        "kernel_shape": [side, side],
        "strides": [kernel.stride] * 2,
        "pads": [side // 2] * 4,
        "group": groups,
    }
    x = w.conv_node(
        w.name(kernel.inputs[0]), f"{name}.conv" if kernel.epilogue else name, weight, bias=True, **attributes
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
    w.nodes[-1].output[0] = name
    w.nodes[-1].name = name


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
    """Each input as [B, C, H W]."""
    shape = w.constant(f"{kernel.name}.shape", np.array([w.batch, int(kernel.out_channels), -1], np.int64))
    return [w.node("Reshape", [x, shape], f"{kernel.name}.level{level}") for level, x in enumerate(tensors)]


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
    """Expectation of each side's distribution over R + 1 bins, in fp32: [B, 4 (R+1), H, W] to [B, 4, H, W]."""
    name, bins = kernel.name, int(kernel.in_channels) // 4
    x, positions = w.as_float(kernel.inputs[0], f"{name}.float"), kernel.in_height * kernel.in_width
    split = w.constant(f"{name}.split", np.array([w.batch, 4, bins, positions], np.int64))
    joined = w.constant(f"{name}.joined", np.array([w.batch, 4, kernel.out_height, kernel.out_width], np.int64))
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
