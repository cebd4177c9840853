"""Strict readers: JSON or YAML text to frozen dataclasses, and back to JSON.

Whatever is wrong with the text becomes one MaenasError that names the place. The types to be read are standard frozen
dataclasses that carry ``__pydantic_config__ = STRICT``. Only the readers import pydantic: the dataclasses stay cheap.
"""

import dataclasses
import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from maenas.errors import MaenasError

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")

# Where a value sits in a document: keys and indices from the top.
Path = tuple[str | int, ...]

STRICT: Final["ConfigDict"] = {"extra": "forbid", "strict": True}

MAX_YAML_BYTES: Final = 1 << 20  # which take some ten seconds to read

_MAX_PROBLEMS = 5
_MAX_DIGITS = 18  # every integer of at most 18 digits fits into 64 bits


def parse_json(text: str, type_: type[T], *, where: str) -> T:
    """Reads a JSON object into the dataclass `type_`.

    `where` names the text in messages, usually the path of its file.

    Raises MaenasError for malformed JSON, a repeated or unknown key, a missing or wrong value, NaN or infinity, an
    integer of more than 18 digits, nesting that is too deep, or a value that a ``__post_init__`` refuses.
    """
    try:
        data = json.loads(
            text,
            object_pairs_hook=_unrepeated,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        raise MaenasError(f"{where}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from error
    except _RepeatedKeyError as error:
        path, line = _first_repeated(text)
        raise MaenasError(f"{where}:{line}: the key {_shown(path[-1])} is there twice") from error
    except _NumberError as error:
        raise MaenasError(f"{_place(where, _line_of(text, error.args[0]))}: {error.args[1]}") from error
    except RecursionError as error:
        raise MaenasError(f"{where}: nested too deeply") from error
    return _validate(text, data, type_, where=where, lines=lambda: dict(_json_lines(text)))


def parse_yaml(text: str, type_: type[T], *, where: str) -> T:
    """Reads a YAML mapping into the dataclass `type_`.

    Only the part of YAML that means the same as JSON is read: anchors, aliases, tags, dates, non-string keys and
    scalars that YAML 1.1 reinterprets (yes, 0x10, 1:30) are refused, and 1e-3 is a number.

    `where` names the text in messages, usually the path of its file.

    Raises MaenasError for these and for whatever `parse_json` refuses.
    """
    if len(text) > MAX_YAML_BYTES:
        raise MaenasError(f"{where}: larger than the limit of {MAX_YAML_BYTES} bytes; is it the right file?")
    lines: dict[Path, int] = {}
    try:
        node = PlainLoader(text).get_single_node()
        if node is None:
            raise MaenasError(f"{where}:1: is empty; a mapping is expected")
        data = _plain(node, (), lines, where)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = _one_line(str(error.problem or error.context))
        raise MaenasError(f"{_place(where, line)}: not valid YAML: {problem}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MaenasError(f"{where}:{line}: not valid YAML: {error.reason}") from error
    except RecursionError as error:
        raise MaenasError(f"{where}: nested too deeply") from error
    return _validate(json.dumps(data), data, type_, where=where, lines=lambda: lines)


def dump_json(obj: Any, *, width: int = 128) -> str:
    """The canonical JSON text of a dataclass: fields in their order, and a final newline.

    A list or object of scalars and lists of scalars is written on one line where it fits into `width`.

    Raises ValueError for NaN or infinity, which JSON cannot hold.
    """
    return _render(dataclasses.asdict(obj), indent=0, width=width) + "\n"


def _render(value: Any, *, indent: int, width: int) -> str:
    if not isinstance(value, dict | list | tuple) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if indent > 0 and _is_flat(value):
        line = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if indent + len(line) <= width:
            return line
    inner = indent + 2
    pad, end = "\n" + " " * inner, "\n" + " " * indent
    if isinstance(value, dict):
        items = [
            f"{json.dumps(key, ensure_ascii=False)}: {_render(item, indent=inner, width=width)}"
            for key, item in value.items()
        ]
        return f"{{{pad}{f',{pad}'.join(items)}{end}}}"
    return f"[{pad}{f',{pad}'.join(_render(item, indent=inner, width=width) for item in value)}{end}]"


def _is_flat(value: "dict[str, Any] | list[Any] | tuple[Any, ...]") -> bool:
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict):
            return False
        if isinstance(item, list | tuple) and any(isinstance(inner, dict | list | tuple) for inner in item):
            return False
    return True


# JSON ---------------------------------------------------------------------------------------------------------------


class _RepeatedKeyError(Exception):
    """An object has a key twice."""


class _NumberError(Exception):
    """args: the number as written, what is wrong with it."""


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise _RepeatedKeyError
    return mapping


def _refuse_constant(name: str) -> NoReturn:
    raise _NumberError(name, f"{name} is not a number that can be used")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NumberError(text, f"{_shown(text)} is too large a number")
    return value


def _integer(text: str) -> int:
    # Also keeps clear of Python's own limit on the length of integers, which depends on its settings.
    if len(text.lstrip("+-")) > _MAX_DIGITS:
        raise _NumberError(text, f"{_shown(text)} is too large an integer")
    return int(text)


def _line_of(text: str, token: str) -> int:
    """The first line with this token outside strings; the text is JSON at least up to there."""
    for match in _JSON_TOKEN.finditer(text):
        if match[0] == token:
            return text.count("\n", 0, match.start()) + 1
    return 1


_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\n', re.DOTALL)


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
    """The first key of valid JSON that is there twice, and its second line. At least one key must be."""
    seen: set[Path] = set()
    for path, line in _json_lines(text):
        if path in seen:
            return path, line
        seen.add(path)
    raise AssertionError("no key is repeated")


# YAML ---------------------------------------------------------------------------------------------------------------


class PlainLoader(yaml.SafeLoader):
    """Composes nodes, refusing what has no counterpart in JSON."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        mark: Any = event.start_mark  # the stubs have two types for it
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            # A few aliases of aliases expand to gigabytes.
            raise ComposerError(None, None, "anchors and aliases are not allowed", mark)
        if getattr(event, "tag", None) is not None:
            raise ComposerError(None, None, f"the tag {event.tag} is not allowed", mark)
        return super().compose_node(parent, index)


_YAML_CONSTANTS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}
_YAML_INT = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_YAML_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _plain(node: yaml.Node, path: Path, lines: dict[Path, int], where: str) -> Any:
    """Plain data from composed nodes; notes the line of every value, for a key its own line."""
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, f"{where}:{line}")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, where) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _scalar(key_node, f"{where}:{line}") if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            advice = f"; put {_shown(key_node.value)} in quotes" if isinstance(key_node, yaml.ScalarNode) else ""
            raise MaenasError(f"{where}:{line}: a key must be a string{advice}")
        if key in mapping:
            raise MaenasError(f"{where}:{line}: the key {_shown(key)} is there twice")
        lines[*path, key] = line
        mapping[key] = _plain(value_node, (*path, key), lines, where)
    return mapping


def _scalar(node: yaml.ScalarNode, place: str) -> str | int | float | bool | None:
    text: str = node.value
    if node.style is not None:
        return text
    if text in _YAML_CONSTANTS:
        return _YAML_CONSTANTS[text]
    try:
        if _YAML_INT.fullmatch(text):
            return _integer(text)
        if _YAML_FLOAT.fullmatch(text) and not re.match(r"[+-]?0[0-9]", text):
            return _finite(text)
    except _NumberError as error:
        raise MaenasError(f"{place}: {error.args[1]}") from error
    if node.tag == "tag:yaml.org,2002:float" and text.lower().lstrip("+-.") in ("inf", "nan"):
        raise MaenasError(f"{place}: {text} is not a number that can be used")
    if node.tag != "tag:yaml.org,2002:str":
        kind = node.tag.rpartition(":")[2]
        raise MaenasError(f"{place}: {_shown(text)} is read as a {kind} by some programs; write it out or quote it")
    return text


# Validation ---------------------------------------------------------------------------------------------------------


@functools.cache
def _adapter(type_: type[T]) -> "TypeAdapter[T]":
    from pydantic import TypeAdapter

    return TypeAdapter(type_)


def _validate(text: str, data: Any, type_: type[T], *, where: str, lines: Callable[[], dict[Path, int]]) -> T:
    """`data` is what the JSON `text` holds; `lines` is called only if something is wrong."""
    from pydantic import ValidationError

    if not isinstance(data, dict):
        raise MaenasError(f"{where}:1: the top level must be a mapping of keys to values, not {_kind(data)}")
    try:
        return _adapter(type_).validate_json(text)
    except ValidationError as error:
        problems = [_problem(detail, data, type_) for detail in error.errors(include_url=False)]
        numbers = lines()
        messages = dict.fromkeys(f"{_place(where, _line(path, numbers))}: {_one_line(text)}" for path, text in problems)
        shown = list(messages)[:_MAX_PROBLEMS]
        if len(messages) > len(shown):
            shown.append(f"... and {len(messages) - len(shown)} more")
        raise MaenasError("\n".join(shown)) from error


def _problem(detail: "ErrorDetails", data: Any, type_: Any) -> tuple[Path, str]:
    """Where in the document, and a sentence about it."""
    path, missing = _document_path(detail["loc"], data)
    kind, value = detail["type"], detail["input"]
    if kind == "unexpected_keyword_argument":
        known = sorted({field.name for owner in _types_at(type_, path[:-1]) for field in _fields(owner)})
        return path, f"{_dotted(path)}: unknown key{_suggestion(str(path[-1]), known)}"
    if kind == "missing":
        return path, f"{_dotted((*path, *missing))}: this key is missing"
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        return path, f"{_dotted(path)}: {cause}" if path else str(cause)
    text = detail["msg"].replace("Input should", "must", 1)
    text = text[:1].lower() + text[1:]
    got = "" if isinstance(value, dict | list) or kind == "json_invalid" else f", got {_shown(value)}"
    return path, f"{_dotted(path)}: {text}{got}" if path else f"{text}{got}"


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


def _dotted(path: Path) -> str:
    """("stages", 1, "kernel") as stages[1].kernel"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _line(path: Path, lines: dict[Path, int]) -> int | None:
    return next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), None)


def _place(where: str, line: int | None) -> str:
    return where if line is None else f"{where}:{line}"


def _one_line(message: str) -> str:
    """A message that may quote the document at length or with control characters, fit for a terminal."""
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in message)
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-195:]}"  # what to do stands at the end


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else _shown(value)
