"""Which kernels to measure, in which order, and how long that takes.

A table is good for a space when every kernel that the space can deploy lies between measured neighbours: every
resolution and epilogue exactly, channels on a coarse geometric grid. The grid comes from the lowering itself: stages,
necks and heads are lowered at grid widths and their kernels collected. Some blocks and whole networks of the spaces,
drawn at random, are measured too: how far their kernels' sum is from them is the error of predicting others.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from maenas.choices import KernelRuntime
from maenas.cost import kernel_flops, kernel_traffic
from maenas.deploy.clock import TimingSettings
from maenas.deploy.program import network
from maenas.kernels import IMAGE, Graph, Tensor
from maenas.latency.measured import BlockKey, key_of
from maenas.lowering import lower, lower_head, lower_neck, lower_stage, lower_stem
from maenas.nas.sampling import random_detectors
from maenas.nas.space import SearchSpace
from maenas.presets import NeckPreset, get_neck_preset, reaching
from maenas.profiler.probe import Item, Sample, distinct, item_kernels, sample_of
from maenas.spec import DetectorSpec

RATIOS = (3.0, 2.0, math.sqrt(2))  # between neighbouring widths of the grid, coarse first
# Seconds for one session: measured on one CPU core, but for TensorRT, which has not run: it times tactics for seconds.
BUILD_S: dict[KernelRuntime, float] = {"onnxruntime": 0.03, "openvino": 0.06, "torch": 0.03, "tensorrt": 4.0}
MAX_COPIES = 16
PROBE_S = 1.5e-3  # what the copies of a kernel should take together
BYTES_PER_FLOP = 1 / 8  # of a device's rates, near enough to choose the number of copies
LAUNCH_S = 3e-6
NETWORKS = 16  # measured whole
BLOCK_SOURCES = 2  # random detectors whose stages are measured as blocks, for every space
DRAW_SEED = 20221123  # of what is measured whole; validation draws with other seeds


def spec_samples(spec: DetectorSpec) -> tuple[Sample, ...]:
    """The distinct kernels of one detector."""
    program = network(lower(spec))
    return distinct([sample_of(program, kernel) for kernel in program.kernels])


def space_samples(space: SearchSpace, *, input_size: int, num_classes: int, ratio: float) -> tuple[Sample, ...]:
    """The kernels of a space at grid widths: stem, every stage, neck and head."""
    before = _grid(space.stem.width.values, ratio)
    image = Tensor(IMAGE, 3, input_size, input_size)
    graph = Graph()
    lower_stem(graph, image, np.array(before), kind=space.stem.kind, kernel=space.stem.kernel, act=space.act)
    samples = _collect(graph, (image,))
    side, taps = input_size // 2, []
    for number, stage in enumerate(space.stages, start=1):
        after = _grid(stage.width.values, ratio)
        samples += _stage_samples(space, number, before, after, side, ratio)
        side, before = side // stage.stride, after
        if number in space.taps:
            taps.append((after, side))
    samples += _neck_samples(reaching(get_neck_preset(space.neck), input_size), taps, num_classes)
    return distinct(samples)


def plan(
    spaces: Sequence[SearchSpace],
    specs: Iterable[DetectorSpec],
    *,
    others: Sequence[Sample] = (),
    input_size: int | None,
    num_classes: int = 80,
    seed: int = 0,
) -> tuple[Item, ...]:
    """The whole plan: the coarsest grid of every space, the kernels of `specs`, blocks and networks of the spaces,
    `others`, then the finer grids.

    Each grid is shuffled (by `seed`), so that a run cut short has covered the space evenly.
    """
    rng = np.random.default_rng(seed)
    ordered: list[Item] = []
    exact = [sample for spec in specs for sample in spec_samples(spec)]
    for level, ratio in enumerate(RATIOS):
        grid: list[Sample] = []
        for space in spaces:
            size = input_size or space.input_size
            grid += space_samples(space, input_size=size, num_classes=num_classes, ratio=ratio)
        ordered += [grid[number] for number in rng.permutation(len(grid))]
        if level == 0:
            ordered += exact
            drawn = random_detectors(spaces, NETWORKS, seed=DRAW_SEED, input_size=input_size) if spaces else ()
            ordered += [*space_blocks(spaces, input_size=input_size), *(spec for _, spec in drawn), *others]
    return distinct(ordered)


def space_blocks(spaces: Sequence[SearchSpace], *, input_size: int | None) -> tuple[BlockKey, ...]:
    """The stages of some random detectors of every space."""
    blocks = []
    for space in spaces:
        for _, spec in random_detectors([space], BLOCK_SOURCES, seed=DRAW_SEED, input_size=input_size):
            height, width = spec.input.height // 2, spec.input.width // 2
            for stage in spec.backbone.stages:
                widths = (stage.in_channels, stage.out_channels, stage.bottleneck)
                shape = (height, width, stage.kernel, stage.stride, stage.depth)
                blocks.append(BlockKey(stage.block, spec.backbone.act, *widths, *shape))
                height, width = height // stage.stride, width // stage.stride
    return distinct(blocks)


def estimate_s(
    items: Iterable[Item],
    *,
    flops_per_s: float,
    batch: int,
    settings: TimingSettings,
    runtime: KernelRuntime = "onnxruntime",
) -> float:
    """Roughly how long measuring takes, on a device with this rate on the reference kernel."""
    total = 0.0
    for item in items:
        copies = copies_for(item, flops_per_s=flops_per_s, batch=batch)
        run = 2 * LAUNCH_S + copies * item_estimate_s(item, flops_per_s=flops_per_s, batch=batch)
        total += 2 * BUILD_S[runtime] + settings.warm_up_s + 1.5 * (settings.rounds + 3) * run
    return total


def item_estimate_s(item: Item, *, flops_per_s: float, batch: int) -> float:
    """A guess at an item's time, only good enough to plan with."""
    total = 0.0
    for kernel in item_kernels(item):
        flops = float(kernel_flops(kernel)) / flops_per_s
        traffic = 4.0 * kernel_traffic(kernel) / (flops_per_s * BYTES_PER_FLOP)
        total += LAUNCH_S + batch * max(flops, traffic)
    return total


