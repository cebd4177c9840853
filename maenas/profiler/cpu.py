"""What all runtimes on a CPU share when they are timed: clocks, threads, memory, and what a table says about them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from maenas.choices import Clock
from maenas.cost import least_memory
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.device import Precision
from maenas.memory import free_memory

CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
CLOCK_NAMES: dict[Clock, str] = {"wall": "wall", "cpu": "CPU time of the thread"}


def require_clock(clock: Clock, *, threads: int, on_cpu: bool = True) -> None:
    """Raise `MaenasError` for no threads, and for the clock "cpu" where it cannot see all the work.

    It counts the time that the calling thread had the processor: on a machine that others use too it comes nearer to
    an idle machine's time than "wall" does. It cannot see other threads.
    """
    if threads < 1:
        raise MaenasError(f"threads is {threads}; it must be at least 1")
    if clock == "cpu" and (threads > 1 or not on_cpu):
        raise MaenasError("the clock 'cpu' measures one CPU thread; choose the clock 'wall' or one thread")


def cpu_conditions(clock: Clock, *, threads: int) -> dict[str, str]:
    """As a table stores them."""
    return {"threads": str(threads), "cores": str(os.cpu_count()), "clock": CLOCK_NAMES[clock]}


def clock_called(name: str | None) -> Clock:
    """The clock of a table's conditions."""
    return "cpu" if name == CLOCK_NAMES["cpu"] else "wall"


def require_memory(networks: Mapping[str, Sequence[Kernel]], *, precision: Precision, batch: int, at_once: int) -> None:
    """Raise `MaenasError` where `at_once` of the networks, in their order, need more memory than is free."""
    free = free_memory()
    names = list(networks)
    needs = [least_memory(networks[name], precision=precision, batch=batch) for name in names]
    for begin in range(0, len(names), at_once):
        need = sum(needs[begin : begin + at_once])
        if need > free:
            raise MaenasError(
                f"{', '.join(names[begin : begin + at_once])}: together they need at least {need / 1e9:.1f} GB of "
                f"memory, and {free / 1e9:.1f} GB are free; measure them at a smaller input"
            )
