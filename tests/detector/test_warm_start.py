"""Weights inherited from a file, and a training that begins with them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detector.job import make_job, start_text
from detector.model.net import DetectorNet
from detector.model.weights import read_weights, write_weights
from detector.warm_start import inherit_weights
from maenas.errors import MaenasError
from maenas.spec import DetectorSpec, write_spec
from tests.conftest import Maenas
from tests.detector.conftest import TINY

NAMES = ("circle", "square", "triangle", "cross")


def other_widths(spec: DetectorSpec) -> DetectorSpec:
    stages = list(spec.backbone.stages)
    stages[-1] = replace(stages[-1], out_channels=24, depth=2)
    return replace(spec, backbone=replace(spec.backbone, stages=tuple(stages)))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with weights, a spec of other widths, and shapes of 64 pixels."""
    from detector.data.shapes import write_shapes

    torch.manual_seed(0)
    write_weights(tmp_path / "source.safetensors", DetectorNet(TINY), TINY, NAMES)
    write_spec(tmp_path / "mine.json", other_widths(TINY), "mine")
    write_shapes(tmp_path / "data", images=20, size=64, seed=0)
    return tmp_path


def test_the_command_writes_weights_that_a_training_begins_with(files: Path, maenas: Maenas) -> None:
    command = ["weights", "inherit", str(files / "source.safetensors"), "--spec", str(files / "mine.json")]
    written = files / "init.safetensors"
    result = maenas(*command, "--out", str(written), "--data", str(files / "data"))
    assert result.code == 0
    assert "layers inherit" in result.out
    weights = read_weights(written)
    assert weights.spec == other_widths(TINY)
    assert weights.metadata["inherited_from"] == TINY.id
    both = [
        make_job(files / "mine.json", files / "data", finetune=written),
        make_job(files / "mine.json", files / "data", init=files / "source.safetensors"),
    ]
    starts = [job.start for job in both]
    assert starts[0] is not None
    assert starts[1] is not None
    assert all(torch.equal(starts[0].state[name], starts[1].state[name]) for name in starts[0].state)
    assert both[1].chosen.startswith("small-data")  # inherited weights are no reason for a recipe of fine-tuning


def test_a_student_of_a_short_recipe_begins_as_its_teacher_unless_told_otherwise(files: Path) -> None:
    teacher, mine = files / "source.safetensors", files / "mine.json"
    given = {"teacher": teacher, "device": "cpu"}
    student = make_job(mine, files / "data", **given)
    same = make_job(mine, files / "data", init=teacher, device="cpu")
    assert student.start is not None
    assert same.start is not None
    assert all(torch.equal(student.start.state[name], same.start.state[name]) for name in same.start.state)
    assert start_text(student) == "inherited from the teacher; all tensors fit"
    for options in ({"settings": ["distill.start=random"]}, {"recipe": "damo"}):
        apart = make_job(mine, files / "data", **given, **options)
        assert apart.start is None
        assert start_text(apart) == ""
    write_weights(files / "other.safetensors", DetectorNet(other_widths(TINY)), other_widths(TINY), NAMES)
    begun = make_job(mine, files / "data", init=files / "other.safetensors", **given)
    assert start_text(begun) == f"inherited from detector {other_widths(TINY).id}; all tensors fit"


def test_classes_that_the_source_does_not_know_are_told(files: Path) -> None:
    names = ("circle", "square", "star", "moon", "sun")
    spec = replace(TINY, head=replace(TINY.head, num_classes=5))
    write_weights(files / "other.safetensors", DetectorNet(spec), spec, names)
    begun = make_job(files / "mine.json", files / "data", init=files / "other.safetensors", device="cpu")
    assert start_text(begun) == f"inherited from detector {spec.id}; new classes: 2 of 4"


def test_weights_that_are_inherited_from_are_not_replaced(files: Path) -> None:
    source, spec = files / "source.safetensors", files / "mine.json"
    (files / "run").mkdir()
    shutil.copy(source, files / "run" / "weights.safetensors")
    before = source.read_bytes()
    for place, out in ((source, source), (files / "run", files / "run" / "weights.safetensors"), (source, spec)):
        with pytest.raises(MaenasError, match="is an input; choose another"):
            inherit_weights(place, spec, out)
    assert source.read_bytes() == before


def test_weights_of_ours_are_no_published_checkpoint(files: Path, maenas: Maenas) -> None:
    result = maenas(
        "weights", "convert", str(files / "source.safetensors"), str(files / "new.safetensors"), "--spec", "damo-yolo-t"
    )
    assert result.code == 2
    assert "a weights file of maenas is used as it is" in result.err
    assert not (files / "new.safetensors").exists()


def test_a_teacher_of_another_style_teaches_and_gives_no_weights(files: Path) -> None:
    stranger = replace(TINY, backbone=replace(TINY.backbone, act="silu"))
    write_weights(files / "stranger.safetensors", DetectorNet(stranger), stranger, NAMES)
    job = make_job(files / "mine.json", files / "data", teacher=files / "stranger.safetensors", device="cpu")
    assert job.start is None
    assert job.teacher is not None
    assert start_text(job).startswith("random weights: the teacher is of another style (activation silu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.safetensors", "--spec", "mine.json"), "none.safetensors"),
        (("source.safetensors", "--spec", "damo-yolo-t"), "--data"),
        (("source.safetensors", "--spec", "damo-yolo-nano-s", "--data", "data"), "another style"),
    ],
)
def test_what_cannot_be_inherited_is_refused_in_one_message(
    files: Path, maenas: Maenas, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(files)
    result = maenas("weights", "inherit", *arguments, "--out", "init.safetensors")
    assert result.code == 2
    assert words in result.err
    assert not (files / "init.safetensors").exists()


def test_two_kinds_of_first_weights_are_refused(files: Path, maenas: Maenas) -> None:
    weights = str(files / "source.safetensors")
    command = ["train", str(files / "mine.json"), "--data", str(files / "data"), "--init", weights]
    result = maenas(*command, "--finetune", weights)
    assert result.code == 2
    assert "--finetune and --init" in result.err
