"""Run a plan on a backend: rows of a measured table, stored as they come."""

from __future__ import annotations

import datetime
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from maenas import __version__
from maenas.choices import Method
from maenas.cost import kernel_flops
from maenas.deploy.clock import Reference, Timing, measure, scaled
from maenas.deploy.gpu_state import gpu_state
from maenas.deploy.program import network
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.caches import Caches
from maenas.latency.joining import OUR_CONDITIONS
from maenas.latency.measured import (
    BlockRow,
    Failure,
    MeasuredTable,
    NetworkRow,
    Row,
    make_table,
    read_measured,
    write_measured,
)
from maenas.profiler.caches import measure_caches
from maenas.profiler.cpu import require_memory
from maenas.profiler.plan import copies_for
from maenas.profiler.probe import Item, ItemKey, Sample, alone, in_graph, item_key
from maenas.profiler.setup import Setup, build_timer, build_warm, sink_seconds
from maenas.spec import DetectorSpec

Value = TypeVar("Value")

CHUNK = 12  # items whose sessions live at once, measured in turns
NETWORK_CHUNK = 4  # of networks: they are larger
PASSED, CPU_PASSES = 16, 3  # networks that are timed again and again
STORE_EVERY_S = 5.0
SHORTEST_S = 1e-7  # what a clock can tell from nothing; shorter times are stored as this
REFERENCE = Kernel("conv", "reference", (-1,), 64, 64, 80, 80, 80, 80, kernel=3, epilogue=("relu",))
METHODS: dict[Method, str] = {
    "in-graph": "T(producers, d copies, sinks) - T(producers, sinks), over d; see maenas/profiler/probe.py; caches as "
    "in a network: inputs just written, every copy with weights of its own",
    "alone": "each kernel in a graph of its own, with whatever conversions that costs",
}


@dataclass(frozen=True)
class Progress:
    """State of a run: items done in this run, items still to go, and what the reference kernel says."""

    done: int
    remaining: int
    reference: Timing


Measured = Row | BlockRow | NetworkRow


