"""Run a plan on a backend: rows of a measured table, stored as they come."""

from __future__ import annotations

import datetime
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maenas import __version__
from maenas.cost import kernel_flops
from maenas.errors import MaenasError
from maenas.latency.device import Precision
from maenas.latency.measured import KernelKey, MeasuredTable, Row, make_table, read_measured, write_measured
from maenas.lowering import Kernel
from maenas.profiler.backend import Backend, Runner
from maenas.profiler.clock import Reference, Settings, Timing, measure, scaled, summarize, warm_up
from maenas.profiler.plan import copies_for
from maenas.profiler.probe import SINKS, Sample, alone, baseline, probe, sink_programs
from maenas.profiler.program import Program, network

CHUNK = 12  # kernels whose sessions live at once, measured in turns
STORE_EVERY_S = 5.0
SHORTEST_S = 1e-7  # what a clock can tell from nothing; shorter times are stored as this
REFERENCE = Kernel("conv", "reference", (-1,), 64, 64, 80, 80, 80, 80, kernel=3, epilogue=("relu",))
METHODS = {
    "in-graph": "T(producers, d copies, sinks) - T(producers, sinks), over d; see maenas/profiler/probe.py",
    "alone": "each kernel in a graph of its own, with whatever conversions that costs",
}
OUR_CONDITIONS = ("date", "maenas")  # may differ between a run and its continuation


@dataclass(frozen=True)
class Setup:
    """One way to measure: equal setups give comparable rows."""

    backend: Backend
    precision: Precision = "fp32"
    batch: int = 1
    settings: Settings = field(default_factory=Settings)
    method: str = "in-graph"
    seed: int = 0

    def build(self, program: Program) -> Runner:
        return self.backend.build(program, precision=self.precision, batch=self.batch)


@dataclass(frozen=True)
class Progress:
    """State of a run: rows measured in this run, rows still to go, and what the reference kernel says."""

    measured: int
    remaining: int
    reference: Timing


def profile(
    samples: Sequence[Sample],
    setup: Setup,
    *,
    device: str,
    path: Path,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> MeasuredTable:
    """Measure `samples` into the table at `path`, going on where that file stops. `stop` is asked between chunks.

    The file is replaced every few seconds and at the end, also on Ctrl-C. Rows stand in the order of `samples`, so an
    interrupted run, continued, has the rows of an uninterrupted one. Raises `MaenasError` where the file is of another
    device, setup or method, and where nothing was measured.
    """
    rows, conditions = _resume(path, setup, device)
    todo = [sample for sample in samples if sample.key not in rows]
    order = [sample.key for sample in samples]
    stored = time.monotonic()
    done = 0
    table: MeasuredTable | None = None
    with closing(setup.build(network((REFERENCE,)))) as runner:
        reference = Reference(runner.time_once, setup.settings)
        rate = setup.batch * float(kernel_flops(REFERENCE)) / reference.timing.median_s
        sink_s = _sink_seconds(setup)
        try:
            for begin in range(0, len(todo), CHUNK):
                if stop():
                    break
                chunk = todo[begin : begin + CHUNK]
                rows |= _measure_chunk(chunk, setup, reference, sink_s=sink_s, flops_per_s=rate)
                done += len(chunk)
                on_progress(Progress(done, len(todo) - done, reference.timing))
                if time.monotonic() - stored > STORE_EVERY_S:
                    write_measured(path, _table(rows, order, setup, device, conditions, reference.timing))
                    stored = time.monotonic()
        finally:
            if rows and (done or not path.exists()):
                table = _table(rows, order, setup, device, conditions, reference.timing)
                write_measured(path, table)
    if table is None:
        if not rows:
            raise MaenasError("nothing was measured: give the run more time, or a plan with kernels")
        table = read_measured(path)
    return table


def time_network(kernels: Sequence[Kernel], setup: Setup) -> Timing:
    """A whole network by the same clock: warm-up, then the median of `3 * rounds` runs."""
    with closing(setup.build(network(kernels))) as runner:
        warm_up(runner.time_once, setup.settings)
        return summarize([runner.time_once() for _ in range(3 * setup.settings.rounds)])


def _measure_chunk(
    chunk: Sequence[Sample], setup: Setup, reference: Reference, *, sink_s: float, flops_per_s: float
) -> dict[KernelKey, Row]:
    with ExitStack() as stack:
        items, copies = [], []
        for sample in chunk:
            count = copies_for(sample, flops_per_s=flops_per_s, batch=setup.batch)
            programs = (
                [probe(sample, count), baseline(sample, count)] if setup.method == "in-graph" else [alone(sample)]
            )
            runners = [stack.enter_context(closing(setup.build(program))) for program in programs]
            for runner in runners:
                warm_up(runner.time_once, setup.settings)
            surplus = len(programs[-1].sinks) - len(programs[0].sinks)
            items.append(_difference(runners, surplus * sink_s))
            copies.append(count if setup.method == "in-graph" else 1)
        rng = np.random.default_rng(setup.seed)
        timings = measure(items, rng=rng, settings=setup.settings, reference=reference)
    return {
        sample.key: _row(sample.key, scaled(timing, 1 / count))
        for sample, timing, count in zip(chunk, timings, copies, strict=True)
    }


def _difference(runners: Sequence[Runner], surplus_s: float) -> Callable[[], float]:
    """Time of the first runner less that of the second one, if any, plus what the second one's extra sinks cost."""
    if len(runners) == 1:
        return runners[0].time_once
    return lambda: runners[0].time_once() - runners[1].time_once() + surplus_s


def _sink_seconds(setup: Setup) -> float:
    with ExitStack() as stack:
        few, many = (stack.enter_context(closing(setup.build(program))) for program in sink_programs())
        warm_up(few.time_once, setup.settings)
        warm_up(many.time_once, setup.settings)
        differences = [many.time_once() - few.time_once() for _ in range(5 * setup.settings.rounds)]
    return max(0.0, summarize(differences).median_s) / SINKS


def _row(key: KernelKey, timing: Timing) -> Row:
    """Times to four digits: the spread does not deserve more."""
    return Row(*key, _digits(max(timing.median_s, SHORTEST_S)), _digits(timing.iqr_s), timing.samples)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _resume(path: Path, setup: Setup, device: str) -> tuple[dict[KernelKey, Row], dict[str, str]]:
    """Rows of the file at `path`, if there is one, and the conditions of the run."""
    conditions = conditions_of(setup)
    if not path.exists():
        return {}, conditions
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
        raise MaenasError(f"{path} was measured otherwise ({'; '.join(differ)}); choose another --out or remove it")
    return {row.key: row for row in table.rows}, dict(table.conditions)


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


def _affinity() -> str:
    if not hasattr(os, "sched_getaffinity"):
        return "not known"
    cores = sorted(os.sched_getaffinity(0))
    return "all cores" if len(cores) == os.cpu_count() else f"cores {','.join(map(str, cores))}"


def _table(
    rows: Mapping[KernelKey, Row],
    order: Sequence[KernelKey],
    setup: Setup,
    device: str,
    conditions: dict[str, str],
    reference: Timing,
) -> MeasuredTable:
    position = {key: number for number, key in enumerate(order)}
    ordered = sorted(rows.values(), key=lambda row: (position.get(row.key, math.inf), row.key))
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
        conditions=conditions,
        method=method,
        rows=tuple(ordered),
    )
