"""YAML mappings to dataclasses; only what means the same as JSON is read."""

import json
import re
from typing import Any, Final, TypeVar

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from maenas.errors import MaenasError
from maenas.strict.messages import NumberError, Path, finite, integer, one_line, place, shown
from maenas.strict.validation import validate

T = TypeVar("T")

MAX_YAML_BYTES: Final = 1 << 20  # which take some ten seconds to read


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

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the parent, but for a key that appears twice, of which the parent takes the last."""
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                raise ComposerError(None, None, f"the key {shown(str(key.value))} appears twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


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
        problem = one_line(str(error.problem or error.context))
        raise MaenasError(f"{place(where, line)}: not valid YAML: {problem}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MaenasError(f"{where}:{line}: not valid YAML: {error.reason}") from error
    except RecursionError as error:
        raise MaenasError(f"{where}: nested too deeply") from error
    return validate(json.dumps(data), data, type_, where=where, lines=lambda: lines)


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
            advice = f"; put {shown(key_node.value)} in quotes" if isinstance(key_node, yaml.ScalarNode) else ""
            raise MaenasError(f"{where}:{line}: a key must be a string{advice}")
        if key in mapping:
            raise MaenasError(f"{where}:{line}: the key {shown(key)} appears twice")
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
            return integer(text)
        if _YAML_FLOAT.fullmatch(text) and not re.match(r"[+-]?0[0-9]", text):
            return finite(text)
    except NumberError as error:
        raise MaenasError(f"{place}: {error.args[1]}") from error
    if node.tag == "tag:yaml.org,2002:float" and text.lower().lstrip("+-.") in ("inf", "nan"):
        raise MaenasError(f"{place}: {text} is not a number that can be used")
    if node.tag != "tag:yaml.org,2002:str":
        kind = node.tag.rpartition(":")[2]
        raise MaenasError(f"{place}: {shown(text)} is read as a {kind} by some programs; write it out or quote it")
    return text
