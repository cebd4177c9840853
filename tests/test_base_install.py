"""Every command in a real environment that has the base installation only: it works, or says which extra it needs."""

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from maenas.cli.main import app

ROOT = Path(__file__).resolve().parents[1]

# Arguments with which a command does something. What it needs besides the base is named after "extra".
WORKS: dict[str, tuple[str, ...]] = {
    "search": ("--budget", "2.3ms", "--space", "k1kx-tiny", "--generations", "1"),
    "pareto": ("--budget", "1.6ms", "--space", "k1kx-tiny"),
    "predict": ("damo-yolo-t",),
    "show": ("damo-yolo-t",),
    "spaces": (),
    "devices": (),
    "calibrate": (),
    "doctor": (),
    "compare": ("damo-yolo-t", "damo-yolo-s"),
    "profile": ("--plan",),
    "tables list": (),
    "tables show": ("h100-torch-fp16-b1",),
    "tables diff": ("h100-torch-fp16-b1", "h100-torch-fp16-b1"),
    "tables merge": ("{table}", "--out", "joined.json"),
    "tables import": ("kernels.txt", "--device", "v100", "--precision", "fp16"),
    "structure export": ("damo-yolo-t",),
    "structure import": ("{structure}", "--family", "res", "--out", "net.json"),
}
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "predict": (("net.onnx",), "[export]"),
    "profile": ((), "[export]"),
    "validate": (("--device", "{table}"), "[export]"),
    "show": (("damo-yolo-t", "--plot", "a.png"), "[plot]"),
    "compare": (("damo-yolo-t", "--plot", "a.png"), "[plot]"),
    "report": (("damo-yolo-t",), "[report]"),
    "race": (("--budget", "3ms", "--data", "shapes"), "detector"),
    "train": (("damo-yolo-t",), "detector"),
    "demo": ((), "detector"),
    "eval": (("net.onnx", "--data", "shapes"), "detector"),
    "detect": (("a.jpg", "--weights", "a.safetensors"), "detector"),
    "export": (("a.safetensors",), "detector"),
    "benchmark": (("a.safetensors",), "detector"),
    "data check": (("shapes",), "detector"),
    "data shapes": (("shapes",), "detector"),
    "data split": (("photographs", "new"), "detector"),
    "weights inherit": (("a.safetensors", "--spec", "damo-yolo-t", "--out", "b.safetensors"), "detector"),
    "weights convert": (("a.pth", "a.safetensors", "--spec", "damo-yolo-t"), "detector"),
}


def names(group: typer.Typer, before: str = "") -> Iterator[str]:
    for command in group.registered_commands:
        yield f"{before}{command.name}"
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from names(inner.typer_instance, f"{before}{inner.name} ")


def test_every_command_is_tried() -> None:
    assert {*names(app)} == {*WORKS, *NEEDS}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment into which `pip install .` has put maenas."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, ROOT], check=True, capture_output=True, text=True)
    return folder / "bin" / "maenas"


@pytest.fixture
def run(base: Path, tmp_path: Path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    (tmp_path / "net.onnx").write_bytes(b"not yet read")
    (tmp_path / "kernels.txt").write_text("{Regular,1,64,56,56,64,3,1,0} 0.0169\n")
    tables = ROOT / "latency_tables"
    words = {"table": str(tables / "cpu-amd-epyc-onnxruntime-t1-fp32-b1.json"), "structure": "structure.txt"}

    def call(name: str, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        filled = [argument.format(**words) for argument in arguments]
        command = [base, *name.split(), *filled]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return call


@pytest.mark.skipif(sys.platform == "win32", reason="the environment's folders have other names there")
@pytest.mark.parametrize("name", WORKS)
def test_a_command_of_the_base_works(name: str, run, tmp_path: Path) -> None:
    if name == "structure import":
        (tmp_path / "structure.txt").write_text(run("structure export", ("damo-yolo-t",)).stdout)
    done = run(name, WORKS[name])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("name", NEEDS)
def test_a_command_says_which_extra_it_needs(name: str, run) -> None:
    arguments, what = NEEDS[name]
    done = run(name, arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert "pip install" in done.stderr
    assert what in done.stderr
