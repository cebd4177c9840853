"""The scripts run the commands they say, in that order, and go on where they stopped."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob("scripts/*.sh"))
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="there is no bash")

# In place of the command: notes what it was asked for, and fails at the command that the file `fail` names.
STAND_IN = """#!/bin/sh
echo "maenas $*" >> calls
if [ -e fail ] && [ "$1 $2" = "$(cat fail)" ]; then exit 2; fi
echo "ran $1"
"""


class Scripts:
    """Runs scripts in a folder where `scripts/` is the real one and `maenas` the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").symlink_to(ROOT / "scripts")
        (folder / "bin").mkdir()
        stand_in = folder / "bin" / "maenas"
        stand_in.write_text(STAND_IN, encoding="utf-8")
        stand_in.chmod(0o755)

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return run_script(name, *arguments, folder=self.folder, path=path)

    def calls(self) -> list[str]:
        """What was asked of `maenas` since the last call."""
        notes = self.folder / "calls"
        lines = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
        notes.unlink(missing_ok=True)
        return lines


def run_script(name: str, *arguments: str, folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path}
    command = [str(BASH), f"scripts/{name}", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


def names_of(calls: list[str]) -> list[str]:
    return [call.split()[1] for call in calls]


STEPS = ["data", "profile", "search", "search", "validate", "train", "train", "eval", "export", "export", "eval"]
STEPS += ["data", "benchmark", "detect", "report"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_and_executable(script: Path) -> None:
    assert subprocess.run([str(BASH), "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train_detector.sh", ()),
        ("train_detector.sh", ("--data", "shapes")),
        ("pipeline.sh", ("--help",)),
        ("pipeline.sh", ("--bugdet", "3ms")),
        ("pipeline.sh", ("--budget",)),
    ],
)
def test_wrong_arguments_show_the_usage_only(scripts: Scripts, name: str, arguments: tuple[str, ...]) -> None:
    done = scripts.run(name, *arguments)
    assert done.returncode == 2
    assert f"scripts/{name}" in done.stderr
    assert "#" not in done.stderr
    assert not scripts.calls()


def test_own_data_need_their_number_of_classes(scripts: Scripts) -> None:
    done = scripts.run("pipeline.sh", "--data", "photos")
    assert done.returncode == 2
    assert "--classes" in done.stderr
    assert not scripts.calls()


def test_the_training_script_trains_and_evaluates(scripts: Scripts) -> None:
    assert scripts.run("train_detector.sh", "nets/small.json", "--epochs", "3").returncode == 0
    weights = "runs/small/weights.safetensors"
    assert scripts.calls() == [
        "maenas train nets/small.json --data shapes --out runs/small --epochs 3",
        f"maenas eval {weights} --data shapes --plots runs/small/plots",
    ]


@pytest.mark.parametrize("arguments", [("pipeline.sh",), ("train_detector.sh", "net.json")])
def test_scripts_find_the_environment_that_make_has_made(scripts: Scripts, arguments: tuple[str, ...]) -> None:
    (scripts.folder / ".venv").mkdir()
    (scripts.folder / "bin").rename(scripts.folder / ".venv" / "bin")
    done = run_script(*arguments, folder=scripts.folder, path=os.defpath)
    assert done.returncode == 0, done.stderr
    assert scripts.calls()


def test_the_pipeline_takes_every_step_once(scripts: Scripts) -> None:
    done = scripts.run("pipeline.sh")
    assert done.returncode == 0, done.stderr
    assert names_of(scripts.calls()) == STEPS
    assert "ran report" in done.stdout
    again = scripts.run("pipeline.sh")
    assert again.returncode == 0
    assert names_of(scripts.calls()) == ["data"]  # the stand-in wrote no pictures


@pytest.mark.parametrize(("failing", "done_before"), [("profile --device", 1), ("train runs/pipeline/student.json", 6)])
def test_a_pipeline_that_stopped_goes_on_there(scripts: Scripts, failing: str, done_before: int) -> None:
    (scripts.folder / "fail").write_text(failing, encoding="utf-8")
    stopped = scripts.run("pipeline.sh")
    assert stopped.returncode == 2
    assert "the same command goes on here" in stopped.stderr
    assert names_of(scripts.calls()) == STEPS[: done_before + 1]
    (scripts.folder / "fail").unlink()
    assert scripts.run("pipeline.sh").returncode == 0
    assert names_of(scripts.calls()) == STEPS[done_before:]


def test_another_budget_repeats_its_search_and_what_follows(scripts: Scripts) -> None:
    scripts.run("pipeline.sh")
    scripts.calls()
    assert scripts.run("pipeline.sh", "--budget", "4ms").returncode == 0
    assert names_of(scripts.calls()) == STEPS[3:]


def test_the_pipeline_passes_on_what_it_is_given(scripts: Scripts) -> None:
    arguments = ["--out", "o", "--data", "my cells", "--classes", "3", "--images", "new", "--space", "s.yaml"]
    done = scripts.run("pipeline.sh", *arguments, "--teacher-budget", "9ms", "--", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    calls = scripts.calls()
    assert names_of(calls) == [name for number, name in enumerate(STEPS) if number != 11]  # no pictures are made
    assert all("--data my cells --recipe auto --resume --epochs 2" in call for call in calls[5:7])
    assert [call for call in calls if "--classes 3" in call and "s.yaml" in call] == calls[2:4]
    assert calls[-2].startswith("maenas detect new --weights o/student.onnx")
    assert "--images new" in calls[-3]
    shown = [shlex.split(line)[1:] for line in done.stdout.splitlines() if line.startswith("$ maenas")]
    assert [" ".join(words) for words in shown] == calls  # a shell takes what is shown


def test_the_tutorial_shows_the_steps_of_the_pipeline(scripts: Scripts) -> None:
    scripts.run("pipeline.sh")
    text = re.sub(r" \\\n +", " ", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    shown = [line[2:] for line in text.splitlines() if line.startswith("$ maenas")]
    assert shown == [call for call in scripts.calls() if not call.startswith("maenas data shapes")]


@pytest.mark.slow
def test_a_killed_pipeline_ends_with_the_report(tmp_path: Path) -> None:
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "maenas").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m maenas "$@"\n', encoding="utf-8")
    (tmp_path / "maenas").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([tmp_path / "maenas", "data", "shapes", "tiny", "--images", "20"], cwd=tmp_path, check=True)
    arguments = ["--out", "o", "--data", "tiny", "--classes", "4", "--budget", "30ms", "--teacher-budget", "60ms"]
    arguments += ["--", "--recipe", "demo", "--epochs", "2"]
    command = [str(BASH), "scripts/pipeline.sh", *arguments]
    environment = {**os.environ, "PATH": path}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, process_group=0) as first:
        while not (tmp_path / "o" / "teacher" / "last.pt").exists():
            assert first.poll() is None, "the pipeline ended before the training"
            time.sleep(0.1)
        os.killpg(first.pid, 9)
    done = run_script("pipeline.sh", *arguments, folder=tmp_path, path=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == 5
    for name in ("report.html", "student.onnx", "student-int8.onnx", "student/weights.safetensors", "latency.json"):
        assert (tmp_path / "o" / name).stat().st_size > 0
