"""Convolutions and matrix products as `conv` and `matmul` kernels."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence

import numpy as np

from maenas.latency.onnx.fuser import Fuser, absorb, known, positive, word
from maenas.latency.onnx.node_graph import Node, Shape, TensorId


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
    read, written = _image(shape), _image(out)
    taps = math.prod(weight[2:])
    square = len(weight) == 4 and len({*weight[2:]}) == 1 and len({*strides}) == 1
    if transposed:
        index = _transposed(f, node, weight[2] if square else 0, strides[0], groups)
    elif square or 1 < groups == cin[0]:  # a line is as many taps; unrolled, its one column a group were a whole tile
        side = max(1, round(math.sqrt(taps)))
        index = f.emit(node, "conv", [source], (read, written), kernel=side, stride=min(strides), groups=groups)
        if side**2 != taps:
            f.taps[index] = taps
        if square and (share := _share_inside(f, node, shape[2:], weight[2:], out[2:])) < 1:
            f.inside[index] = share
    else:
        unrolled = (1, cin[0] * taps, -(-math.prod(shape) // (cin[0] * taps)), 1)  # each element is read once
        index = f.emit(node, "conv", [source], (unrolled, written), groups=groups)
    absorb(f, index, tensor, out)


def _share_inside(f: Fuser, node: Node, read: Shape, taps: Shape, written: Shape) -> float:
    """Of what a convolution multiplies, the share that is of its image and not of the padding; 1 without dilation.

    `read`, `taps` and `written` are the sides of image, window and result. Raises `MaenasError` for attributes of
    another number than there are axes.
    """
    axes = len(taps)
    dilations = positive(f, node, "dilations", [1] * axes)
    if max(dilations) == 1:
        return 1.0
    strides = positive(f, node, "strides", [1] * axes)
    shares = []
    for axis, (size, taken, out) in enumerate(zip(read, taps, written, strict=True)):
        step, apart = strides[axis], dilations[axis]
        first = np.arange(out)[:, None] * step - _before(node, axis, (out - 1) * step + (taken - 1) * apart + 1 - size)
        places = first + np.arange(taken) * apart
        shares.append(float(np.mean((places >= 0) & (places < size))))
    return math.prod(shares)


def _before(node: Node, axis: int, lacking: int) -> int:
    """Padding before the first element of an axis whose windows reach `lacking` elements too far."""
    pads = node.attributes.get("pads")
    if word(node, "auto_pad", "NOTSET") == "NOTSET":
        return pads[axis] if isinstance(pads, (list, tuple)) and len(pads) > axis else 0
    return max(0, lacking) // 2


def _image(shape: Shape) -> Shape:
    """A tensor of any rank as one image, further images and axes folded into its height."""
    return 1, shape[1], shape[0] * math.prod(shape[2:-1]), shape[-1]


def _transposed(f: Fuser, node: Node, size: int, stride: int, groups: int) -> int:
    """A square kernel whose size is a multiple of the stride: that many times smaller, one set of outputs a phase.

    Any other: each input position gives one value a tap and output channel, so the operations are exact and too many
    elements are written. `size` is 0 for a kernel or stride that is not square.
    """
    (source, shape), (_, weight) = ((tensor, known(shape)) for tensor, shape in node.inputs[:2])
    phases = stride**2 if size and size % stride == 0 else math.prod(weight[2:])
    kernel = size // stride if size and size % stride == 0 else 1
    read = _image(shape)
    written = (1, weight[1] * groups * phases, *read[2:])
    return f.emit(node, "conv", [source], (read, written), kernel=kernel, groups=groups)


def matmul(f: Fuser, node: Node) -> None:
    """`MatMul` and `Gemm`. Raises `MaenasError` where the shapes contradict each other."""
    (left, a), (right, b) = ((tensor, known(shape)) for tensor, shape in node.inputs[:2])
    a, b = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    operands = [tensor for tensor in (left, right) if tensor in f.values]
    if min(len(a), len(b)) < 2 or not operands:
        raise f.fail(node, f"operands of shapes {list(a)} and {list(b)} are no product of what depends on the image")
    if node.op == "Gemm":
        a = (a[1], a[0]) if node.attributes.get("transA") else a
        b = (b[1], b[0]) if node.attributes.get("transB") else b
    if a[-1] != b[-2]:
        raise f.fail(node, f"operands of shapes {list(a)} and {list(b)} cannot be multiplied")
    batch = math.prod(known(node.outputs[0][1])) // (a[-2] * b[-1])
    own = math.prod((a if left not in f.values else b)[:-2])
    _product(f, node, operands, (batch, a[-2], a[-1], b[-1]), own)


def einsum(f: Fuser, node: Node) -> None:
    """`Einsum` of two operands, and of one as a copy. Raises `MaenasError` for an equation that is neither."""
    text = word(node, "equation", "").replace(" ", "")
    shapes = [known(shape) for _, shape in node.inputs]
    terms = _terms(text, shapes)
    if terms is None or len(shapes) > 2:
        raise f.fail(node, f"the equation {text:.60} is not one of one or two operands of these shapes")
    *operands_axes, out = terms
    operands = [tensor for tensor, _ in node.inputs if tensor in f.values]
    if len(shapes) == 1:
        tensor, shape = node.outputs[0][0], known(node.outputs[0][1])
        f.write(tensor, f.emit(node, "concat", operands, (shapes[0], shape)), shape)
        return
    left, right = operands_axes
    sides = dict(zip(left + right, (*shapes[0], *shapes[1]), strict=True))
    batch, rows, depth, columns = (
        math.prod(sides[axis] for axis in axes)
        for axes in (
            set(left) & set(right) & set(out),
            (set(left) - set(right)) & set(out),
            (set(left) & set(right)) - set(out),
            (set(right) - set(left)) & set(out),
        )
    )
    _product(f, node, operands, (batch, rows, depth, columns), batch)


def _terms(text: str, shapes: Sequence[Shape]) -> list[str] | None:
    """The axes of each operand and of the result, a letter each; None where they do not fit the shapes."""
    terms = re.fullmatch(r"([a-zA-Z.]+)(?:,([a-zA-Z.]+))?(?:->([a-zA-Z.]*))?", text)
    if terms is None:
        return None
    first, second, result = terms.groups()
    operands = [term for term in (first, second) if term is not None]
    if len(operands) != len(shapes) or any(term.count("...") > 1 for term in operands):
        return None
    free = [letter for letter in string.ascii_letters if letter not in text]
    dots = [len(s) - len(t) + 3 if "..." in t else 0 for t, s in zip(operands, shapes, strict=True)]
    if max(dots) > len(free) or min(dots) < 0:
        return None
    most = "".join(free[: max(dots)])  # broadcast from the last axis on
    operands = [t.replace("...", most[len(most) - n :]) for t, n in zip(operands, dots, strict=True)]
    if result is None:
        letters = "".join(operands).translate({ord(letter): None for letter in most})
        result = most + "".join(sorted(letter for letter in letters if letters.count(letter) == 1))
    result = result.replace("...", most)
    fits = all(len(t) == len(s) for t, s in zip(operands, shapes, strict=True))
    return [*operands, result] if fits and "." not in "".join((*operands, result)) else None


def _product(f: Fuser, node: Node, operands: list[TensorId], sizes: tuple[int, int, int, int], own: int) -> None:
    """`batch` products of `[rows, depth]` and `[depth, columns]`: rows are positions, columns and depth channels of one
    group a batch entry. Of two operands the constant one stands where weights do: it has `own` matrices, and the batch
    entries that share one are rows."""
    batch, rows, depth, columns = sizes
    out, shape = node.outputs[0][0], known(node.outputs[0][1])
    if batch * rows * columns != math.prod(shape):
        raise f.fail(node, f"{batch} products of {rows} x {depth} and {depth} x {columns} do not give {list(shape)}")
    if node.inputs[0][0] not in f.values:
        rows, columns = columns, rows
    if len(operands) == 1 and own and batch % own == 0:
        batch, rows = own, batch // own * rows
    shapes = ((1, batch * depth, rows), (1, batch * columns, rows))
    kernel = f.emit(node, "matmul", operands, shapes, groups=batch, computed=len(operands) > 1)
    absorb(f, kernel, out, shape)
