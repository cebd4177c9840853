"""Kernels that networks of others have and the search spaces do not, drawn at random.

Classifiers end on planes of 7x7 and less, hundreds of channels wide, squeeze and excite single positions, group
channels, multiply rows of tokens and have widths that no block divides. Each kind is drawn evenly in the logarithms of
its sizes, so that a table's trees can learn it between the draws. What takes long is left out: a drawn kernel has at
most `MOST_FLOPS` operations, and at most `MOST_ELEMENTS` in its input and in its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from maenas.cost import kernel_flops
from maenas.kernels import IMAGE, Epilogue, Kernel, Op
from maenas.latency.measured import key_of
from maenas.profiler.probe import Sample, distinct

SEED = 20240611
MOST_FLOPS = 1e9
MOST_ELEMENTS = 1 << 22
EPILOGUES: tuple[Epilogue, ...] = ((), ("relu",), ("relu",), ("silu",), ("add",), ("add", "relu"))

Draw = Callable[[np.random.Generator], Kernel]


def general_samples(seed: int = SEED) -> tuple[Sample, ...]:
    """The drawn kernels of all kinds, mixed; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    kernels = [kernel for draw, count in KINDS.items() for kernel in _drawn(draw, count, rng)]
    return distinct([_sample(kernels[number]) for number in rng.permutation(len(kernels))])


def _drawn(draw: Draw, count: int, rng: np.random.Generator) -> Iterator[Kernel]:
    while count:
        kernel = draw(rng)
        elements = max(
            kernel.in_channels * kernel.in_height * kernel.in_width, kernel.in_channels * kernel.out_channels
        )
        if kernel_flops(kernel) <= MOST_FLOPS and elements <= MOST_ELEMENTS:
            yield kernel
            count -= 1


def _sample(kernel: Kernel) -> Sample:
    channels = kernel.in_channels // len(kernel.inputs)
    shape = channels, kernel.in_height, kernel.in_width
    return Sample(key_of(kernel), kernel, (shape,) * len(kernel.inputs))


def _between(rng: np.random.Generator, low: float, high: float) -> int:
    """An integer, its logarithm evenly distributed."""
    return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def _width(rng: np.random.Generator, low: int, high: int) -> int:
    """As `_between`, mostly a multiple of 8."""
    step = int(rng.choice([1, 4, 8], p=[0.1, 0.2, 0.7]))
    return max(step, step * round(_between(rng, low, high) / step))


