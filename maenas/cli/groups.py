"""Options in groups: a command takes dataclasses whose fields are options, declared once for all who share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer reads it: the fields of its groups are options like its own, and filled groups reach it.

    Every argument is passed by name.
    """
    options: list[Parameter] = []
    groups: dict[str, type] = {}
    for parameter in _parameters(command):
        kind: type = parameter.annotation
        if is_dataclass(kind):
            groups[parameter.name] = kind
            options += _parameters(kind)
        else:
            options.append(parameter)

    @wraps(command)
    def run(**given: object) -> None:
        filled = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**filled, **given)

    run.__dict__["__signature__"] = Signature(options)
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def _parameters(taker: Callable[..., object]) -> list[Parameter]:
    """The parameters of a function or of a dataclass, with their types read."""
    hints = get_type_hints(taker, include_extras=True)
    found = signature(taker).parameters.values()
    return [entry.replace(annotation=hints[entry.name], kind=Parameter.KEYWORD_ONLY) for entry in found]
