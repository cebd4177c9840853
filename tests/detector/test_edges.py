"""Edited runs, odd environments, data sets that are half right: one message each."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detector.batch_size import require_memory
from detector.checkpoint import read_checkpoint, write_checkpoint
from detector.data.check import check
from detector.data.shapes import write_shapes
from detector.distributed import join_world
from detector.events import BeginEvent, EndEvent
from detector.job import Job, make_job
from detector.recipe import load_recipe
from detector.train import LAST, train
from maenas.cli.process import Patient
from maenas.errors import MaenasError
from maenas.spec import write_spec
from tests.cli.test_train import SPEC
from tests.conftest import Maenas
from tests.detector.conftest import quick_training
from tests.detector.test_train import ALONE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and a run of one epoch on it."""
    place = tmp_path_factory.mktemp("edges")
    write_shapes(place / "data", images=10, size=64, seed=0)
    write_spec(place / "tiny.json", SPEC, "tiny")
    with quick_training():
        train(job_in(place), ALONE, place / "run")
    return place


def job_in(place: Path) -> Job:
    recipe = replace(load_recipe("demo"), epochs=1, batch=4, plain_epochs=1, warmup_epochs=0, workers=0)
    return make_job(str(place / "tiny.json"), place / "data", recipe=recipe, input_size=64, device="cpu")


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    for path in (folder / "run").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def resumed(folder: Path, run: Path) -> str:
    """What a resumed training says."""
    with pytest.raises(MaenasError) as caught:
        train(job_in(folder), ALONE, run, resume=True)
    return str(caught.value)


@pytest.mark.parametrize("change", [{"step": -1}, {"step": 2**70}, {"step": 1000}, {"closed": 5}, {"best_epoch": -3}])
def test_a_checkpoint_of_impossible_progress_is_refused(folder: Path, run: Path, change: dict[str, int]) -> None:
    write_checkpoint(run / LAST, replace(read_checkpoint(run / LAST), **change))
    assert "damaged" in resumed(folder, run)


def test_an_optimiser_of_another_shape_is_refused(folder: Path, run: Path) -> None:
    stored = read_checkpoint(run / LAST)
    for state in stored.optimizer["state"].values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim:
                state[name] = torch.zeros(7)
    write_checkpoint(run / LAST, stored)
    assert "does not hold the states of this run" in resumed(folder, run)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("steps.csv", "step,epoch\n1,1\n"),
        ("steps.csv", "step,epoch\n1,x,0,0,0,0,0,0,0\n"),
        ("epochs.jsonl", '{"epoch": 1, "step": 2, "seconds": 1.0, "losses": {}, "metrics": {"AP": "high"}}\n'),
        ("epochs.jsonl", "[" * 100_000 + "\n"),
    ],
)
def test_an_edited_log_is_one_message(folder: Path, run: Path, file: str, text: str) -> None:
    (run / file).write_text(text)
    assert "damaged" in resumed(folder, run)


def test_a_pipe_in_the_place_of_a_log_is_one_message(folder: Path, run: Path) -> None:
    (run / "steps.csv").unlink()
    os.mkfifo(run / "steps.csv")
    assert "not a regular file" in resumed(folder, run)


def test_a_run_goes_on_without_a_tensorboard_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from detector.trackers import tracker

    (tmp_path / "tensorboard").write_text("a file")
    tell = tracker("tensorboard")
    tell(BeginEvent(tmp_path, "tiny", load_recipe("demo"), "cpu", 4, 0, 2, 1))
    tell(EndEvent(2, "finished", tmp_path / "weights.safetensors", None))
    assert capsys.readouterr().err.startswith("note: no logging to TensorBoard")


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "a"}, {"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "0"}, {"WORLD_SIZE": "2", "RANK": "5"}],
)
def test_an_odd_environment_of_processes_is_one_message(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MaenasError, match=r"torchrun"), join_world("cpu"):
        pass


def test_a_wrong_backend_of_matplotlib_hinders_nobody(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "maenas", "show", "damo-yolo-t", "--plot", "a.svg"]
    environment = {**os.environ, "MPLBACKEND": "nonsense"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_more_memory_than_there_is_is_one_message() -> None:
    with pytest.raises(MaenasError, match=r"a step on 1000000 images of 64x64 needs more than .* GB of memory"):
        require_memory(SPEC, 1_000_000)
    require_memory(SPEC, 4)


def coco(place: Path, edit: tuple[str, str]) -> None:
    path = place / "annotations" / "instances_train.json"
    text = json.dumps(json.loads(path.read_text()))
    assert edit[0] in text
    path.write_text(text.replace(*edit, 1))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (('"iscrowd": 0', '"iscrowd": "1"'), '"iscrowd" must be 0 or 1'),
        (('"iscrowd": 0', '"iscrowd": 7'), '"iscrowd" must be 0 or 1'),
        (('"categories"', '"images": [], "categories"'), "'images' appears twice"),
        (('"bbox":', '"bbox": [0, 0, 1, 1], "bbox":'), "'bbox' appears twice"),
    ],
)
def test_annotations_that_say_two_things_are_refused(
    tmp_path: Path, edit: tuple[str, str], message: str, maenas: Maenas
) -> None:
    write_shapes(tmp_path / "data", images=5, size=64, seed=0)
    coco(tmp_path / "data", edit)
    done = maenas("data", "check", str(tmp_path / "data"))
    assert done.code == 2
    assert message in done.err


def test_names_that_stand_twice_in_yaml_are_refused(tmp_path: Path, maenas: Maenas) -> None:
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: images\nnames: [b]\n")
    done = maenas("data", "check", str(tmp_path / "data.yaml"))
    assert done.code == 2
    assert 'the key "names" appears twice' in done.err or "appears twice" in done.err


def test_data_whose_training_images_are_all_broken_are_not_usable(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", images=10, size=64, seed=0)
    images = sorted((tmp_path / "data" / "images").iterdir())
    for path in images[1:]:
        path.write_bytes(path.read_bytes()[:60])
    assert not check(tmp_path / "data").usable or check(tmp_path / "data").splits["train"].samples[0].path == images[0]
    images[0].write_bytes(images[0].read_bytes()[:60])
    assert not check(tmp_path / "data").usable


def test_names_with_control_characters_are_never_printed_raw(tmp_path: Path, maenas: Maenas) -> None:
    write_shapes(tmp_path / "data", images=5, size=64, seed=0)
    for split in ("train", "val"):
        path = tmp_path / "data" / "annotations" / f"instances_{split}.json"
        path.write_text(path.read_text().replace('"circle"', json.dumps("cir\x1b[31m\rcle")))
    done = maenas("data", "check", str(tmp_path / "data"))
    assert done.code == 2
    assert "\x1b" not in done.out + done.err


def test_no_command_prints_what_a_terminal_would_obey() -> None:
    """Whatever file a text comes from: the stream itself escapes it."""
    shown = io.StringIO()
    Patient(shown, safe=True).write("a\x1b[31m\tb\r\n\u202e")
    assert shown.getvalue() == "a\\x1b[31m\tb\\r\n\\u202e"


@pytest.mark.parametrize("words", [["detect", "bad\udcff.mp4", "--weights", "a"], ["train", "x", "--data", "d\udcff"]])
def test_a_name_that_is_not_utf_8_is_refused_at_the_start(words: list[str], maenas: Maenas) -> None:
    done = maenas(*words)
    assert done.code == 2
    assert "is not UTF-8 text; rename the file" in done.err
