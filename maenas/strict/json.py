"""JSON objects to dataclasses."""

import json
import re
import typing
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

from maenas.errors import MaenasError
from maenas.strict.messages import NumberError, Path, finite, integer, place, shown
from maenas.strict.validation import validate

T = TypeVar("T")


def parse_json(text: str, type_: type[T], *, where: str) -> T:
    """Reads a JSON object into the dataclass `type_`.

    `where` names the text in messages, usually the path of its file.

    Raises MaenasError for malformed JSON, a repeated or unknown key, a missing or wrong value, NaN or infinity, an
    integer of more than 18 digits, nesting that is too deep, or a value that a ``__post_init__`` refuses.
    """
    try:
        data = json.loads(
            text,
            object_pairs_hook=unrepeated,
            parse_constant=_refuse_constant,
            parse_float=finite,
            parse_int=integer,
        )
    except json.JSONDecodeError as error:
        raise MaenasError(f"{where}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from error
    except RepeatedKeyError as error:
        path, line = _first_repeated(text)
        raise MaenasError(f"{where}:{line}: the key {shown(path[-1])} appears twice") from error
    except NumberError as error:
        raise MaenasError(f"{place(where, _line_of(text, error.args[0]))}: {error.args[1]}") from error
    except RecursionError as error:
        raise MaenasError(f"{where}: nested too deeply") from error
    return validate(text, data, type_, where=where, lines=lambda: dict(_json_lines(text)))


class RepeatedKeyError(Exception):
    """An object has this key twice."""


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values, as `json.loads` has it made; raises `RepeatedKeyError`."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return mapping


def _refuse_constant(name: str) -> NoReturn:
    raise NumberError(name, f"{name} is not a number that can be used")


_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\n', re.DOTALL)


def _line_of(text: str, token: str) -> int:
    """The first line with this token outside strings; the text is JSON at least up to there."""
    for match in _JSON_TOKEN.finditer(text):
        if match[0] == token:
            return text.count("\n", 0, match.start()) + 1
    return 1


def _json_lines(text: str) -> Iterator[tuple[Path, int]]:
    """The line of every key and element of valid JSON, in the order of the text."""
    path: list[str | int] = []
    wants_key: list[bool | None] = []  # for each open container: an array (None), or whether a key comes next
    line = 1
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
            continue
        if token in "}]":
            if path and wants_key:
                path.pop()
                wants_key.pop()
            continue
        if token == ",":
            if wants_key[-1] is None:
                path[-1] = typing.cast(int, path[-1]) + 1
            else:
                wants_key[-1] = True
            continue
        if token == ":":
            continue
        if wants_key and wants_key[-1]:
            path[-1], wants_key[-1] = json.loads(token), False
            yield tuple(path), line
            continue
        if wants_key and wants_key[-1] is None:
            yield tuple(path), line
        if token in "{[":
            path.append(0)
            wants_key.append(True if token == "{" else None)


def _first_repeated(text: str) -> tuple[Path, int]:
    """The first key of valid JSON that appears twice, and its second line. At least one key must be."""
    seen: set[Path] = set()
    for path, line in _json_lines(text):
        if path in seen:
            return path, line
        seen.add(path)
    raise AssertionError("no key is repeated")
