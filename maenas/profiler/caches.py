"""How much longer kernels take from memory than from the processor's caches (`maenas/latency/caches.py`).

Some kernels, small on purpose, are timed as rows are, between others, and again right after themselves.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import combinations, islice
from pathlib import Path

import numpy as np

from maenas.cost import PRECISION_BYTES, kernel_flops, kernel_params
from maenas.deploy.clock import Reference, measure, summarize
from maenas.errors import MaenasError
from maenas.kernels import PRODUCTS
from maenas.latency.caches import Caches
from maenas.profiler.general import general_samples
from maenas.profiler.plan import copies_for
from maenas.profiler.probe import in_graph
from maenas.profiler.setup import Setup, build_timer

LEVELS = Path("/sys/devices/system/cpu/cpu0/cache")  # of Linux
PROBES, FEWEST = 64, 8  # in all, and of products and of others
MOST_FLOPS = 4e6  # of a probe: a longer one hides a part of what it waits for


def last_level_bytes(levels: Path = LEVELS) -> int | None:
    """Size of the processor's last level of caches, None where the system does not tell."""
    sizes = []
    for folder in levels.glob("index*"):
        try:
            level, size = (int((folder / name).read_text().strip().removesuffix("K")) for name in ("level", "size"))
        except (OSError, ValueError):  # as some virtual machines have it
            continue
        sizes.append((level, size << 10))
    return max(sizes)[1] if sizes else None


def measure_caches(setup: Setup, reference: Reference, *, sink_s: float, flops_per_s: float) -> Caches | None:
    """What the processor's caches save under `setup`; None on a GPU, where the size of the caches is not known, and
    where the runtime can run too few of the probes.

    A product's `product_s` and `byte_s` are the line through what the products save over the bytes of their weights.
    """
    size = last_level_bytes()
    if size is None or "-cpu" not in setup.backend.runtime:
        return None
    small = (sample for sample in general_samples() if kernel_flops(sample.kernel) <= MOST_FLOPS)
    timers: list[Callable[[], float]] = []
    timed, copies = [], []
    with ExitStack() as stack:
        for sample in islice(small, PROBES):
            count = copies_for(sample, flops_per_s=flops_per_s, batch=setup.batch)
            try:
                programs = in_graph(sample, count, apart=setup.backend.merges)
                timers.append(build_timer(programs, setup, stack, sink_s=sink_s))
            except (MaenasError, MemoryError):  # what a runtime cannot run is no probe
                continue
            timed.append(sample.kernel)
            copies.append(count)
        multiply = sum(kernel.op in PRODUCTS for kernel in timed)
        if min(multiply, len(timed) - multiply) < FEWEST:
            return None
        cold = measure(timers, rng=np.random.default_rng(setup.seed), settings=setup.settings, reference=reference)
        warm = [_again(timer, setup.settings.rounds) for timer in timers]
    saved = [(c.median_s - w) / count for c, w, count in zip(cold, warm, copies, strict=True)]
    element = PRECISION_BYTES[setup.precision]
    products = [
        (element * int(kernel_params(kernel)), seconds)
        for kernel, seconds in zip(timed, saved, strict=True)
        if kernel.op in PRODUCTS
    ]
    others = [seconds for kernel, seconds in zip(timed, saved, strict=True) if kernel.op not in PRODUCTS]
    per_byte = _slope(products)
    start = statistics.median(seconds - per_byte * weights for weights, seconds in products)
    return Caches(size, _digits(start), _digits(statistics.median(others)), _digits(per_byte))


def _slope(points: Sequence[tuple[int, float]]) -> float:
    """Of the line through `points` by Theil and Sen, each pair weighted by its distance, and never negative."""
    pairs = [(b[0] - a[0], b[1] - a[1]) for a, b in combinations(sorted(points), 2) if a[0] != b[0]]
    slopes = np.array([rise / run for run, rise in pairs])
    order = np.argsort(slopes)
    weights = np.cumsum(np.array([run for run, _ in pairs])[order])
    return max(0.0, float(slopes[order][np.searchsorted(weights, weights[-1] / 2)]))


def _digits(seconds: float) -> float:
    return float(f"{max(0.0, seconds):.3g}")


def _again(timer: Callable[[], float], rounds: int) -> float:
    """Median of the second of two runs."""
    return summarize([(timer(), timer())[1] for _ in range(rounds)]).median_s
