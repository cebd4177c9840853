"""What a backend times: kernels with the tensors they read from outside, and what becomes of their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maenas.kernels import IMAGE, Kernel

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Program:
    """A graph of kernels. A negative entry -n of `Kernel.inputs` or `residual` is the n-th of `images`.

    `outputs` are returned whole. Of `sinks` a runtime that drops what nobody reads returns one position a channel:
    that makes it compute a tensor without copying it. The same index may stand there more than once. `rows` are images
    that lie in memory as rows `[H W, C]`, though no kernel reads them so.
    """

    kernels: tuple[Kernel, ...]
    images: tuple[Shape, ...]
    outputs: tuple[int, ...] = ()
    sinks: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()

    def shape(self, index: int) -> Shape:
        """Shape of a kernel's result or, where `index` is negative, of an image."""
        if index < 0:
            return self.images[-index - 1]
        kernel = self.kernels[index]
        return int(kernel.out_channels), kernel.out_height, kernel.out_width


def network(kernels: Sequence[Kernel]) -> Program:
    """A whole lowered network: one image in, whatever no kernel reads out."""
    read = {index for kernel in kernels for index in (*kernel.inputs, kernel.residual) if index is not None}
    first = next(kernel for kernel in kernels if IMAGE in kernel.inputs)
    image = (int(first.in_channels), first.in_height, first.in_width)
    return Program(tuple(kernels), (image,), tuple(index for index in range(len(kernels)) if index not in read))


def is_flatten(program: Program, kernel: Kernel) -> bool:
    """Whether a `concat` joins the positions of all levels `[C, A]` and not channels."""
    return any(program.shape(index)[1:] != (kernel.out_height, kernel.out_width) for index in kernel.inputs)
