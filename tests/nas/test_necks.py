"""The neck searched too: every neck of the grid solved exactly, and the one chosen by the prior on the split."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maenas.errors import MaenasError
from maenas.latency.predictor import load_predictor, predict
from maenas.lowering import lower
from maenas.nas.exact import ExactResult, solve
from maenas.nas.layered import Solution
from maenas.nas.necks import DEPTHS, NeckOption, ShareWindow, choose_neck, neck_grid, parse_share
from maenas.nas.provenance import provenance
from maenas.nas.request import Request, detector_of, prepare
from maenas.nas.run import run
from maenas.presets import NECK_PRESETS, PROFILES, get_neck_preset, make_neck, neck_name
from maenas.reports.origin import neck_of, read_origin, setup_of
from maenas.reports.search_text import format_setup
from maenas.spec import published_specs, spec_from_json, spec_to_json

TINY: dict[str, Any] = {"space": "k1kx-tiny", "latency_s": (2.2e-3,), "neck": "auto"}


# Names and widths ----------------------------------------------------------------------------------------------------


def test_every_neck_of_a_grid_has_a_name_that_is_read_back() -> None:
    for base in NECK_PRESETS:
        grid = neck_grid(base)
        assert len(grid) == len({name for name, *_ in grid}) == len(DEPTHS) * len(PROFILES)
        for name, depth, profile in grid:
            preset = get_neck_preset(name)
            assert (preset.depth, preset.ratios) == (depth, PROFILES[profile])
            assert (preset.block, preset.hidden_ratio) == (NECK_PRESETS[base].block, NECK_PRESETS[base].hidden_ratio)
    assert neck_name("s", 3, "full") == "s"
    assert neck_name("t", 3, "full") == "t-d3-full"  # its widths are fixed


@pytest.mark.parametrize("name", ["xl", "s-d2", "s-d0-half", "s-d2-broad", "s-2-half", "s-d2-half-x", ""])
def test_an_unknown_neck_is_refused_with_the_ones_there_are(name: str) -> None:
    with pytest.raises(MaenasError, match=r"the presets are t, s, m, l, nano.*wide, full, narrow, half"):
        get_neck_preset(name)


@given(taps=st.tuples(*[st.integers(1, 128)] * 3), name=st.sampled_from([row[0] for row in neck_grid("s")]))
def test_widths_of_a_neck_are_pyramidal_where_the_taps_are(taps: tuple[int, int, int], name: str) -> None:
    c3, c4, c5 = sorted(8 * tap for tap in taps)
    preset = get_neck_preset(name)
    widths = make_neck(preset, (c3, c4, c5)).out_channels
    assert list(widths) == sorted(widths)
    for width, tap, ratio in zip(widths, (c3, c4, c5), preset.ratios, strict=True):
        assert abs(width - ratio * tap) <= 8 or width == 16


# The grid ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [TINY, TINY | {"scope": "backbone"}, TINY | {"max_params": 5_000_000}, {"space": "mob", "latency_s": (1.3e-3,)}],
)
def test_the_backbone_behind_every_neck_is_the_optimum_for_what_remains(fields: dict[str, Any]) -> None:
    """Solved from its neighbour's multipliers or on its own with nothing known, it is the same."""
    searched = prepare(Request(**fields | {"neck": "auto"}))
    assert searched.necks is not None
    for option in searched.necks.options[::3]:
        if option.solution is None:  # the neck alone is over a limit
            with pytest.raises(MaenasError, match="impossible budget"):
                prepare(Request(**fields | {"neck": option.name}))
            continue
        alone = prepare(Request(**fields | {"neck": option.name}))
        optimum = solve(alone.problem)
        assert option.certificate.proven
        assert optimum.proven
        assert option.solution.score == optimum.solutions[0].score
        prediction = predict(lower(detector_of(alone, option.solution.genome)), alone.predictors[0])
        assert option.whole_s == pytest.approx(prediction.seconds, abs=1e-9, rel=0)
        assert option.backbone_s == pytest.approx(prediction.parts["backbone"], abs=1e-9, rel=0)


@pytest.mark.parametrize("budget", [1.0e-3, 1.25e-3, 1.5e-3])
def test_at_320_pixels_the_backbone_gets_its_share(budget: float) -> None:
    """With a neck that does not shrink it got 26 % and the neck 60 %."""
    result = run(prepare(Request(latency_s=(budget,), input_size=320, neck="auto", population=64, generations=20)))
    parts = result.candidates[0].predictions[0].parts
    assert 0.35 < parts["backbone"] / sum(parts.values()) < 0.55
    assert parts["neck"] / sum(parts.values()) < 0.55


