"""Damage for files: the same seed gives the same damaged text or bytes."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest

from maenas.errors import MaenasError

Input = TypeVar("Input")
Value = TypeVar("Value")

_NUMBERS = [
    *("0", "-1", "1", "2", "3", "7", "8", "9", "16", "64", "255", "8192", "8200", "65536", "4294967296", "9" * 18),
    *("18446744073709551616", "-9223372036854775809", "9" * 19, "9" * 5000, "0x" + "f" * 5000, "0x40", "0o17", "1_000"),
    *("1.5", "-0.0", "0.1", "1e3", "1e-400", "1e308", "1e999", "NaN", "Infinity", "-Infinity", "01", "1e", "5.", ".5"),
    *("+3", "1j"),
]
_VALUES = [
    *("null", "true", "false", "None", "True", "yes", "''", '""', "[]", "{}", "()", "[[]]", '{"a": 1}', "[1, 2, 3]"),
    *("'x'", '"x"', '"k1kx"', '"csp"', "focus", "published", "~", "&a 1", "*a", "!!python/none 1", "2024-01-01", "<<"),
]
_SNIPPETS = [
    *(
        "\x00",
        "\x07",
        "\t",
        "\r",
        "\u2028",
        "\x85",
        "\ufeff",
        "\u0000",
        "é",
        "日本",
        "\U0001f600",
        "\ud800",
        "１",
        "٣",
        "\u202e",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "'",
        "\\",
        "\\u",
        "\\ud800",
        "\\x",
        "\\N{x}",
        "#",
        "-",
        "- ",
        "---\n",
        "...\n",
    ),
    *("|", ">", "%", "@", "`", "?", "? ", "&", "*", "!", "!!", "\n", "\n\n", " ", "(", ")", "lambda: 0", "**", "..."),
]
_TOKEN = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|-?\d+(?:\.\d+)?|[A-Za-z_]\w*|[^\s\w]")


def mutate(text: str, rng: np.random.Generator) -> str:
    """`text` with 1 to 5 damages."""
    for _ in range(int(_pick((1, 1, 1, 2, 3, 5), rng))):
        text = _DAMAGES[int(rng.integers(len(_DAMAGES)))](text, rng)
    return text


def _pick(items: Any, rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _span(text: str, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(text) + 1))
    return start, min(len(text), start + int(rng.integers(1, 40)))


def _flip_bytes(text: str, rng: np.random.Generator) -> str:
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(int(rng.integers(1, 4)) if data else 0):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return data.decode("utf-8", "replace")


def _delete(text: str, rng: np.random.Generator) -> str:
    start, end = _span(text, rng)
    return text[:start] + text[end:]


def _duplicate(text: str, rng: np.random.Generator) -> str:
    start, end = _span(text, rng)
    return text[:end] + text[start:end] + text[end:]


def _lines(text: str, rng: np.random.Generator) -> str:
    """Delete, repeat, or swap lines."""
    lines = text.split("\n")
    i, j = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    kind = rng.integers(3)
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines.insert(j, lines[i])
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return "\n".join(lines)


def _replace_token(text: str, rng: np.random.Generator, wanted: Callable[[str], bool], choices: Any) -> str:
    tokens = [match for match in _TOKEN.finditer(text) if wanted(match[0])]
    if not tokens:
        return text
    match = _pick(tokens, rng)
    return text[: match.start()] + _pick(choices, rng) + text[match.end() :]


def _other_number(text: str, rng: np.random.Generator) -> str:
    return _replace_token(text, rng, lambda token: token.lstrip("-")[:1].isdigit(), _NUMBERS)


def _swap_numbers(text: str, rng: np.random.Generator) -> str:
    present = re.findall(r"\d+(?:\.\d+)?", text) or ["0"]
    return _replace_token(text, rng, lambda token: token[0].isdigit(), present)


def _other_type(text: str, rng: np.random.Generator) -> str:
    return _replace_token(text, rng, lambda token: True, _VALUES)


def _other_word(text: str, rng: np.random.Generator) -> str:
    present = [token for token in _TOKEN.findall(text) if token[0].isalpha() or token[0] in "\"'"] or ["x"]
    return _replace_token(text, rng, lambda token: token[0].isalpha() or token[0] in "\"'", present)


def _truncate(text: str, rng: np.random.Generator) -> str:
    return text[: int(rng.integers(len(text) + 1))]


def _insert(text: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(len(text) + 1))
    return text[:at] + _pick(_SNIPPETS, rng) * int(_pick((1, 1, 1, 2, 2000), rng)) + text[at:]


_DAMAGES = (
    _flip_bytes,
    _delete,
    _duplicate,
    _lines,
    _other_number,
    _swap_numbers,
    _swap_numbers,
    _other_type,
    _other_word,
    _truncate,
    _insert,
)


_SIZES = (0, 1, 127, 128, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


def damage(data: bytes, rng: np.random.Generator, *, within: int | None = None) -> bytes:
    """`data` with 1 to 5 damages, most of them in its first `within` bytes."""
    changed = bytearray(data)
    for _ in range(int(_pick((1, 1, 1, 2, 3, 5), rng))):
        end = len(changed) if within is None or rng.random() < 0.1 else min(within, len(changed))
        at, size, kind = int(rng.integers(end + 1)), int(rng.integers(1, 33)), rng.integers(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at : at + size] = rng.bytes(size)
        elif kind == 2:
            del changed[at : at + size]
        elif kind == 3:
            changed[at:at] = changed[at : at + size]
        elif kind == 4:
            del changed[at:]
        elif kind == 5:
            changed[at : at + size] = bytes(size)
        else:
            changed[at : at + 8] = int(_pick(_SIZES, rng)).to_bytes(8, "little")
    return bytes(changed)


def fuzz(
    count: int,
    make: Callable[[int, np.random.Generator], Input],
    read: Callable[[Input], Value],
    check: Callable[[Value], object] = lambda value: None,
    *,
    where: str = "fuzz",
) -> Counter[str]:
    """How many of `count` damaged inputs were read and how many refused; anything else fails, with the input.

    A message is one that `where` begins (a name) or stands in (a path), short, and fit for a terminal.
    """
    rng, outcomes = np.random.default_rng(0), Counter[str]()
    for number in range(count):
        damaged = make(number, rng)
        try:
            value = read(damaged)
        except MaenasError as error:
            message = str(error)
            assert where in message, message
            assert len(message) < 2500, message
            assert all(line.isprintable() for line in message.split("\n")), ascii(message)
            outcomes["refused"] += 1
            continue
        except Exception as error:
            pytest.fail(f"input {number}: {type(error).__name__}: {error}\n{damaged!a:.3000}")
        check(value)
        outcomes["read"] += 1
    assert outcomes.total() == count
    return outcomes


def damaged_text(*texts: str) -> Callable[[int, np.random.Generator], str]:
    """For `fuzz`: these texts in turn, damaged."""
    return lambda number, rng: mutate(texts[number % len(texts)], rng)
