"""Every command of the command line with its options and arguments, so that no test can miss a new one."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer

from maenas.cli.main import app


@dataclass(frozen=True)
class Parameter:
    """An option or an argument: what it is called, its type without None and list, and what checks it."""

    command: str
    name: str  # --out; OUT for an argument
    kind: Any
    repeats: bool
    required: bool
    least: float | None
    most: float | None
    check: Callable[..., Any] | None

    @property
    def is_option(self) -> bool:
        return self.name.startswith("-")

    def given(self, value: str) -> list[str]:
        """Words of the command line that give it this value."""
        return [self.name, value] if self.is_option else [value]


def commands() -> dict[str, list[Parameter]]:
    """The parameters of each command; a command in a group is called `tables merge`."""
    return dict(_below(typer.main.get_command(app), ""))


def _below(command: Any, name: str) -> Iterator[tuple[str, list[Parameter]]]:
    if hasattr(command, "commands"):
        for inner, below in command.commands.items():
            yield from _below(below, f"{name} {inner}".strip())
    else:
        yield name, [_parameter(name, parameter) for parameter in command.params]


def _parameter(command: str, parameter: Any) -> Parameter:
    kind, repeats = parameter.type_descriptor.annotation, False
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(inner for inner in typing.get_args(kind) if inner is not type(None))
    if typing.get_origin(kind) is list:
        kind, repeats = typing.get_args(kind)[0], True
    is_option = parameter.param_type_name == "option"
    name = max(parameter.opts, key=len) if is_option else parameter.name.upper()
    check = getattr(parameter.callback, "__wrapped__", parameter.callback)
    return Parameter(command, name, kind, repeats, parameter.required, parameter.min, parameter.max, check)
