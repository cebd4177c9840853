"""Who goes on follows from the scores; intervals are as wide as they say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maenas.errors import MaenasError
from maenas.racing.bootstrap import compare, image_weights, mean_over_seeds
from maenas.racing.progress import planned_epochs
from maenas.racing.schedule import field_sizes, rung_epochs
from maenas.racing.state import Entrant, Out, Race, Score, Settings, new_race, require_same

# The course -----------------------------------------------------------------------------------------------------------


def test_rungs_end_an_eta_th_before_the_next_and_at_an_evaluation() -> None:
    assert rung_epochs(300, rungs=3, eta=3) == (35, 100, 300)
    assert rung_epochs(60, rungs=3, eta=3) == (7, 20, 60)
    assert rung_epochs(27, rungs=1, eta=3) == (27,)
    with pytest.raises(MaenasError, match="too few for 4 rungs"):
        rung_epochs(4, rungs=4, eta=3)


def test_an_eta_th_goes_on_and_two_reach_the_end() -> None:
    assert field_sizes(9, 3, 3) == (9, 3, 2)
    assert field_sizes(27, 3, 3) == (27, 9, 3)
    assert field_sizes(2, 3, 3) == (2, 2, 2)


def settings(**given: Any) -> Settings:
    common = dict(data="d", candidates=(), control=None, budget=None, device="t4", space="k1kx", shortlist=9)
    return Settings(**{**common, "input_size": None, "rungs": (1, 3, 9), "eta": 3, "seeds": 1, "recipe": {}, **given})


def scored(aps: Sequence[float], *, control: int | None = None) -> Race:
    entrants = tuple(Entrant(f"n{i}", f"{i}", "", i == control, 9.0 - i, 1.0) for i in range(len(aps)))
    scores = tuple(Score(f"n{i}", 0, end, ap) for i, ap in enumerate(aps) for end in (1, 3))
    return replace(new_race(settings(), entrants), scores=scores)


def test_the_best_third_stays_and_the_control_with_them() -> None:
    aps = [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.0, 0.4, 0.5]
    assert scored(aps).field(0) == tuple(f"n{i}" for i in range(9))
    assert scored(aps).field(1) == ("n1", "n3", "n5")
    assert scored(aps, control=6).field(2) == ("n1", "n3", "n6")
    assert planned_epochs(scored(aps)) == 9 + 3 * 2 + 2 * 6


def test_a_race_goes_on_with_its_budget_in_other_words_but_not_with_another() -> None:
    for words in ("3ms", "3.0 ms", "3000us"):
        require_same(settings(budget="3ms"), settings(budget=words), Path("out"))
    for other in ("3.1ms", None):
        with pytest.raises(MaenasError, match=r"different budget \(3ms there, (3\.1ms|None) here\)"):
            require_same(settings(budget="3ms"), settings(budget=other), Path("out"))


def test_a_failure_later_on_changes_no_earlier_field() -> None:
    aps = [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.0, 0.4, 0.5]
    race = replace(scored(aps), out=(Out("n1", 0, 9, "diverged"),))
    assert [race.field(rung) for rung in (1, 2)] == [("n1", "n3", "n5"), ("n1", "n3")]
    early = replace(scored(aps), out=(Out("n1", 0, 3, "diverged"),))
    assert [early.field(rung) for rung in (1, 2)] == [("n1", "n3", "n5"), ("n3",)]


@pytest.mark.parametrize(("count", "eta", "rungs"), [(8, 2, (1, 2, 4)), (16, 2, (1, 2, 4, 8)), (27, 3, (1, 3, 9))])
def test_a_beaten_control_takes_nobody_along(count: int, eta: int, rungs: tuple[int, ...]) -> None:
    entrants = tuple(Entrant(f"n{i}", f"{i}", "", i == 0, 9.0 + i, 1.0) for i in range(count))
    scores = tuple(Score(f"n{i}", 0, end, i / count) for i in range(count) for end in rungs)
    race = replace(new_race(settings(rungs=rungs, eta=eta), entrants), scores=scores)
    sizes = field_sizes(count, len(rungs), eta)
    assert [len(race.field(rung)) for rung in range(1, len(rungs))] == [size + 1 for size in sizes[1:]]


def test_of_equal_aps_the_faster_one_stays() -> None:
    assert scored([0.5] * 9).field(2) == ("n7", "n8")


# Who has won ----------------------------------------------------------------------------------------------------------


def test_an_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for case in range(100):
        images = rng.normal(0.1, 0.3, 60)  # a mean over images stands for AP
        weights = image_weights(60, case, 400)
        rows = [(weights @ images / 60)[None], np.zeros((1, 401))]
        order, _, behind = compare(rows, case)
        loser = behind[order[1]]
        low, high = (loser.low, loser.high) if order[0] == 0 else (-loser.high, -loser.low)
        covered += low <= 0.1 <= high
    assert 88 <= covered <= 99


def test_seeds_that_differ_widen_the_interval() -> None:
    weights = image_weights(50, 0, 500)
    images = np.random.default_rng(1).normal(0.5, 0.2, 50)
    one = (weights @ images / 50)[None]
    _, [alone, _], _ = compare([one, one * 0], 0)
    _, [several, _], _ = compare([np.concatenate([one - 0.1, one, one + 0.1]), one * 0], 0)
    assert several.value == pytest.approx(alone.value)
    assert several.high - several.low > alone.high - alone.low


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_mean_of_seeds_varies_as_much_as_seeds_say(count: int) -> None:
    aps = np.random.default_rng(count).normal(0.5, 0.1, count)
    rows = np.repeat(aps[:, None], 40_001, axis=1)  # alike on all images
    means = mean_over_seeds(rows, np.random.default_rng(0))
    assert means[0] == aps.mean()
    assert means[1:].mean() == pytest.approx(aps.mean(), abs=1e-3)
    assert means[1:].std() == pytest.approx(aps.std(ddof=1) / np.sqrt(count), rel=0.02)
