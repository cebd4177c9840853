"""Dataclasses to canonical JSON text."""

import dataclasses
import json
from typing import Any, Final

WIDTH: Final = 128  # of a line


def dump_json(obj: Any) -> str:
    """The canonical JSON text of a dataclass: fields in their order, and a final newline.

    A list or object of scalars and lists of scalars is written on one line where it fits into `WIDTH`.

    Raises ValueError for NaN or infinity, which JSON cannot hold.
    """
    return _render(dataclasses.asdict(obj), indent=0) + "\n"


def _render(value: Any, *, indent: int) -> str:
    if not isinstance(value, dict | list | tuple) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if indent > 0 and _is_flat(value):
        line = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if indent + len(line) <= WIDTH:
            return line
    inner = indent + 2
    pad, end = "\n" + " " * inner, "\n" + " " * indent
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_render(item, indent=inner)}" for key, item in value.items()]
        return f"{{{pad}{f',{pad}'.join(items)}{end}}}"
    return f"[{pad}{f',{pad}'.join(_render(item, indent=inner) for item in value)}{end}]"


def _is_flat(value: "dict[str, Any] | list[Any] | tuple[Any, ...]") -> bool:
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict):
            return False
        if isinstance(item, list | tuple) and any(isinstance(inner, dict | list | tuple) for inner in item):
            return False
    return True
