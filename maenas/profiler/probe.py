"""One kernel inside a graph: how to time it as it runs in a network, and not as it runs alone.

Alone, a convolution pays for reordering its input and output to the layout that the runtime likes; inside a network
neighbours hand tensors over in that layout. So copies of the kernel stand between a producer and a sink, and the same
graph without the kernel is subtracted:

    t = (T(producers, d kernels, sinks) - T(producers, sinks)) / d, corrected for the difference in sinks

The copies of a convolution or product share their input and have weights of their own; each copy of anything else, and
each residual, has its own producer, so that a runtime can neither merge copies nor take in-place shortcuts away. A
runtime that merges convolutions of one input, as TensorRT does, gets every copy `apart`: with a producer of its own,
which has an image of its own.
Blocks are timed in the same way, as wholes; networks run from their own input to their own outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from maenas.deploy.program import Program, Shape, network
from maenas.kernels import OF_ROWS, PRODUCTS, Kernel
from maenas.latency.measured import BlockKey, KernelKey, block_kernels, key_of
from maenas.lowering import lower
from maenas.spec import DetectorSpec

PRODUCER_CHANNELS = 8  # of the 1x1 convolution that brings a tensor into the runtime's layout
FEWEST_CHANNELS = 16  # thinner tensors come straight from outside: runtimes do not reorder them
SINKS = 32


@dataclass(frozen=True)
class Sample:
    """A kernel to be timed: `kernel` numbers its inputs from 0, `inputs` are their shapes."""

    key: KernelKey
    kernel: Kernel
    inputs: tuple[Shape, ...]


Item = Sample | BlockKey | DetectorSpec  # what can be timed: a kernel, a block, a network
ItemKey = KernelKey | BlockKey | str
T = TypeVar("T", bound=Item)


def item_key(item: Item) -> ItemKey:
    """What tells items apart."""
    if isinstance(item, Sample):
        return item.key
    return item.id if isinstance(item, DetectorSpec) else item


def item_kernels(item: Item) -> tuple[Kernel, ...]:
    """The kernels that an item consists of."""
    if isinstance(item, Sample):
        return (item.kernel,)
    return lower(item) if isinstance(item, DetectorSpec) else block_kernels(item)


def in_graph(item: Item, copies: int, *, apart: bool = False) -> tuple[Program, ...]:
    """What to time for an item: a program, and for kernels and blocks a second one to be subtracted from it."""
    if isinstance(item, DetectorSpec):
        return (network(lower(item)),)
    layout = _Layout(apart)
    return _kernel_probe(item, copies, layout) if isinstance(item, Sample) else _block_probe(item, copies, layout)


def sample_of(program: Program, kernel: Kernel) -> Sample:
    """`kernel` of `program`, cut out."""
    shapes = tuple(program.shape(index) for index in kernel.inputs)
    return Sample(key_of(kernel), replace(kernel, signal_fan_in=0), shapes)


def _kernel_probe(sample: Sample, copies: int, layout: _Layout) -> tuple[Program, Program]:
    """Producers, `copies` of the kernel and a sink for each; and the producers with a sink for each tensor read."""
    sources = layout.sources(sample, copies)
    read = dict.fromkeys(index for inputs, residual in sources for index in (*inputs, residual) if index is not None)
    without = layout.program(tuple(read), rows=tuple(read) if sample.kernel.op in OF_ROWS else ())
    results = [
        layout.add(replace(sample.kernel, name=f"probe{number}", inputs=tuple(inputs), residual=residual))
        for number, (inputs, residual) in enumerate(sources)
    ]
    return layout.program(tuple(results)), without


def _block_probe(key: BlockKey, copies: int, layout: _Layout) -> tuple[Program, Program]:
    """A producer, `copies` of the block that read it and a sink for each; and the producer with one sink.

    In a layout that is `apart`, there is a producer for each copy, and a sink for each producer.
    """
    shape = (key.in_channels, key.height, key.width)
    sources = [layout.produce(shape) for _ in range(copies)] if layout.apart else [layout.produce(shape)] * copies
    without = layout.program(tuple(dict.fromkeys(sources)))
    kernels, results = block_kernels(key), []
    for copy, source in enumerate(sources):
        offset = len(layout.kernels)
        for kernel in kernels:
            place = [source if index < 0 else index + offset for index in kernel.inputs]
            residual = kernel.residual
            if residual is not None:
                residual = source if residual < 0 else residual + offset
            layout.add(replace(kernel, name=f"copy{copy}.{kernel.name}", inputs=tuple(place), residual=residual))
        results.append(len(layout.kernels) - 1)
    return layout.program(tuple(results)), without


def alone(sample: Sample) -> Program:
    """The kernel and nothing else: what "separately timed" means elsewhere."""
    layout = _Layout()
    inputs = tuple(layout.image(shape) for shape in sample.inputs)
    residual = None if sample.kernel.residual is None else layout.image(_out_shape(sample.kernel))
    kernel = replace(sample.kernel, name="alone", inputs=inputs, residual=residual)
    return Program((kernel,), tuple(layout.images), outputs=(0,))


def sink_programs() -> tuple[Program, Program]:
    """Two graphs that differ by `SINKS` sinks."""
    layout = _Layout()
    tensor = layout.produce((64, 8, 8))
    few = layout.program((tensor,))
    return few, replace(few, sinks=(tensor,) * (SINKS + 1))


class _Layout:
    """Kernels and images being laid out; `apart`, no two of them read the same."""

    def __init__(self, apart: bool = False) -> None:
        self.apart = apart
        self.kernels: list[Kernel] = []
        self.images: list[Shape] = []

    def program(self, sinks: tuple[int, ...], rows: tuple[int, ...] = ()) -> Program:
        """What is laid out so far."""
        return Program(tuple(self.kernels), tuple(self.images), sinks=sinks, rows=rows)

    def add(self, kernel: Kernel) -> int:
        self.kernels.append(kernel)
        return len(self.kernels) - 1

    def image(self, shape: Shape) -> int:
        self.images.append(shape)
        return -len(self.images)

    def produce(self, shape: Shape) -> int:
        """A tensor that stands where a network's own would: written by a 1x1 convolution."""
        channels, height, width = shape
        if channels < FEWEST_CHANNELS:
            return self.image(shape)
        source = self._source(height, width)
        name = f"producer{len(self.kernels)}"
        return self.add(
            Kernel(
                "conv", name, (source,), PRODUCER_CHANNELS, channels, height, width, height, width, epilogue=("relu",)
            )
        )

    def _source(self, height: int, width: int) -> int:
        shape = (PRODUCER_CHANNELS, height, width)
        known = shape in self.images and not self.apart
        return -1 - self.images.index(shape) if known else self.image(shape)

    def sources(self, sample: Sample, copies: int) -> list[tuple[list[int], int | None]]:
        """Inputs and residual of each copy."""
        make = self.image if sample.kernel.op in OF_ROWS else self.produce  # rows have one layout only
        share = sample.kernel.op in PRODUCTS and not self.apart
        shared = [make(shape) for shape in sample.inputs] if share else None
        rows: list[tuple[list[int], int | None]] = []
        for _ in range(copies):
            inputs = shared or [make(shape) for shape in sample.inputs]
            residual = None if sample.kernel.residual is None else make(_out_shape(sample.kernel))
            rows.append((inputs, residual))
        return rows


def _out_shape(kernel: Kernel) -> Shape:
    return int(kernel.out_channels), kernel.out_height, kernel.out_width


def distinct(items: Sequence[T]) -> tuple[T, ...]:
    """The first item of each key, in order."""
    first: dict[ItemKey, T] = {}
    for item in items:
        first.setdefault(item_key(item), item)
    return tuple(first.values())
