"""Every command that writes: killed at random moments, on a full disk, into a place that cannot be written.

What it writes is then absent, the old file, or the whole new one; and the same command, repeated, works.
"""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maenas.files import shipped_file
from maenas.latency.measured import read_measured
from maenas.spec import load_spec, write_spec
from maenas.structure import format_structure
from tests.conftest import Maenas

pytest.importorskip("torch")

import torch

from detector.checkpoint import read_checkpoint
from detector.data.shapes import NAMES, write_shapes
from detector.model.net import DetectorNet
from detector.model.published import published_names
from detector.model.weights import write_weights
from tests.cli.test_train import SPEC

TABLES = [str(path) for path in [shipped_file("latency_tables", "cpu-amd-epyc-onnxruntime-t1-fp32-b1.json")]]
SEARCH = ["search", "--space", "k1kx-tiny", "--budget", "2.2ms", "--population", "64", "--generations", "10"]
SEARCH += ["--overwrite"]  # the tests put other files in the place of its spec
TRAIN = ["train", "tiny.json", "--data", "data", "--epochs", "2", "--batch", "4", "--device", "cpu", "--resume"]
TRAIN += ["--set", "plain_epochs=2", "--set", "warmup_epochs=0", "--set", "workers=0"]

# Commands in the folder `given`, and what they write.
COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "search": ([*SEARCH, "--out", "out", "--name", "found"], ("out/found.json",)),
    "pareto": (["pareto", "--budget", "2.2ms", "--out", "out/front.json"], ("out/front.json",)),
    "structure import": (
        ["structure", "import", "structure.txt", "--family", "res", "--out", "out/spec.json"],
        ("out/spec.json",),
    ),
    "show": (["show", "tiny.json", "--plot", "out/net.png"], ("out/net.png",)),
    "compare": (["compare", "tiny.json", "--plot", "out/compare.png"], ("out/compare.png",)),
    "report": (["report", "tiny.json", "--out", "out/report.html"], ("out/report.html",)),
    "tables merge": (["tables", "merge", *TABLES, "--out", "out/table.json"], ("out/table.json",)),
    "weights convert": (
        ["weights", "convert", "net.pth", "out/net.safetensors", "--spec", "tiny4.json"],
        ("out/net.safetensors",),
    ),
    "export": (["export", "net.safetensors", "--out", "out/net.onnx"], ("out/net.onnx",)),
    "eval": (
        ["eval", "net.safetensors", "--data", "data", "--device", "cpu", "--plots", "out"],
        ("out/metrics.json", "out/precision_recall.png", "out/confusion.png"),
    ),
    "detect": (
        ["detect", "data/images", "--weights", "net.safetensors", "--conf", "0.001", "--out", "out", "--save-json"],
        ("out/detections.json", "out/000001.jpg", "out/000020.jpg"),
    ),
    "data check": (["data", "check", "data", "--sheet", "out/sheet.png"], ("out/sheet.png",)),
    "data shapes": (
        ["data", "shapes", "out/shapes", "--images", "50", "--size", "64"],
        ("out/shapes/annotations/instances_train.json", "out/shapes/images/000050.png"),
    ),
    "train": ([*TRAIN, "--out", "out"], ("out/weights.safetensors",)),
    "profile": (["profile", "--spec", "tiny.json", "--out", "out/table.json", "--minutes", "2"], ("out/table.json",)),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read, and a folder `out`."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "out").mkdir()
    write_spec(folder / "tiny.json", SPEC, "tiny")
    write_shapes(folder / "data", images=20, size=64, seed=0)
    spec = replace(SPEC, head=replace(SPEC.head, num_classes=len(NAMES)))
    write_spec(folder / "tiny4.json", spec, "tiny4")
    (folder / "structure.txt").write_text(format_structure(load_spec("damo-yolo-t").detector.backbone))
    torch.manual_seed(0)
    net = DetectorNet(spec)
    write_weights(folder / "net.safetensors", net, spec, NAMES)
    state = net.state_dict()
    released = {theirs: state[ours] for ours, theirs in published_names(spec).items()}
    torch.save({"model": released}, folder / "net.pth")
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def command(name: str) -> list[str]:
    return [sys.executable, "-m", "maenas", *COMMANDS[name][0]]


def assert_one_error(code: int, err: str) -> None:
    """The message is the only thing said, besides what a report tells of its progress."""
    lines = [line for line in err.splitlines() if not line.startswith("report: ")]
    assert code == 2, err
    assert lines[0].startswith("error: "), err
    assert "Traceback" not in err