def _kernel(op: Op, cin: int, cout: int, side: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> Kernel:
    out = -(-side // stride)
    return Kernel(op, "general", (IMAGE,), cin, cout, side, side, out, out, kernel, stride, groups)


def _with_epilogue(kernel: Kernel, rng: np.random.Generator) -> Kernel:
    epilogue = EPILOGUES[rng.integers(len(EPILOGUES))]
    return replace(kernel, epilogue=epilogue, residual=IMAGE - 1 if "add" in epilogue else None)


def _dense(size: int, low_side: int, high_side: int, stride_share: float) -> Draw:
    def draw(rng: np.random.Generator) -> Kernel:
        side = _between(rng, low_side, high_side)
        stride = 2 if side > 2 and rng.random() < stride_share else 1
        widths = _width(rng, 8, 2048), _width(rng, 8, 2048)
        return _with_epilogue(_kernel("conv", *widths, side, kernel=size, stride=stride), rng)

    return draw


def _squeeze(rng: np.random.Generator) -> Kernel:
    """A convolution of one position, as squeeze-and-excitation has, or a classifier."""
    return _with_epilogue(_kernel("conv", _width(rng, 8, 2048), _width(rng, 8, 2048), 1), rng)


def _stem(rng: np.random.Generator) -> Kernel:
    size, cin = int(rng.choice([3, 5, 7])), int(rng.choice([3, 3, 16, 32]))
    return _with_epilogue(_kernel("conv", cin, _width(rng, 16, 96), _between(rng, 56, 320), kernel=size, stride=2), rng)


def _depthwise(rng: np.random.Generator) -> Kernel:
    side, channels = _between(rng, 3, 112), _width(rng, 16, 2048)
    stride = 2 if rng.random() < 0.3 else 1
    size = int(rng.choice([3, 3, 5, 7]))
    return _with_epilogue(_kernel("conv", channels, channels, side, kernel=size, stride=stride, groups=channels), rng)


def _grouped(rng: np.random.Generator) -> Kernel:
    width, groups = 8 * int(rng.integers(1, 9)), _between(rng, 2, 48)
    if rng.random() < 0.25:
        width = 4
    stride = 2 if rng.random() < 0.25 else 1
    channels = width * groups
    return _with_epilogue(
        _kernel("conv", channels, channels, _between(rng, 4, 80), kernel=3, stride=stride, groups=groups), rng
    )


def _few_groups(rng: np.random.Generator) -> Kernel:
    """Of 1x1 and 5x5, each group wide: ShuffleNet's first form and AlexNet."""
    groups, size = int(rng.choice([2, 3, 4, 8])), int(rng.choice([1, 1, 1, 5]))
    cin, cout = (2 * groups * _between(rng, 2, 96) for _ in range(2))
    return _with_epilogue(_kernel("conv", cin, cout, _between(rng, 4, 80), kernel=size, groups=groups), rng)


def _matmul(rng: np.random.Generator) -> Kernel:
    rows, epilogue = _between(rng, 1, 2048), EPILOGUES[rng.integers(len(EPILOGUES))]
    widths = _width(rng, 16, 4096), _width(rng, 16, 4096)
    return _product(*widths, rows, epilogue)


def _product(cin: int, cout: int, rows: int, epilogue: Epilogue) -> Kernel:
    residual = IMAGE - 1 if "add" in epilogue else None
    return Kernel("matmul", "general", (IMAGE,), cin, cout, rows, 1, rows, 1, epilogue=epilogue, residual=residual)


def _softmax(rng: np.random.Generator) -> Kernel:
    rows, length = _between(rng, 1, 1 << 14), _between(rng, 4, 2048)
    return Kernel("softmax", "general", (IMAGE,), length, length, rows, 1, rows, 1)


def _of_transformer(rng: np.random.Generator) -> Kernel:
    """A projection of tokens: to their queries, keys and values, to as many, to four times as many and back."""
    width, rows = 32 * _between(rng, 2, 32), _between(rng, 25, 1024)
    projections: tuple[tuple[int, int, Epilogue], ...] = (
        (1, 3, ()),
        (1, 1, ("add",)),
        (1, 4, ("silu",)),
        (4, 1, ("add",)),
    )
    cin, cout, epilogue = projections[rng.integers(len(projections))]
    return _product(cin * width, cout * width, rows, epilogue)


def _odd_width(rng: np.random.Generator) -> int:
    """Between 16 and 512 as `_between`, and no multiple of 4."""
    width = _between(rng, 16, 512)
    return width if width % 4 else width + int(rng.integers(1, 4))


def _odd_depthwise(rng: np.random.Generator) -> Kernel:
    channels, side, size = _odd_width(rng), _between(rng, 3, 80), int(rng.choice([3, 3, 5]))
    stride = 2 if rng.random() < 0.3 else 1
    return _with_epilogue(_kernel("conv", channels, channels, side, kernel=size, stride=stride, groups=channels), rng)


def _odd_dense(rng: np.random.Generator) -> Kernel:
    widths, side = (_odd_width(rng), _odd_width(rng)), _between(rng, 3, 80)
    return _with_epilogue(_kernel("conv", *widths, side, kernel=int(rng.choice([1, 1, 3]))), rng)


def _pointwise(rng: np.random.Generator) -> Kernel:
    return _arithmetic(int(rng.integers(1, 3)), _width(rng, 16, 2048), _between(rng, 1, 112))


def _arithmetic(inputs: int, width: int, side: int) -> Kernel:
    """Of whole blocks of channels: a runtime writes others in another layout, once for each input, and the difference
    that is measured would lack what that takes."""
    channels, sources = 16 * max(1, round(width / 16)), tuple(IMAGE - number for number in range(inputs))
    return Kernel("pointwise", "general", sources, inputs * channels, channels, side, side, side, side)


def _product_of_maps(rng: np.random.Generator) -> Kernel:
    return _arithmetic(2, _width(rng, 16, 1024), _between(rng, 2, 320))


def _mean(rng: np.random.Generator) -> Kernel:
    side, channels = _between(rng, 2, 112), _width(rng, 16, 2048)
    return Kernel("mean", "general", (IMAGE,), channels, channels, side, side, 1, 1)


def _pool(rng: np.random.Generator) -> Kernel:
    channels = _width(rng, 16, 1024)
    return _kernel("maxpool", channels, channels, _between(rng, 4, 112), kernel=3, stride=int(rng.integers(1, 3)))


def _concat(rng: np.random.Generator) -> Kernel:
    channels, side = 2 * _width(rng, 8, 512), _between(rng, 4, 80)
    return Kernel("concat", "general", (IMAGE, IMAGE - 1), channels, channels, side, side, side, side)


KINDS: dict[Draw, int] = {
    _dense(1, 2, 112, 0.1): 240,
    _dense(3, 2, 112, 0.25): 180,
    _dense(5, 4, 56, 0.25): 20,
    _squeeze: 50,
    _stem: 24,
    _depthwise: 150,
    _grouped: 80,
    _matmul: 110,
    _pointwise: 60,
    _mean: 40,
    _pool: 40,
    _concat: 30,
    _softmax: 60,
    _odd_depthwise: 50,
    _odd_dense: 60,
    _of_transformer: 70,
    _product_of_maps: 80,
    _few_groups: 60,
}
