"""Timing statistics over callables that run something once and say how long it took, in seconds.

Nothing here reads a clock or knows a backend, so that tests can pass fake clocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

TimeOnce = Callable[[], float]


@dataclass(frozen=True)
class TimingSettings:
    """How carefully to measure. Shares are of the median."""

    warm_up_s: float = 0.02
    max_warm_up_s: float = 0.5
    steady: float = 0.1  # the last three of a warm-up lie this close together
    rounds: int = 9
    wide: float = 0.05  # interquartile range above which a row is measured again
    attempts: int = 3  # of a wide row, and of a round in which the device drifted
    drift: float = 0.1  # of the reference around a round, against its median over the run


@dataclass(frozen=True)
class Timing:
    """Median and interquartile range in seconds over `samples` timings."""

    median_s: float
    iqr_s: float
    samples: int

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median; infinite where the median is not positive."""
        return self.iqr_s / self.median_s if self.median_s > 0 else math.inf


def summarize(seconds: Sequence[float]) -> Timing:
    """Median and interquartile range (linear between order statistics)."""
    low, median, high = np.percentile(np.asarray(seconds, dtype=float), (25, 50, 75))
    return Timing(float(median), float(high - low), len(seconds))


def warm_up(time_once: TimeOnce, settings: TimingSettings) -> int:
    """Run until `warm_up_s` have passed and the last three times agree, at most `max_warm_up_s`; number of runs."""
    spent, last = 0.0, []
    count = 0
    while True:
        seconds = time_once()
        count, spent, last = count + 1, spent + seconds, [*last[-2:], seconds]
        steady = len(last) == 3 and max(last) - min(last) <= settings.steady * min(last)
        if spent >= settings.max_warm_up_s or (spent >= settings.warm_up_s and steady):
            return count


class Reference:
    """A fixed piece of work timed again and again: what it says about the device during a run."""

    def __init__(self, time_once: TimeOnce, settings: TimingSettings) -> None:
        self._time_once = time_once
        self._settings = settings
        warm_up(time_once, settings)
        self.seconds = [time_once() for _ in range(3 * settings.rounds)]

    def now(self) -> float:
        """Time of the reference now, relative to its median over the run so far; the better of two."""
        seconds = min(self._time_once(), self._time_once())
        self.seconds.append(seconds)
        return seconds / float(np.median(self.seconds))

    def is_steady(self, before: float, after: float) -> bool:
        return max(abs(before - 1), abs(after - 1)) <= self._settings.drift

    @property
    def timing(self) -> Timing:
        return summarize(self.seconds)


def measure(
    items: Sequence[TimeOnce], *, rng: np.random.Generator, settings: TimingSettings, reference: Reference | None = None
) -> list[Timing]:
    """Time every item `rounds` times, in a new random order each round, so that drift hits all of them alike.

    A round around which the reference drifted is repeated, up to `attempts` times as many rounds in all; then the
    drifted rounds count too. Rows that come out wide are measured anew, and the narrowest attempt is kept.
    """
    timings = _measure_rounds(items, rng, settings, reference)
    for _ in range(settings.attempts - 1):
        wide = [number for number, timing in enumerate(timings) if timing.spread > settings.wide]
        if not wide:
            break
        again = _measure_rounds([items[number] for number in wide], rng, settings, reference)
        for number, timing in zip(wide, again, strict=True):
            timings[number] = min(timings[number], timing, key=lambda t: t.spread)
    return timings


def _measure_rounds(
    items: Sequence[TimeOnce], rng: np.random.Generator, settings: TimingSettings, reference: Reference | None
) -> list[Timing]:
    steady: list[np.ndarray] = []
    drifted: list[np.ndarray] = []
    before = 1.0 if reference is None else reference.now()
    while len(steady) < settings.rounds and len(steady) + len(drifted) < settings.rounds * settings.attempts:
        seconds = np.empty(len(items))
        for number in rng.permutation(len(items)):
            seconds[number] = items[number]()
        after = 1.0 if reference is None else reference.now()
        good = reference is None or reference.is_steady(before, after)
        (steady if good else drifted).append(seconds)
        before = after
    missing = settings.rounds - len(steady)
    rows = np.array(steady + drifted[len(drifted) - missing :] if missing else steady)  # [rounds, items]
    return [summarize(column) for column in rows.T]


def scaled(timing: Timing, factor: float) -> Timing:
    """`timing` in another unit of work."""
    return replace(timing, median_s=timing.median_s * factor, iqr_s=timing.iqr_s * factor)
