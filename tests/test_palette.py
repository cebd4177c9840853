"""Colours of classes: distinct, and seen on light and on dark."""

import pytest

from maenas.palette import class_colour, contrast, hex_colour, luminance

LIGHT, DARK = (255, 255, 255), (26, 32, 41)


def test_the_colours_of_many_classes_are_distinct() -> None:
    assert len({class_colour(label) for label in range(300)}) == 300


@pytest.mark.parametrize("label", range(0, 200, 7))
def test_a_colour_stands_out_on_a_light_and_on_a_dark_page(label: int) -> None:
    assert contrast(class_colour(label), LIGHT) >= 3
    assert contrast(class_colour(label), DARK) >= 3


def test_luminance_is_that_of_the_standard() -> None:
    assert luminance((0, 0, 0)) == 0
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)  # the grey that just fails AA
    assert hex_colour((1, 32, 255)) == "#0120ff"
