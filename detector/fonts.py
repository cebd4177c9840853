"""Fonts for text on pictures: Pillow's own, which has ASCII, else one of matplotlib's or of the system that has it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def lettering(text: str, size: int) -> tuple[str, Font]:
    """What to draw for `text`, and a font of `size` pixels that has all of it.

    Where no font has, letters beyond ASCII become their numbers, so that names can still be told apart.
    """
    if text.replace("…", "").isascii():
        return text, _font(None, size)
    path = _path_for(text)
    return (text if path else text.encode("ascii", "backslashreplace").decode()), _font(path, size)


def letter(figure: Figure) -> None:
    """Gives each text of a figure of matplotlib that has letters beyond ASCII a font with all of them, if there is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and not text.get_text().isascii() and (path := _path_for(text.get_text())):
            text.set_fontproperties(FontProperties(fname=path, size=text.get_fontsize()))


def _path_for(text: str) -> str | None:
    """The first font that has all letters of `text`; None if none has."""
    letters = {*text} - {"…"}
    return next((path for path in _paths() if letters <= _letters(path)), None)


@cache
def _font(path: str | None, size: int) -> Font:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


def _paths() -> Iterator[str]:
    """Files of fonts: DejaVu Sans, which matplotlib brings along, then those of the system, as long as they are asked
    for."""
    from matplotlib import get_data_path

    yield str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    yield from _system_paths()


@cache
def _system_paths() -> list[str]:
    from matplotlib.font_manager import findSystemFonts

    return sorted(findSystemFonts())


@cache
def _letters(path: str) -> frozenset[str]:
    """What a font can draw; nothing where Pillow cannot use it, as with fonts of small pictures."""
    from matplotlib.ft2font import FT2Font

    try:
        _font(path, 16)
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()
