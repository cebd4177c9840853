"""Options that would have no effect beside the others: they are refused, so that nobody waits for what never comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature

from maenas.errors import MaenasError


def refuse_unused(
    taker: Callable[..., object], given: Mapping[str, object], names: Sequence[str], *, needs: str, prefix: str = "--"
) -> None:
    """Raise `MaenasError` where arguments of `taker` called `names` differ from their defaults.

    `taker` is a function or a dataclass, `given` its arguments, `needs` what gives them an effect and is not there;
    options are called as they are, behind `prefix`.
    """
    parameters = signature(taker).parameters
    unused = [f"{prefix}{name.replace('_', '-')}" for name in names if given[name] != parameters[name].default]
    if unused:
        verb = "is" if len(unused) == 1 else "are"
        raise MaenasError(f"{', '.join(unused)} {verb} for {needs}, and would have no effect here")