# Full disks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["search", "structure import", "show", "tables merge", "weights convert", "export"])
def test_on_a_full_disk_the_old_file_stays_and_nothing_else(
    name: str, given: Path, maenas: Maenas, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, outputs = COMMANDS[name]
    work = Path.cwd() / "work"
    shutil.copytree(given, work)
    monkeypatch.chdir(work)
    for output in outputs:
        (work / output).write_bytes(b"old")
    before = files_in(work)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    done = maenas(*arguments)
    assert_one_error(done.code, done.err)
    assert "no space left on device; free some space" in done.err
    assert files_in(work) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_where_no_byte_can_be_written_every_command_says_so(name: str, given: Path, tmp_path: Path) -> None:
    """The system refuses every write to a file (a limit on file sizes), not only those that are synced."""
    work = tmp_path / "work"
    shutil.copytree(given, work)
    before = files_in(work)
    done = subprocess.run(
        command(name),
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert_one_error(done.returncode, done.stderr)
    left = {file for file, data in files_in(work).items() if file not in before and data}
    assert not left


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["devices"], ["devices", "--json"], ["show", "damo-yolo-t"]])
def test_an_output_that_cannot_be_printed_is_one_error(arguments: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "maenas", *arguments],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "error: the output: no space left on device; free some space or choose another disk\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_is_one_error(
    name: str, given: Path, maenas: Maenas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A regular file stands where the folder should be: root, too, cannot write below it."""
    monkeypatch.chdir(given)
    (given / "file").write_text("kept")
    arguments = [text.replace("out", "file/below", 1) if text.startswith("out") else text for text in COMMANDS[name][0]]
    before = files_in(given)
    done = maenas(*arguments)
    assert_one_error(done.code, done.err)
    assert "file/below" in done.err
    assert files_in(given) == before


# Killed -------------------------------------------------------------------------------------------------------------

REPEATED = [name for name in COMMANDS if name not in ("train", "profile", "data shapes")]


def killed(name: str, work: Path, after_s: float) -> None:
    """Start the command in `work` and kill it."""
    process = subprocess.Popen(command(name), cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", REPEATED)
def test_a_command_killed_at_random_moments_leaves_old_or_whole_files(name: str, given: Path, tmp_path: Path) -> None:
    shutil.copytree(given, tmp_path / "whole")
    began = time.monotonic()
    subprocess.run(command(name), cwd=tmp_path / "whole", check=True, capture_output=True)
    seconds = time.monotonic() - began
    whole = files_in(tmp_path / "whole")
    work = tmp_path / "work"
    shutil.copytree(given, work)
    before = files_in(work)
    rng = np.random.default_rng(len(name))
    for _ in range(4):
        for output in COMMANDS[name][1]:
            (work / output).write_bytes(b"old")
        killed(name, work, seconds * rng.uniform(0.3, 1.0))
        for file, data in files_in(work).items():
            if not file.endswith((".tmp", ".ckpt.json", ".lock")):
                assert data in (b"old", whole.get(file), before.get(file)), file
    subprocess.run(command(name), cwd=work, check=True, capture_output=True)
    assert {file: data for file, data in files_in(work).items() if not file.endswith(".tmp")} == whole


@pytest.mark.slow
def test_shapes_killed_while_they_are_written_are_written_by_the_next_command(given: Path, tmp_path: Path) -> None:
    shutil.copytree(given, tmp_path / "work")
    folder, rng = tmp_path / "work" / "out" / "shapes", np.random.default_rng(0)
    for _ in range(4):
        killed("data shapes", tmp_path / "work", rng.uniform(0.5, 3.0))
        if folder.exists():
            assert len(files_in(folder)) == 52
            shutil.rmtree(folder)
    subprocess.run(command("data shapes"), cwd=tmp_path / "work", check=True, capture_output=True)
    assert len(files_in(folder)) == 52


@pytest.mark.slow
def test_a_profile_killed_at_random_moments_goes_on_with_its_table(given: Path, tmp_path: Path) -> None:
    shutil.copytree(given, tmp_path / "work")
    table, rng, rows = tmp_path / "work" / "out" / "table.json", np.random.default_rng(0), 0
    arguments = [*command("profile"), "--spec", "damo-yolo-nano-s"]
    for attempt in range(4):
        process = subprocess.Popen(arguments, cwd=tmp_path / "work", stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(4, 9))
        while attempt == 3 and not table.exists():  # a slow machine needs longer for its first rows
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if table.exists():
            kept = read_measured(table).rows
            assert len(kept) >= rows
            rows = len(kept)
    assert rows > 0
    first = read_measured(table).rows
    done = subprocess.run([*arguments, "--minutes", "0.05"], cwd=tmp_path / "work", check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert {row.key: row for row in first}.items() <= {row.key: row for row in read_measured(table).rows}.items()


@pytest.mark.slow
def test_a_training_killed_at_random_moments_keeps_a_whole_checkpoint_or_none(given: Path, tmp_path: Path) -> None:
    """That it ends as if uninterrupted: tests/detector/test_train.py."""
    work = tmp_path / "work"
    shutil.copytree(given, work)
    rng = np.random.default_rng(0)
    for _ in range(5):
        killed("train", work, rng.uniform(3, 8))
        if (work / "out" / "last.pt").exists():
            assert read_checkpoint(work / "out" / "last.pt").step > 0
    subprocess.run(command("train"), cwd=work, check=True, capture_output=True)
    assert read_checkpoint(work / "out" / "last.pt").closed == 2
