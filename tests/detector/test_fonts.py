"""Text on pictures, whatever its alphabet."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import ImageFont

from detector import fonts
from detector.draw import draw_boxes, figure_png
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


def test_names_on_plots_have_a_font_of_the_system_where_matplotlibs_lacks_a_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = str(Path(get_data_path(), "fonts", "ttf", "STIXGeneral.ttf"))
    monkeypatch.setattr(fonts, "_system_paths", lambda: [path])
    dejavu = fonts._letters(next(fonts._paths()))
    name = next(letter for letter in sorted(fonts._letters(path) - dejavu) if letter.isprintable())
    figure = Figure()
    figure.subplots().set_xticks([0, 1], ["cat", f"{name}…"])
    figure_png(figure)
    of = {text.get_text(): text.get_fontproperties().get_file() for text in figure.findobj(Text)}  # type: ignore[attr-defined]
    assert (of["cat"], of[f"{name}…"]) == (None, path)
