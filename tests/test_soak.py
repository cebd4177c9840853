"""The soak's grammar is the command line's."""

import importlib.util
import sys
from pathlib import Path

import pytest

from maenas.cli.tree import commands

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


def soak():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "soak.py"
    spec = importlib.util.spec_from_file_location("soak", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    return module


def test_every_command_and_option_has_its_turn_and_a_seed_gives_the_same_again() -> None:
    module, known = soak(), commands()
    cases = [module.make_case(number, 0, known) for number in range(4000)]
    assert cases[:50] == [module.make_case(number, 0, known) for number in range(50)]
    seen = {name: set() for name in known}
    for case in cases:
        name = next(name for name in known if case.words[: len(name.split())] == name.split())
        seen[name].update(case.words)
    for name, parameters in known.items():
        assert {parameter.name for parameter in parameters if parameter.is_option} <= seen[name], name