def test_what_is_built_is_the_chosen_neck_and_is_recorded() -> None:
    setup = prepare(Request(**TINY, solver="exact"))
    result = run(setup)
    necks, winner = setup.necks, result.candidates[0]
    assert necks is not None
    assert result.proven
    assert winner.score == pytest.approx(necks.chosen.score, abs=1e-6)
    same = neck_of(winner.spec)  # at these taps a preset of fixed widths may be the same neck
    assert same is not None
    assert make_neck(get_neck_preset(same), winner.spec.backbone.tap_channels) == winner.spec.neck
    stated = provenance(result, 0)
    assert stated["neck"]["name"] == necks.chosen.name
    assert stated["neck"]["prior"] == [0.35, 0.55]
    assert "prior 35 to 55 %, as the published detectors" in stated["neck"]["reason"]
    text = format_setup(setup)
    assert f"chosen     {necks.chosen.name}: backbone" in text
    assert text.count("%*") == 1
    again = read_origin(spec_from_json(spec_to_json(winner.spec, "x", stated)), "x")
    assert again is not None
    assert setup_of(again, winner.spec, None).space.neck == necks.chosen.name


def test_the_search_for_the_neck_is_the_same_every_time() -> None:
    one, other = (prepare(Request(**TINY)).necks for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.chosen.name == other.chosen.name
    assert [option.score for option in one.options] == [option.score for option in other.options]


def test_a_score_that_is_not_additive_has_its_neck_chosen_by_mae() -> None:
    setup = prepare(Request(**TINY, score="deepmad"))
    assert setup.necks is not None
    assert setup.necks.score == "mae"
    assert setup.problem.objective is None


# The choice ----------------------------------------------------------------------------------------------------------


def option(depth: int, profile: str, share: float | None, score: float = 1000.0) -> NeckOption:
    solutions = () if share is None else (Solution(np.zeros(21, np.int64), int(score * 1e9), ()),)
    certificate = ExactResult(solutions, score, True, 0, 0, 0)
    return NeckOption(f"s-d{depth}-{profile}", depth, profile, certificate, score, share or 0.0, 1.0)


def test_the_published_depth_comes_first_then_the_middle_of_the_window() -> None:
    options = [option(2, "full", 0.45), option(3, "full", 0.36), option(3, "half", 0.53), option(4, "half", 0.45)]
    assert choose_neck(options, ShareWindow(), 3)[0].name == "s-d3-half"
    assert choose_neck(options[:2] + options[3:], ShareWindow(), 3)[0].name == "s-d3-full"
    assert choose_neck(options, ShareWindow(0.4, 0.5), 3)[0].depth in (2, 4)
    assert choose_neck(options, ShareWindow(), 6)[0].name == "s-d4-half"


def test_where_no_neck_reaches_the_share_the_nearest_is_taken_and_said() -> None:
    options = [option(1, "full", 0.6), option(3, "full", 0.62), option(4, "half", None)]
    chosen, reason = choose_neck(options, ShareWindow(), 3)
    assert chosen.name == "s-d1-full"
    assert "no neck of the grid comes into the prior of 35 to 55 %" in reason


@given(
    shares=st.lists(st.none() | st.floats(0.05, 0.95), min_size=16, max_size=16),
    low=st.floats(0.1, 0.5),
    width=st.floats(0.01, 0.4),
)
def test_a_neck_inside_the_window_is_never_passed_over(shares: list[float | None], low: float, width: float) -> None:
    window = ShareWindow(low, low + width)
    grid = itertools.product(DEPTHS, PROFILES)
    options = [option(depth, profile, share) for (depth, profile), share in zip(grid, shares, strict=True)]
    chosen, _ = choose_neck(options, window, 3)
    fitting = [o for o in options if o.solution is not None]
    if fitting:
        assert window.miss(chosen.share) == min(window.miss(o.share) for o in fitting)
        inside = [o for o in fitting if window.miss(o.share) == 0]
        assert not inside or abs(chosen.depth - 3) == min(abs(o.depth - 3) for o in inside)


def test_the_published_detectors_lie_in_the_prior() -> None:
    for name, spec in published_specs().items():
        if "nano" not in name:
            parts = predict(lower(spec), load_predictor("t4")).parts
            assert ShareWindow().miss(parts["backbone"] / sum(parts.values())) == 0


@pytest.mark.parametrize("text", ["0.3..1.2", "0..0.5", "-0.1..0.5", "0.6..0.4", "0.5", "a..b", "nan..0.5", "0.3..nan"])
def test_a_share_that_makes_no_sense_is_refused_in_words(text: str) -> None:
    with pytest.raises(MaenasError, match=r"for example 0\.35\.\.0\.55"):
        parse_share(text)


def test_a_share_needs_a_neck_that_is_searched() -> None:
    assert parse_share("0.3..0.6") == ShareWindow(0.3, 0.6)
    request = Request(**TINY, backbone_share=ShareWindow(0.3, 0.6))
    assert prepare(request).necks is not None
    with pytest.raises(MaenasError, match="give it with --neck auto"):
        prepare(dataclasses.replace(request, neck="s"))


def test_a_budget_that_no_neck_leaves_room_in_is_answered_with_the_least_there_is() -> None:
    with pytest.raises(MaenasError, match=r"impossible budget: latency on t4 is limited to 500 us.*needs is"):
        prepare(Request(**TINY | {"latency_s": (0.5e-3,)}))
