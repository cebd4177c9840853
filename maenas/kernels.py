"""Deployed kernels, and the graph in which the lowering lays them out.

A kernel is one convolution or product of matrices with what a runtime fuses into it (bias, residual add, activation),
or one data movement (pool, concat, resize, space-to-depth, box decoding). RepConv and batch norm are already folded.
The list is in execution order and keeps its edges (`inputs`, `residual`), so that it is the whole graph.

A `matmul` has the rows of its left operand as positions `[C, rows, 1]` and one group for each pair of matrices. A
`softmax` has its rows there, too. Both, a `mean` over the positions and `pointwise` arithmetic occur in networks of
others only.

Widths may be NumPy integer arrays that broadcast against each other: one call then lowers a whole table of stages.

Legend: C channels, A anchors (positions of all levels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Width = Any  # int, or integer array when a table of stages is lowered at once
Op = Literal[
    "conv",
    "matmul",
    "maxpool",
    "mean",
    "concat",
    "resize",
    "space_to_depth",
    "integral",
    "softmax",
    "pointwise",
    "decode",
]
Epilogue = tuple[Literal["add", "relu", "silu", "sigmoid"], ...]
PRODUCTS = ("conv", "matmul")  # the ops that multiply
OF_ROWS = ("matmul", "softmax")  # the ops whose tensors are rows `[H W, C]`
IMAGE = -1  # `Kernel.inputs` entry that stands for the network's input


@dataclass(frozen=True, slots=True)
class Kernel:
    """One deployed kernel; NCHW, batch 1.

    `signal_fan_in` is the number of terms through which the backbone's main path enters an output of this
    convolution; 0 for kernels that are not on the main path (see `score`). `stage` is 0 for the stem, 1.. for
    backbone stages, -1 for neck and head. `computed` says of a product that its right operand is no weights but a
    tensor of each image, as in attention.
    """

    op: Op
    name: str
    inputs: tuple[int, ...]
    in_channels: Width
    out_channels: Width
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    kernel: int = 1
    stride: int = 1
    groups: Width = 1
    epilogue: Epilogue = ()
    residual: int | None = None
    stage: int = -1
    signal_fan_in: Width = 0
    computed: bool = False


def is_depthwise(kernel: Kernel) -> bool:
    """Whether a convolution with scalar widths has a filter of its own for every input channel."""
    return kernel.op == "conv" and 1 < kernel.groups == kernel.in_channels


@dataclass(frozen=True, slots=True)
class Tensor:
    """Output of kernel `index` (`IMAGE` for the input)."""

    index: int
    channels: Width
    height: int
    width: int


class Graph:
    """Kernels being laid out, in execution order."""

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []
        self.stage = -1

    def _append(self, op: Op, name: str, xs: tuple[Tensor, ...], out: Width, size: tuple[int, int], **fields) -> Tensor:
        self.kernels.append(
            Kernel(
                op=op,
                name=name,
                inputs=tuple(x.index for x in xs),
                in_channels=sum(x.channels for x in xs),
                out_channels=out,
                in_height=xs[0].height,
                in_width=xs[0].width,
                out_height=size[0],
                out_width=size[1],
                stage=self.stage,
                **fields,
            )
        )
        return Tensor(len(self.kernels) - 1, out, *size)

    def conv(
        self,
        name: str,
        x: Tensor,
        out: Width,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: Width = 1,
        epilogue: Epilogue = (),
        residual: Tensor | None = None,
        signal_fan_in: Width = 0,
    ) -> Tensor:
        return self._append(
            "conv",
            name,
            (x,),
            out,
            (-(-x.height // stride), -(-x.width // stride)),
            kernel=kernel,
            stride=stride,
            groups=groups,
            epilogue=epilogue,
            residual=None if residual is None else residual.index,
            signal_fan_in=signal_fan_in,
        )

    def main_conv(self, name: str, x: Tensor, out: Width, *, kernel: int = 1, groups: Width = 1, **fields) -> Tensor:
        """A convolution all of whose inputs carry the main path."""
        fan_in = x.channels // groups * kernel**2
        return self.conv(name, x, out, kernel=kernel, groups=groups, signal_fan_in=fan_in, **fields)

    def maxpool(self, name: str, x: Tensor, kernel: int) -> Tensor:
        return self._append("maxpool", name, (x,), x.channels, (x.height, x.width), kernel=kernel)

    def concat(self, name: str, xs: tuple[Tensor, ...]) -> Tensor:
        return self._append("concat", name, xs, sum(x.channels for x in xs), (xs[0].height, xs[0].width))

    def upsample(self, name: str, x: Tensor) -> Tensor:
        return self._append("resize", name, (x,), x.channels, (2 * x.height, 2 * x.width))

    def space_to_depth(self, name: str, x: Tensor) -> Tensor:
        return self._append("space_to_depth", name, (x,), 4 * x.channels, (x.height // 2, x.width // 2), stride=2)

    def integral(self, name: str, x: Tensor) -> Tensor:
        """Softmax over each side's bins and their expectation: 4 (R + 1) channels to 4."""
        return self._append("integral", name, (x,), 4, (x.height, x.width))

    def flatten(self, op: Literal["concat", "decode"], name: str, xs: tuple[Tensor, ...]) -> Tensor:
        """All positions of all levels in one list, `[C, A, 1]`; `decode` also turns distances into boxes."""
        anchors = sum(x.height * x.width for x in xs)
        indices, channels = tuple(x.index for x in xs), xs[0].channels
        self.kernels.append(Kernel(op, name, indices, channels, channels, anchors, 1, anchors, 1, stage=self.stage))
        return Tensor(len(self.kernels) - 1, channels, anchors, 1)
