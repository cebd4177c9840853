"""Options in groups, against the same options without one."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from maenas.cli.groups import grouped

Size = Annotated[int, typer.Option("--size", help="Side.", min=1)]
Names = Annotated[list[str] | None, typer.Option("--name", help="Repeatable.")]


@dataclass(frozen=True)
class Shape:
    size: Size
    names: Names = None


def alike() -> tuple[typer.Typer, typer.Typer]:
    """The same command with a group and without."""
    with_group, without = typer.Typer(), typer.Typer()

    @with_group.command("one")
    @grouped
    def with_one(*, shape: Shape, fast: Annotated[bool, typer.Option("--fast")] = False) -> None:
        """Print what is given."""
        print(shape.size, shape.names, fast)

    @without.command("one")
    def without_one(size: Size, names: Names = None, fast: Annotated[bool, typer.Option("--fast")] = False) -> None:
        """Print what is given."""
        print(size, names, fast)

    return with_group, without


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--size", "3"],
        ["--name", "a", "--size", "3", "--name", "b", "--fast"],
        [],
        ["--size", "0"],
        ["--size", "x"],
        ["--side", "3"],
    ],
)
def test_a_command_reads_options_in_a_group_as_its_own(words: list[str]) -> None:
    ours, plain = (CliRunner().invoke(app, words) for app in alike())
    assert (ours.exit_code, ours.output) == (plain.exit_code, plain.output)


def test_two_options_of_one_name_are_refused() -> None:
    def command(*, shape: Shape, size: Size) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'size'"):
        grouped(command)
