"""Quantities as people write them: "3ms", "30M", "18GFLOPs", "50MB".

A parser accepts a positive decimal number followed by a unit; blanks around and between are ignored. Letters of a unit
mean what they mean in SI, so case counts ("m" is milli, "M" is mega), with one exception: "k" and "K" are both kilo.
A number without a unit is refused, because "3" can mean seconds or milliseconds.
"""

import math
import re
from decimal import Decimal

from maenas.errors import MaenasError

_NUMBER = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*(?P<unit>[^\s\d.+-].*)?", re.DOTALL
)

MOST_PIXELS = 8192  # of a side

# Powers of ten are exact as decimals: 80us is the same float as 8e-05.
_PREFIXES = {
    "k": Decimal("1e3"),
    "K": Decimal("1e3"),
    "M": Decimal("1e6"),
    "G": Decimal("1e9"),
    "T": Decimal("1e12"),
}
_SCALES = {"": Decimal(1), **_PREFIXES}
_LATENCY_S = {
    "s": Decimal(1),
    "ms": Decimal("1e-3"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),  # the micro sign
    "μs": Decimal("1e-6"),  # the Greek letter
    "ns": Decimal("1e-9"),
}
_FLOPS = _PREFIXES | {f"{p}{word}": scale for p, scale in _SCALES.items() for word in ("FLOPs", "FLOPS", "FLOP")}
_BYTES = {
    **{f"{p}B": scale for p, scale in _SCALES.items()},
    **{f"{p}iB": Decimal(1024) ** power for power, p in enumerate("KMGT", start=1)},
}


def parse_latency_s(text: str) -> float:
    """Seconds, from a number and one of s, ms, us, µs, ns. Raises MaenasError for anything else."""
    return _parse(text, _LATENCY_S, what="latency", example="3ms", forms="3ms, 2.5 ms, 80us, 80µs, 0.003s")


def parse_params(text: str) -> int:
    """A number of parameters, from a number and one of K, M, G, T. Raises MaenasError for anything else."""
    return _whole(text, _PREFIXES, what="number of parameters", example="30M", forms="500K, 30M, 1.5G")


def parse_flops(text: str) -> int:
    """A number of operations, a multiply-add counting as two. Raises MaenasError for an unknown form.

    The unit is K, M, G or T with or without "FLOPs" ("FLOPS" and "FLOP" are read as the same).
    """
    return _whole(text, _FLOPS, what="number of FLOPs", example="18GFLOPs", forms="18GFLOPs, 18G, 900 MFLOPs")


def parse_bytes(text: str) -> int:
    """A number of bytes, from decimal (kB, MB, GB, TB) or binary units (KiB, MiB, GiB, TiB), or B.

    Raises MaenasError for anything else.
    """
    return _whole(text, _BYTES, what="size", example="50MB", forms="512B, 50MB, 64MiB, 1.5GB")


def parse_sides(text: str) -> tuple[int, int]:
    """Height and width in pixels, from one side of a square or both: 640, 480x640.

    Raises MaenasError for anything else, and for a side over `MOST_PIXELS`.
    """
    match = re.fullmatch(r"([0-9]{1,9})(?:[xX]([0-9]{1,9}))?", text.strip())
    sides = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(1 <= side <= MOST_PIXELS for side in sides):
        raise MaenasError(
            f"{text.strip()[:40]!r}: an input is one side, 640, or height x width, 480x640; 1 to {MOST_PIXELS} pixels"
        )
    return sides


def format_latency(seconds: float) -> str:
    """Three significant digits in the fitting unit, for example "2.87 ms"."""
    return _format(seconds, (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)))


def format_count(n: float, unit: str = "") -> str:
    """Three significant digits with a prefix, for example "28.4M", or "18.2 GFLOPs" with unit="FLOPs"."""
    steps = [(prefix, float(_PREFIXES[prefix])) for prefix in "TGMK"]
    text = _format(n, (*steps, ("", 1.0)))
    number, _, prefix = text.partition(" ")
    return f"{number} {prefix}{unit}" if unit else f"{number}{prefix}"


def format_duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def number_of(n: int, noun: str) -> str:
    """`n` of something with its plural: "1 class", "3 classes", "0 boxes"."""
    plural = noun if n == 1 else noun + ("es" if noun.endswith(("s", "x")) else "s")
    return f"{n} {plural}"


def format_bytes(n: float) -> str:
    """Three significant digits in decimal units, for example "50.3 MB"."""
    return _format(n, (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)))


def _parse(text: str, units: dict[str, Decimal], *, what: str, example: str, forms: str) -> float:
    stripped = text.strip()
    shown = repr(stripped if len(stripped) <= 40 else f"{stripped[:40]}...")
    shown = shown[1:-1] if stripped else shown

    def refuse(problem: str) -> MaenasError:
        return MaenasError(f"{shown}: {problem}. A {what} is written like {forms}")

    match = _NUMBER.fullmatch(stripped)
    if match is None:
        raise refuse("must be more than zero" if stripped.startswith("-") else f"not a {what}")
    if match["unit"] is None:
        raise MaenasError(f"{shown}: give a unit, for example {example}. A {what} is written like {forms}")
    scale = units.get(match["unit"])
    if scale is None:
        raise refuse(f"unknown unit {match['unit'][:20]!r}")
    value = float(Decimal(match["number"]) * scale)
    if not math.isfinite(value):
        raise refuse("too large")
    if value <= 0:
        raise refuse("must be more than zero")
    return value


def _whole(text: str, units: dict[str, Decimal], *, what: str, example: str, forms: str) -> int:
    value = round(_parse(text, units, what=what, example=example, forms=forms))
    if value < 1:
        raise MaenasError(f"{text.strip()}: less than one. A {what} is written like {forms}")
    return value


def _format(value: float, steps: tuple[tuple[str, float], ...]) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:.3g} {steps[-1][0]}".strip()
    # Compare the rounded value, so that 999.9 us is shown as 1.00 ms and not as 1000 us.
    unit, scale = next((step for step in steps if abs(float(f"{value / step[1]:.3g}")) >= 1), steps[-1])
    scaled = value / scale
    if scale == 1.0 and scaled == round(scaled):
        return f"{round(scaled)} {unit}".strip()
    magnitude = abs(float(f"{scaled:.3g}"))
    if magnitude < 1:
        return f"{scaled:.3g} {unit}".strip()
    decimals = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2
    return f"{scaled:.{decimals}f} {unit}".strip()
