"""The statistics against clocks whose truth is known."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from maenas.deploy.clock import Reference, TimingSettings, measure, scaled, summarize, warm_up

SETTINGS = TimingSettings()


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def clock(times: Iterator[float] | list[float]) -> Callable[[], float]:
    """Gives `times` one after another, then the last for ever."""
    state = {"last": 0.0}
    source = iter(times)

    def time_once() -> float:
        state["last"] = next(source, state["last"])
        return state["last"]

    return time_once


def noisy(seconds: float, spread: float, seed: int) -> Callable[[], float]:
    generator = np.random.default_rng(seed)
    return lambda: seconds * (1 + spread * float(generator.exponential()))


def test_the_summary_is_of_order_statistics() -> None:
    timing = summarize([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (timing.median_s, timing.iqr_s, timing.samples) == (3.0, 2.0, 5)
    assert timing.spread == pytest.approx(2 / 3)
    assert scaled(timing, 0.5).median_s == 1.5


def test_warm_up_lasts_until_times_agree() -> None:
    falling = [0.02 * 0.7**n for n in range(30)]
    count = warm_up(clock([*falling[:12], *[falling[12]] * 100]), SETTINGS)
    assert 13 <= count <= 16


def test_warm_up_ends_on_a_clock_that_never_settles() -> None:
    times = (0.01 * (1 + n % 2) for n in range(10**6))
    assert warm_up(clock(times), SETTINGS) < 40


def test_warm_up_takes_its_time_on_fast_work() -> None:
    assert warm_up(clock([1e-4]), SETTINGS) * 1e-4 >= SETTINGS.warm_up_s


def test_a_slow_moment_does_not_move_the_median() -> None:
    times = [1.0] * 4 + [50.0] + [1.0] * 100
    (timing,) = measure([clock(times)], rng=rng(), settings=SETTINGS)
    assert timing.median_s == 1.0
    assert timing.samples == SETTINGS.rounds


def test_items_keep_their_places_whatever_the_order() -> None:
    items = [clock([float(n)]) for n in range(1, 9)]
    assert [timing.median_s for timing in measure(items, rng=rng(), settings=SETTINGS)] == [*map(float, range(1, 9))]


def test_rounds_run_in_different_orders() -> None:
    calls: list[int] = []

    def item(number: int) -> Callable[[], float]:
        return lambda: calls.append(number) or 1.0

    measure([item(n) for n in range(6)], rng=rng(), settings=SETTINGS)
    rounds = [tuple(calls[n : n + 6]) for n in range(0, len(calls), 6)]
    assert all(sorted(one) == list(range(6)) for one in rounds)
    assert len(set(rounds)) > 1


def test_a_wide_row_is_measured_again_and_a_narrow_one_is_not() -> None:
    counts = [0, 0]

    def wide() -> float:
        counts[0] += 1
        return 1.0 if counts[0] > SETTINGS.rounds else float(counts[0])

    def narrow() -> float:
        counts[1] += 1
        return 1.0

    timings = measure([wide, narrow], rng=rng(), settings=SETTINGS)
    assert counts == [2 * SETTINGS.rounds, SETTINGS.rounds]
    assert timings[0].iqr_s == 0.0


def test_rounds_during_which_the_device_drifted_do_not_count() -> None:
    factor = {"now": 1.0, "calls": 0}
    reference = Reference(lambda: factor["now"], SETTINGS)

    def item() -> float:
        factor["calls"] += 1
        factor["now"] = 2.0 if factor["calls"] in range(2, 6) else 1.0  # four rounds at half the clock
        return 3.0 * factor["now"]

    (timing,) = measure([item], rng=rng(), settings=SETTINGS, reference=reference)
    assert (timing.median_s, timing.iqr_s) == (3.0, 0.0)
    assert factor["calls"] > SETTINGS.rounds


def test_a_device_that_stays_slow_still_gives_rows() -> None:
    factor = {"now": 1.0}
    reference = Reference(lambda: factor["now"], SETTINGS)
    factor["now"] = 1.5
    (timing,) = measure([clock([2.0])], rng=rng(), settings=SETTINGS, reference=reference)
    assert (timing.median_s, timing.samples) == (2.0, SETTINGS.rounds)


def test_noise_that_only_adds_moves_the_median_little() -> None:
    items = [noisy(1e-3 * n, 0.02, n) for n in range(1, 20)]
    for n, timing in enumerate(measure(items, rng=rng(), settings=SETTINGS), start=1):
        assert 1 <= timing.median_s / (1e-3 * n) < 1.05
