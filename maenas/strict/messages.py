"""Values and places as the messages of the readers show them, and the numbers that they take."""

import math
from typing import Any

from maenas.errors import printable_line

# Where a value sits in a document: keys and indices from the top.
Path = tuple[str | int, ...]

MAX_DIGITS = 18  # every integer of at most 18 digits fits into 64 bits


class NumberError(Exception):
    """args: the number as written, what is wrong with it."""


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NumberError(text, f"{shown(text)} is too large a number")
    return value


def integer(text: str) -> int:
    # Also keeps clear of Python's own limit on the length of integers, which depends on its settings.
    if len(text.lstrip("+-")) > MAX_DIGITS:
        raise NumberError(text, f"{shown(text)} is too large an integer")
    return int(text)


def dotted(path: Path) -> str:
    """("stages", 1, "kernel") as stages[1].kernel"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def place(where: str, line: int | None) -> str:
    return where if line is None else f"{where}:{line}"


def one_line(message: str) -> str:
    """A message that may quote the document at length or with control characters, fit for a terminal."""
    text = printable_line(message)
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-195:]}"  # what to do stands at the end


def shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else shown(value)