def copies_for(item: Item, *, flops_per_s: float, batch: int) -> int:
    """How many copies of a kernel or block to time together; a network is always one."""
    if isinstance(item, DetectorSpec):
        return 1
    one = item_estimate_s(item, flops_per_s=flops_per_s, batch=batch)
    return max(1, min(MAX_COPIES, math.ceil(PROBE_S / one)))


def _grid(values: Sequence[int], ratio: float) -> list[int]:
    """Members of `values` about `ratio` apart, both ends among them."""
    low, high = values[0], values[-1]
    steps = max(1, math.ceil(math.log(high / low) / math.log(ratio) - 1e-9)) if high > low else 0
    points = [low * (high / low) ** (step / steps) for step in range(steps + 1)] if steps else [low]
    return sorted({min(values, key=lambda value: abs(value - point)) for point in points})


def _collect(graph: Graph, images: Sequence[Tensor]) -> list[Sample]:
    """Samples of kernels whose widths are arrays: one for each combination of widths that occurs."""
    samples = []
    for kernel in graph.kernels:
        sources = [graph.kernels[index] if index >= 0 else images[-index - 1] for index in kernel.inputs]
        planes = [(s.height, s.width) if isinstance(s, Tensor) else (s.out_height, s.out_width) for s in sources]
        channels = [s.channels if isinstance(s, Tensor) else s.out_channels for s in sources]
        columns = np.broadcast_arrays(kernel.in_channels, kernel.out_channels, kernel.groups, *channels)
        for row in np.unique(np.stack([column.ravel() for column in columns], axis=1), axis=0).tolist():
            scalar = replace(kernel, in_channels=row[0], out_channels=row[1], groups=row[2], signal_fan_in=0)
            shapes = tuple((c, *plane) for c, plane in zip(row[3:], planes, strict=True))
            samples.append(Sample(key_of(scalar), scalar, shapes))
    return samples


def _stage_samples(
    space: SearchSpace, number: int, before: list[int], after: list[int], side: int, ratio: float
) -> list[Sample]:
    stage = space.stages[number - 1]
    low, high = space.bottleneck_ratio
    rows = []
    for out in after:
        bottlenecks = [b for b in stage.bottleneck.values if low * out - 1e-9 <= b <= high * out + 1e-9]
        rows += list(itertools.product(before, [out], _grid(bottlenecks, ratio) if bottlenecks else []))
    width, out, bottleneck = np.array(rows).T
    fits = space.width_fits(width, out)
    samples = []
    for same, kernel in itertools.product((True, False), stage.kernels):
        chosen = fits & ((width == out) == same)  # the lowering links units by whether the width changes
        if not chosen.any():
            continue
        graph = Graph()
        x = Tensor(IMAGE, width[chosen], side, side)
        lower_stage(
            graph,
            x,
            out[chosen],
            bottleneck[chosen],
            number=number,
            block=space.block,
            kernel=kernel,
            stride=stage.stride,
            depth=min(2, stage.max_depth),
            act=space.act,
            spp=space.spp and number == len(space.stages),
        )
        samples += _collect(graph, (x,))
    return samples


def _neck_samples(preset: NeckPreset, taps: list[tuple[list[int], int]], num_classes: int) -> list[Sample]:
    widths = np.array(list(itertools.product(*(choices for choices, _ in taps)))).T
    c3, c4, c5 = (Tensor(-1 - level, widths[level], side, side) for level, (_, side) in enumerate(taps))
    o3, o4, o5 = preset.out_channels or widths
    graph = Graph()
    merged = lower_neck(
        graph,
        (c3, c4, c5),
        (o3, o4, o5),
        depth=preset.depth,
        hidden_ratio=preset.hidden_ratio,
        block=preset.block,
        act=preset.act,
    )
    lower_head(graph, merged, num_classes=num_classes, reg_max=preset.reg_max, kernel=preset.head_kernel)
    return _collect(graph, (c3, c4, c5))


def describe(items: Sequence[Item]) -> dict[str, int]:
    """Number of kernels by op, of blocks and of networks."""
    names = [
        item.key.op if isinstance(item, Sample) else "network" if isinstance(item, DetectorSpec) else "block"
        for item in items
    ]
    return dict(sorted(Counter(names).items()))
