"""Hints for people who come from other tools, and what a command says where a part of the installation is missing."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from maenas.cli import extras
from maenas.cli.hints import HINTS, HintedCommand, add_hints
from maenas.cli.main import app
from maenas.errors import MaenasError
from tests.conftest import Maenas

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("train", "damo-yolo-t", "--imgsz", "320"), "there is no option --imgsz here; what you look for is --input N"),
        (("train", "damo-yolo-t", "--imgsz=320"), "what you look for is --input N"),
        (("train", "damo-yolo-t", "--batch_size", "8"), "what you look for is --batch N"),
        (("detect", "a.jpg", "--source", "0"), "the first argument of detect"),
        (("export", "w.safetensors", "--half"), "--precision fp16"),
        (("eval", "--weights", "w.safetensors"), "the first argument of eval"),
    ],
)
def test_an_option_of_another_tool_is_told_what_it_is_here(
    maenas: Maenas, arguments: tuple[str, ...], hint: str
) -> None:
    outcome = maenas(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert hint in outcome.err


def test_an_option_that_is_ours_is_never_a_hint() -> None:
    add_hints(app)

    def check(command: object) -> None:
        for child in getattr(command, "commands", {}).values():
            check(child)
        if isinstance(command, HintedCommand):
            own = {name for parameter in command.params for name in parameter.opts}
            context = typer.Context(command)
            for name in own & {f"--{hint}" for hint in HINTS}:
                try:
                    command.parse_args(context, [name])
                except MaenasError as error:
                    pytest.fail(f"{command.name} {name}: {error}")
                except Exception:
                    pass

    check(get_command(app))


def test_every_extra_that_a_command_may_need_is_one_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, modules in extras.MODULES.items():
        listed = " ".join(project["optional-dependencies"][extra])
        for module in modules:
            assert extras.PACKAGES.get(module, module).replace("_", "-") in listed, (extra, module)


def test_the_page_of_installation_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = re.findall(r"^\| `([a-z]+)` \|", (ROOT / "docs" / "install.md").read_text(encoding="utf-8"), re.M)
    assert {*rows} == {*project["optional-dependencies"]}


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("train", "damo-yolo-t"), "detector"),
        (("train", "damo-yolo-t", "--plan"), "detector"),
        (("eval", "w.safetensors", "--data", "shapes"), "detector"),
        (("detect", "a.jpg", "-w", "w.safetensors"), "detector"),
        (("export", "w.safetensors"), "detector,export"),
        (("benchmark", "damo-yolo-t"), "detector"),
        (("benchmark", "damo-yolo-t", "--runtime", "onnxruntime"), "detector,export"),
        (("benchmark", "damo-yolo-t", "--runtime", "openvino"), "detector,openvino"),
        (("detect", "a.jpg", "-w", "net.onnx", "--runtime", "openvino"), "detector,openvino"),
        (("data", "check", "shapes"), "detector"),
        (("data", "shapes", "out"), "detector"),
        (("weights", "convert", "a.pth", "b.safetensors", "--spec", "damo-yolo-t"), "detector"),
        (("show", "damo-yolo-t", "--plot", "a.png"), "plot"),
    ],
)
def test_a_command_says_which_extra_it_needs(
    maenas: Maenas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], extra: str
) -> None:
    absent = {module for modules in extras.MODULES.values() for module in modules}
    find = importlib.util.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in absent else find(name))
    outcome = maenas(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"pip install 'maenas[{extra}]'" in outcome.err
    assert list(tmp_path.iterdir()) == []
