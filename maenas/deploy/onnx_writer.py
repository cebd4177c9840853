"""Kernels -> ONNX model, without torch: with random weights to be timed, with trained ones to be deployed.

A `Conv` with bias for every convolution, its epilogue in order (SiLU as Sigmoid x Mul), stride-2 slices for
space-to-depth, softmax and a product with the bins for the integral. Shapes are static, except for the batch where
that is asked for. `matmul` and `softmax` read and write rows `[B, H W, C]`, as networks of tokens keep them.

Legend: B batch, C channels, H/W height and width, A positions of all levels, R largest bin.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from maenas.deploy.onnx_graph import ELEMENT, GraphWriter
from maenas.deploy.program import Program, is_flatten
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.device import Precision
from maenas.spec import OUTPUT_STRIDES

OPSET = 20
IR_VERSION = 10
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
    writer = GraphWriter(program, precision, batch, weights, np.random.default_rng(seed))
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


def _conv(w: GraphWriter, index: int, kernel: Kernel) -> None:
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
    _epilogue(w, kernel, x)


def _epilogue(w: GraphWriter, kernel: Kernel, x: str) -> None:
    """What follows the product `x`; the last node gets the kernel's name."""
    for step in kernel.epilogue:
        if step == "add":
            assert kernel.residual is not None, f"{kernel.name} adds, but has no residual"
            x = w.node("Add", [x, w.name(kernel.residual)], f"{kernel.name}.add")
        else:
            x = w.activation(step, x, kernel.name)
    if kernel.epilogue:
        _rename_last(w, kernel.name)


def _rename_last(w: GraphWriter, name: str) -> None:
    w.graph.node[-1].output[0] = name
    w.graph.node[-1].name = name


def _matmul(w: GraphWriter, index: int, kernel: Kernel) -> None:
    """Rows by a constant matrix, and a bias: [B, H W, Cin] to [B, H W, Cout]."""
    name, output = kernel.name, f"{kernel.name}.sum" if kernel.epilogue else kernel.name
    weight, bias = w.parameters(name, (int(kernel.out_channels), int(kernel.in_channels)))
    matrix, bias = w.constant(f"{name}.weight", weight.T.copy()), w.constant(f"{name}.bias", bias)
    x = w.node("MatMul", [w.name(kernel.inputs[0]), matrix], f"{name}.product")
    _epilogue(w, kernel, w.node("Add", [x, bias], output))


def _softmax(w: GraphWriter, index: int, kernel: Kernel) -> None:
    w.node("Softmax", [w.name(kernel.inputs[0])], kernel.name, axis=-1)


def _mean(w: GraphWriter, index: int, kernel: Kernel) -> None:
    axes = w.constant(f"{kernel.name}.axes", np.array([2, 3], np.int64))
    w.node("ReduceMean", [w.name(kernel.inputs[0]), axes], kernel.name, keepdims=1)


def _pointwise(w: GraphWriter, index: int, kernel: Kernel) -> None:
    """The product of two maps, or of one with a number for each channel."""
    tensors = [w.name(source) for source in kernel.inputs]
    if len(tensors) == 1:
        factor = w.rng.random((int(kernel.out_channels), 1, 1), np.float32).astype(w.dtype)
        tensors.append(w.constant(f"{kernel.name}.factor", factor))
    w.node("Mul", tensors, kernel.name)


def _maxpool(w: GraphWriter, index: int, kernel: Kernel) -> None:
    sides = [kernel.kernel] * 2
    w.node(
        "MaxPool",
        [w.name(kernel.inputs[0])],
        kernel.name,
        kernel_shape=sides,
        strides=[kernel.stride] * 2,
        pads=[kernel.kernel // 2] * 4,
    )


def _concat(w: GraphWriter, index: int, kernel: Kernel) -> None:
    if is_flatten(w.program, kernel):
        w.node("Concat", _flattened(w, kernel, [w.name(n) for n in kernel.inputs]), kernel.name, axis=2)
    else:
        w.node("Concat", [w.name(n) for n in kernel.inputs], kernel.name, axis=1)


def _flattened(w: GraphWriter, kernel: Kernel, tensors: list[str]) -> list[str]:
    """Each input as [B, C, H W]; in a shape, 0 keeps the batch."""
    is_map = [len(w.shape(index)) == 3 for index in kernel.inputs]
    if any(is_map):
        shape = w.constant(f"{kernel.name}.shape", np.array([0, int(kernel.out_channels), -1], np.int64))
        tensors = [
            w.node("Reshape", [x, shape], f"{kernel.name}.level{level}") if is_map[level] else x
            for level, x in enumerate(tensors)
        ]
    return tensors


def _resize(w: GraphWriter, index: int, kernel: Kernel) -> None:
    scales = w.constant(f"{kernel.name}.scales", np.array([1, 1, 2, 2], np.float32))
    w.node(
        "Resize",
        [w.name(kernel.inputs[0]), "", scales],
        kernel.name,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _space_to_depth(w: GraphWriter, index: int, kernel: Kernel) -> None:
    name = kernel.name
    axes = w.constant(f"{name}.axes", np.array([2, 3], np.int64))
    steps = w.constant(f"{name}.steps", np.array([2, 2], np.int64))
    ends = w.constant(f"{name}.ends", np.array([kernel.in_height, kernel.in_width], np.int64))
    patches = []
    for number, start in enumerate(PATCHES):
        starts = w.constant(f"{name}.start{number}", np.array(start, np.int64))
        patches.append(w.node("Slice", [w.name(kernel.inputs[0]), starts, ends, axes, steps], f"{name}.patch{number}"))
    w.node("Concat", patches, name, axis=1)


def _integral(w: GraphWriter, index: int, kernel: Kernel) -> None:
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


def _decode(w: GraphWriter, index: int, kernel: Kernel) -> None:
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
    "matmul": _matmul,
    "maxpool": _maxpool,
    "mean": _mean,
    "concat": _concat,
    "resize": _resize,
    "space_to_depth": _space_to_depth,
    "integral": _integral,
    "softmax": _softmax,
    "pointwise": _pointwise,
    "decode": _decode,
}
