"""One way to measure, and the clocks of probes under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from maenas.choices import Method
from maenas.deploy.clock import TimingSettings, summarize, warm_up
from maenas.deploy.program import Program
from maenas.latency.device import Precision
from maenas.profiler.backend import Backend, Runner
from maenas.profiler.probe import SINKS, sink_programs


@dataclass(frozen=True)
class Setup:
    """One way to measure: equal setups give comparable rows."""

    backend: Backend
    precision: Precision = "fp32"
    batch: int = 1
    settings: TimingSettings = field(default_factory=TimingSettings)
    method: Method = "in-graph"
    seed: int = 0

    def build(self, program: Program) -> Runner:
        return self.backend.build(program, precision=self.precision, batch=self.batch)


def build_warm(programs: Sequence[Program], setup: Setup, stack: ExitStack) -> list[Runner]:
    """Warm runners of all the programs, to be closed by `stack`; where one fails, the others are closed at once."""
    with ExitStack() as own:
        runners = [own.enter_context(closing(setup.build(program))) for program in programs]
        for runner in runners:
            warm_up(runner.time_once, setup.settings)
        stack.enter_context(own.pop_all())
    return runners


def build_timer(programs: Sequence[Program], setup: Setup, stack: ExitStack, *, sink_s: float) -> Callable[[], float]:
    """Time of the first program less that of the second one, if any, plus what the second one's extra sinks cost."""
    runners = build_warm(programs, setup, stack)
    if len(runners) == 1:
        return runners[0].time_once
    surplus_s = sink_s * (len(programs[1].sinks) - len(programs[0].sinks))
    return lambda: runners[0].time_once() - runners[1].time_once() + surplus_s


def sink_seconds(setup: Setup) -> float:
    with ExitStack() as stack:
        few, many = (stack.enter_context(closing(setup.build(program))) for program in sink_programs())
        warm_up(few.time_once, setup.settings)
        warm_up(many.time_once, setup.settings)
        differences = [many.time_once() - few.time_once() for _ in range(5 * setup.settings.rounds)]
    return max(0.0, summarize(differences).median_s) / SINKS
