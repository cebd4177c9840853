"""Text on pictures, whatever its alphabet."""

import itertools

import numpy as np
import pytest
from PIL import ImageFont

from detector import fonts
from detector.draw import draw_boxes
from detector.fonts import lettering

NAMES = ("cat", "café", "кот", "дом", "猫", "犬", "😀", "😁")


@pytest.mark.parametrize("has_system_fonts", [True, False])
def test_names_of_any_alphabet_are_drawn_apart(has_system_fonts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_system_fonts:
        monkeypatch.setattr(fonts, "_system_paths", list)
    blank = np.zeros((60, 160, 3), np.uint8)
    drawn = [draw_boxes(blank, np.array([[4.0, 40, 50, 55]]), [1], [name], font=16) for name in NAMES]
    for one, other in itertools.combinations(drawn, 2):
        assert (one != other).any()


def test_letters_that_no_font_has_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_system_paths", list)
    assert lettering("кот…", 12)[0] == "кот…"
    text, font = lettering("猫 1", 12)
    assert text == "\\u732b 1"
    assert isinstance(font, ImageFont.FreeTypeFont)
