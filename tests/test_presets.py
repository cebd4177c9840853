"""The bins of a head reach as far as its input is large."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maenas import predict, search
from maenas.presets import NECK_PRESETS, get_neck_preset, reaching
from maenas.spec import MAX_INPUT, MOST_BINS, published_specs


@given(st.sampled_from(sorted(NECK_PRESETS)), st.integers(1, MAX_INPUT // 32))
def test_a_box_as_large_as_the_input_is_reached_from_a_prior_beside_its_middle(name: str, cells: int) -> None:
    bins = reaching(get_neck_preset(name), 32 * cells).reg_max
    assert bins == MOST_BINS or bins >= cells / 2 + 0.5
    assert bins >= get_neck_preset(name).reg_max


def test_at_the_published_inputs_the_bins_are_the_published_ones() -> None:
    for name, spec in published_specs().items():
        preset = get_neck_preset("nano" if "nano" in name else name[-1])
        assert reaching(preset, spec.input.width).reg_max == preset.reg_max == spec.head.reg_max, name


@pytest.mark.parametrize(("side", "bins"), [(416, 7), (640, 11)])
def test_a_search_at_a_larger_input_prices_and_writes_a_head_that_reaches_as_far(side: int, bins: int) -> None:
    found = search("9ms", space="mob", device="t4", input_size=side)
    assert found.best.spec.head.reg_max == bins
    assert predict(found.best.spec, device="t4").latency_ms == pytest.approx(found.best.latency_ms, rel=1e-12)