def profile(
    items: Sequence[Item],
    setup: Setup,
    *,
    device: str,
    path: Path,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> MeasuredTable:
    """Measure `items` into the table at `path`, going on where that file stops. `stop` is asked between chunks.

    The file is replaced every few seconds and at the end, also on Ctrl-C. Rows stand in the order of `items`, so an
    interrupted run, continued, has the rows of an uninterrupted one. An item that the runtime cannot build or run is
    stored as failed, with the reason, and tried again by the next run. Raises `MaenasError` where the file is of
    another device, setup or method, and where nothing was measured.
    """
    rows, conditions, caches = _resume(path, setup, device)
    todo = [item for item in items if item_key(item) not in rows]
    order = [item_key(item) for item in items]
    failed: dict[ItemKey, Failure] = {}
    stored, done, changed = time.monotonic(), 0, not path.exists()
    table: MeasuredTable | None = None
    with closing(setup.build(network((REFERENCE,)))) as runner:
        reference = Reference(runner.time_once, setup.settings)
        rate = setup.batch * float(kernel_flops(REFERENCE)) / reference.timing.median_s
        sink_s = sink_seconds(setup)

        def store() -> MeasuredTable:
            table = _table(rows, failed, order, setup, device, conditions, reference.timing, caches)
            write_measured(path, table)
            return table

        try:
            for chunk in _cut(todo, CHUNK):
                if stop():
                    break
                measured = _measure_chunk(chunk, setup, reference, sink_s=sink_s, flops_per_s=rate)
                failed |= {key: row for key, row in measured.items() if isinstance(row, Failure)}
                rows |= {key: row for key, row in measured.items() if not isinstance(row, Failure)}
                done, changed = done + len(chunk), True
                on_progress(Progress(done, len(todo) - done, reference.timing))
                if rows and time.monotonic() - stored > STORE_EVERY_S:
                    store()
                    stored = time.monotonic()
            if caches is None and done == len(todo) and not stop():  # last: without rows they are worth nothing
                caches = measure_caches(setup, reference, sink_s=sink_s, flops_per_s=rate)
                changed = changed or caches is not None
        finally:
            if any(isinstance(row, Row) for row in rows.values()) and changed:
                table = store()
    if table is None:
        if failed:
            first = next(iter(failed.values()))
            raise MaenasError(f"nothing could be measured; the first of {len(failed)} failures: {first.reason}")
        if not rows:
            raise MaenasError("nothing was measured: give the run more time, or a plan with kernels")
        table = read_measured(path)
    return table


def time_networks(networks: Mapping[str, Sequence[Kernel]], setup: Setup) -> Iterator[tuple[str, Timing]]:
    """Whole networks by the clock of `profile`, a few at a time in random order; names with timings as they come.

    On a CPU `CPU_PASSES` passes are made over `PASSED` networks, and the middle one of each network counts: what others
    do, on this machine or on its host, slows some seconds of one pass. GPUs are seldom shared, and building for them
    takes long. Raises `MaenasError`, before anything is measured, where this machine's memory cannot hold them.
    """
    passes = 1 if setup.backend.gpu is not None else CPU_PASSES
    if setup.backend.gpu is None:
        require_memory(networks, precision=setup.precision, batch=setup.batch, at_once=NETWORK_CHUNK)
    with closing(setup.build(network((REFERENCE,)))) as runner:
        reference = Reference(runner.time_once, setup.settings)
        rng = np.random.default_rng(setup.seed)
        for names in _cut(list(networks), PASSED):
            found: dict[str, list[Timing]] = {name: [] for name in names}
            for chunk in _cut(names, NETWORK_CHUNK) * passes:
                with ExitStack() as stack:
                    runners = [build_warm([network(networks[name])], setup, stack)[0] for name in chunk]
                    timers = [runner.time_once for runner in runners]
                    timings = measure(timers, rng=rng, settings=setup.settings, reference=reference)
                for name, timing in zip(chunk, timings, strict=True):
                    found[name].append(timing)
            for name, timings in found.items():
                yield name, sorted(timings, key=lambda timing: timing.median_s)[passes // 2]


def _cut(values: list[Value], size: int) -> list[list[Value]]:
    return [values[begin : begin + size] for begin in range(0, len(values), size)]


def _measure_chunk(
    chunk: Sequence[Item], setup: Setup, reference: Reference, *, sink_s: float, flops_per_s: float
) -> dict[ItemKey, Measured | Failure]:
    results: dict[ItemKey, Measured | Failure] = {}
    with ExitStack() as stack:
        ready, timers, copies = [], [], []
        for item in chunk:
            count = copies_for(item, flops_per_s=flops_per_s, batch=setup.batch)
            programs = in_graph(item, count, apart=setup.backend.merges)
            if setup.method == "alone" and isinstance(item, Sample):
                programs, count = (alone(item),), 1
            try:
                timers.append(build_timer(programs, setup, stack, sink_s=sink_s))
            except (MaenasError, MemoryError) as error:
                reason = str(error).splitlines() or ["out of memory"]
                results[item_key(item)] = Failure(_what(item), reason[0])
                continue
            copies.append(count)
            ready.append(item)
        rng = np.random.default_rng(setup.seed)
        timings = measure(timers, rng=rng, settings=setup.settings, reference=reference)
    for item, timing, count in zip(ready, timings, copies, strict=True):
        results[item_key(item)] = _row(item, scaled(timing, 1 / count))
    return results


def _what(item: Item) -> str:
    return f"network {item.id}" if isinstance(item, DetectorSpec) else " ".join(str(part) for part in item_key(item))


def _row(item: Item, timing: Timing) -> Measured:
    """Times to four digits: the spread does not deserve more."""
    times = (_digits(max(timing.median_s, SHORTEST_S)), _digits(timing.iqr_s), timing.samples)
    if isinstance(item, DetectorSpec):
        return NetworkRow(item, *times)
    return Row(*item.key, *times) if isinstance(item, Sample) else BlockRow(*item, *times)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _resume(path: Path, setup: Setup, device: str) -> tuple[dict[ItemKey, Measured], dict[str, str], Caches | None]:
    """Rows of the file at `path`, if there is one, the conditions of the run and what it knows of the caches."""
    conditions = conditions_of(setup)
    if not path.exists():
        return {}, conditions, None
    table = read_measured(path)
    now = (device, setup.backend.runtime, setup.precision, setup.batch, setup.method)
    then = (table.device, table.runtime, table.precision, table.batch, table.method.get("name"))
    differ = [f"{b!r} there, {a!r} now" for a, b in zip(now, then, strict=True) if a != b]
    differ += [
        f"{key}: {table.conditions.get(key)!r} there, {conditions.get(key)!r} now"
        for key in sorted(table.conditions | conditions)
        if key not in OUR_CONDITIONS and table.conditions.get(key) != conditions.get(key)
    ]
    if differ:
        raise MaenasError(
            f"{path} was measured under other conditions ({'; '.join(differ)}); choose another --out or remove it"
        )
    rows: dict[ItemKey, Measured] = {row.key: row for row in table.rows}
    rows |= {block.key: block for block in table.blocks}
    rows |= {network.detector.id: network for network in table.networks}
    return rows, dict(table.conditions), table.caches


def conditions_of(setup: Setup) -> dict[str, str]:
    """What a latency depends on besides device, runtime, precision and batch."""
    return {
        "hardware": setup.backend.device_name,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "maenas": __version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "affinity": _affinity(),
        **setup.backend.conditions,
    }


def _gpu_state(setup: Setup) -> str:
    """Clocks, temperature and power of the GPU as it measures; nothing for a CPU."""
    if "-cpu" in setup.backend.runtime:
        return ""
    return ", ".join(f"{name} {value}" for name, value in gpu_state(setup.backend.gpu).items())


def _affinity() -> str:
    if not hasattr(os, "sched_getaffinity"):
        return "not known"
    cores = sorted(os.sched_getaffinity(0))
    return "all cores" if len(cores) == os.cpu_count() else f"cores {','.join(map(str, cores))}"


def _table(
    rows: Mapping[ItemKey, Measured],
    failed: Mapping[ItemKey, Failure],
    order: Sequence[ItemKey],
    setup: Setup,
    device: str,
    conditions: dict[str, str],
    reference: Timing,
    caches: Caches | None,
) -> MeasuredTable:
    position = {key: number for number, key in enumerate(order)}
    keys = sorted(rows, key=lambda key: (position.get(key, math.inf), str(key)))
    ordered = [rows[key] for key in keys]
    settings = setup.settings
    method = {
        "name": setup.method,
        "what": METHODS[setup.method],
        "statistic": f"median and interquartile range of {settings.rounds} rounds in random order",
        "wide_rows": f"above {settings.wide:.0%} measured up to {settings.attempts} times, the narrowest kept",
        "reference": f"conv 64-64 3x3 at 80x80: median {_digits(reference.median_s)} s, spread {reference.spread:.1%}",
        "shortest": f"{SHORTEST_S:g} s",
    }
    return make_table(
        device=device,
        runtime=setup.backend.runtime,
        precision=setup.precision,
        batch=setup.batch,
        conditions=conditions | ({"gpu_state": text} if (text := _gpu_state(setup)) else {}),
        method=method,
        rows=tuple(row for row in ordered if isinstance(row, Row)),
        blocks=tuple(row for row in ordered if isinstance(row, BlockRow)),
        networks=tuple(row for row in ordered if isinstance(row, NetworkRow)),
        failed=tuple(failed.values()),
        caches=caches,
    )
