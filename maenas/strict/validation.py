"""Plain data to a dataclass by pydantic, and its complaints as sentences that name the place."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from maenas.errors import MaenasError
from maenas.strict.messages import Path, dotted, kind, one_line, place, shown

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")

STRICT: Final["ConfigDict"] = {"extra": "forbid", "strict": True}
MAX_PROBLEMS = 5


@functools.cache
def _adapter(type_: type[T]) -> "TypeAdapter[T]":
    from pydantic import TypeAdapter

    return TypeAdapter(type_)


def validate(text: str, data: Any, type_: type[T], *, where: str, lines: Callable[[], dict[Path, int]]) -> T:
    """`data` is what the JSON `text` holds; `lines` is called only if something is wrong."""
    from pydantic import ValidationError

    if not isinstance(data, dict):
        raise MaenasError(f"{where}:1: the top level must be a mapping of keys to values, not {kind(data)}")
    try:
        return _adapter(type_).validate_json(text)
    except ValidationError as error:
        problems = [_problem(detail, data, type_) for detail in error.errors(include_url=False)]
        numbers = lines()
        messages = dict.fromkeys(f"{place(where, _line(path, numbers))}: {one_line(text)}" for path, text in problems)
        shown = list(messages)[:MAX_PROBLEMS]
        if len(messages) > len(shown):
            shown.append(f"... and {len(messages) - len(shown)} more")
        raise MaenasError("\n".join(shown)) from error


def _problem(detail: "ErrorDetails", data: Any, type_: Any) -> tuple[Path, str]:
    """Where in the document, and a sentence about it."""
    path, missing = _document_path(detail["loc"], data)
    category, value = detail["type"], detail["input"]
    if category == "unexpected_keyword_argument":
        known = sorted({field.name for owner in _types_at(type_, path[:-1]) for field in _fields(owner)})
        return path, f"{dotted(path)}: unknown key{_suggestion(str(path[-1]), known)}"
    if category == "missing":
        return path, f"{dotted((*path, *missing))}: this key is missing"
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        return path, f"{dotted(path)}: {cause}" if path else str(cause)
    text = detail["msg"].replace("Input should", "must", 1)
    text = text[:1].lower() + text[1:]
    got = "" if isinstance(value, dict | list) or category == "json_invalid" else f", got {shown(value)}"
    return path, f"{dotted(path)}: {text}{got}" if path else f"{text}{got}"


def _document_path(loc: tuple[int | str, ...], data: Any) -> tuple[Path, Path]:
    """The part of a pydantic location that exists in the document, and the trailing part that does not.

    Pydantic also puts the names of union members into a location; these are in neither part unless they end it.
    """
    path: list[str | int] = []
    missing: list[str | int] = []
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            missing.append(part)
            continue
        path.append(part)
        missing.clear()
    return tuple(path), tuple(missing[-1:])


def _types_at(type_: Any, path: Path) -> set[Any]:
    """The types that a value at this path may have."""
    current = _members(type_)
    for part in path:
        following: set[Any] = set()
        for member in current:
            arguments = typing.get_args(member)
            if dataclasses.is_dataclass(member):
                hints = typing.get_type_hints(member)
                following |= _members(hints[part]) if part in hints else set()
            elif arguments and isinstance(part, str):
                following |= _members(arguments[-1])  # dict[str, V]
            elif arguments:
                variadic = len(arguments) == 1 or arguments[-1] is Ellipsis
                following |= _members(arguments[0 if variadic else min(int(part), len(arguments) - 1)])
        current = following
    return current


def _members(type_: Any) -> set[Any]:
    origin = typing.get_origin(type_)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_members(member) for member in typing.get_args(type_)))
    if origin is typing.Annotated:
        return _members(typing.get_args(type_)[0])
    return {type_}


def _fields(type_: Any) -> tuple["dataclasses.Field[Any]", ...]:
    return dataclasses.fields(type_) if dataclasses.is_dataclass(type_) else ()


def _suggestion(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if nearest:
        return f"; did you mean {nearest[0]}?"
    return f"; the known keys are {', '.join(known)}" if known else ""


def _line(path: Path, lines: dict[Path, int]) -> int | None:
    return next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), None)
