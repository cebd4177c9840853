"""The colour of a class: the same in every drawing, plot and page.

All colours have nearly the same luminance (W3C's, WCAG 2.2): the contrast to a white page and to the dark one of the
reports is at least 3, as it must be for graphics.
"""

from __future__ import annotations

import colorsys
from functools import cache

GOLDEN_RATIO = 0.618033988749895  # successive multiples, modulo 1, stay apart: any number of distinct hues
FIRST_HUE = 0.58
SATURATION = 0.8
LUMINANCES = (0.2, 0.27)  # of every other class: neighbours on the circle of hues differ a little more
STEPS = 20  # of the bisection: finer than a byte

Colour = tuple[int, int, int]


@cache
def class_colour(label: int) -> Colour:
    """Red, green and blue, 0 to 255, of the class with index `label`."""
    hue = (FIRST_HUE + label * GOLDEN_RATIO) % 1.0
    wanted, low, high = LUMINANCES[label % len(LUMINANCES)], 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if luminance(_bytes(hue, middle)) < wanted:
            low = middle
        else:
            high = middle
    return _bytes(hue, low)


def luminance(colour: Colour) -> float:
    """Relative luminance, 0 (black) to 1 (white)."""
    red, green, blue = (_linear(value / 255) for value in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    """Contrast of two colours, 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def hex_colour(colour: Colour) -> str:
    """As "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _bytes(hue: float, lightness: float) -> Colour:
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, SATURATION)
    return round(255 * red), round(255 * green), round(255 * blue)


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
