"""Training runs: resumed ones end as uninterrupted ones, and what goes wrong loses nothing."""

import csv
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import detector.validate
from detector import guard
from detector import job as job_module
from detector import train as module
from detector.checkpoint import read_checkpoint, write_checkpoint
from detector.data.dataset import open_dataset
from detector.data.loader import Batch
from detector.data.shapes import write_shapes
from detector.distributed import World
from detector.evaluate import write_report
from detector.events import EpochEvent, Event
from detector.guard import LossReader
from detector.images import normalise
from detector.job import Job, assemble_run, fingerprint
from detector.log import TrainingLog
from detector.memory import tell_node
from detector.model.net import DetectorNet
from detector.model.weights import Weights, read_weights
from detector.optim import lr_at
from detector.plan import plan_text
from detector.process import algorithms
from detector.recipe import Recipe, override
from detector.step import LOSSES, Parts, memory_format, train_step
from detector.train import BEST, LAST, train
from maenas.errors import MaenasError
from maenas.locks import locked
from maenas.run_files import WEIGHTS_FILE
from maenas.spec import SCHEMA, NeckSpec, SpecFile, write_spec
from maenas.strict import dump_json
from tests.detector.conftest import TINY, TINY_STAGES

ALONE = World(0, 1, torch.device("cpu"))
SPEC = TINY
RECIPE = override(
    Recipe(),
    [
        *("epochs=3", "warmup_epochs=1", "plain_epochs=1", "eval_every=3", "batch=4", "workers=0", "clip_norm=10"),
        *("lr_per_image=0.001", "ema_ramp_steps=10", "augment.mosaic_size=64"),
    ],
)
EVERY_STEP = replace(RECIPE, checkpoint_minutes=0.0)
STEPS_PER_EPOCH = 4

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, images=20, size=64, seed=0)
    return folder


@pytest.fixture(scope="module")
def job(folder: Path) -> Job:
    data = open_dataset(folder, "train"), open_dataset(folder, "val")
    return Job(SPEC, "tiny", *data, RECIPE, spec_file=SpecFile(SCHEMA, "tiny", SPEC.id, SPEC))


def rows(out: Path) -> list[list[str]]:
    """Steps, epochs, rates and losses of a run; not its speed."""
    with (out / "steps.csv").open(encoding="utf-8", newline="") as file:
        return [row[:-1] for row in csv.reader(file)]


def losses(out: Path) -> list[dict[str, float]]:
    """Of the epochs of a run."""
    return [json.loads(line)["losses"] for line in (out / "epochs.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_run(one: Path, two: Path) -> None:
    assert (one / WEIGHTS_FILE).read_bytes() == (two / WEIGHTS_FILE).read_bytes()
    assert rows(one) == rows(two)
    assert losses(two) == [pytest.approx(epoch, rel=1e-5) for epoch in losses(one)]
    first, second = read_checkpoint(one / LAST), read_checkpoint(two / LAST)
    assert first.step == second.step
    for name in ("net", "average"):
        states = getattr(first, name), getattr(second, name)
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    momenta = first.optimizer["state"], second.optimizer["state"]
    assert momenta[0]
    assert momenta[0].keys() == momenta[1].keys()
    for number, values in momenta[0].items():
        assert values
        assert all(torch.equal(value, momenta[1][number][key]) for key, value in values.items())


@pytest.fixture(scope="module")
def uninterrupted(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped, with its plots."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    train(job, ALONE, out)
    return out


def test_a_run_leaves_weights_checkpoints_logs_and_plots(job: Job, uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.iterdir()} - {"tensorboard"}
    assert names == {
        BEST,
        LAST,
        WEIGHTS_FILE,
        "recipe.json",
        "steps.csv",
        "epochs.jsonl",
        "batch.jpg",
        "labels.png",
        "curves.png",
        "evaluation",
    }
    weights = read_weights(uninterrupted / WEIGHTS_FILE)
    assert (weights.spec, weights.names) == (SPEC, job.train.names)
    epochs = [json.loads(line) for line in (uninterrupted / "epochs.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    assert ["metrics" in row for row in epochs] == [False, False, True]
    assert ["evaluation_seconds" in row for row in epochs] == [False, False, True]
    assert 0 < epochs[2]["evaluation_seconds"] < epochs[2]["seconds"]
    table = rows(uninterrupted)
    assert table[0][:3] == ["step", "epoch", "lr"]
    assert [int(row[0]) for row in table[1:]] == list(range(1, 3 * STEPS_PER_EPOCH + 1))


def test_the_learning_rate_of_every_step_is_the_schedule(uninterrupted: Path) -> None:
    for row in rows(uninterrupted)[1:]:
        expected = lr_at(int(row[0]) - 1, base_lr=0.004, total_steps=12, warmup_steps=4, flat_steps=4)
        assert float(row[2]) == pytest.approx(expected, rel=1e-6)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[], object]) -> None:
    """Have `do` done at the end of this step, counted from 0."""
    original = module.train_step

    def wrapped(parts: Parts, batches: Sequence[Batch], number: int) -> torch.Tensor:
        losses = original(parts, batches, number)
        if number == step:
            do()
        return losses

    monkeypatch.setattr(module, "train_step", wrapped)


def test_a_run_without_progress_ends_when_its_patience_does(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """AP falls from the second epoch on: with a patience of 2 the fourth is the last, also after an interruption."""
    monkeypatch.setattr(module, "evaluate", lambda data, found: next(results))
    results = iter([Falling(0.5), Falling(0.6), Falling(0.4), Falling(0.3)])
    patient = replace(job, recipe=replace(RECIPE, epochs=20, eval_every=1, patience=2))
    outcome = train(patient, ALONE, tmp_path)
    assert outcome.best_ap == 0.6
    assert "no better AP than 0.600 since epoch 2" in capsys.readouterr().out
    stored = read_checkpoint(tmp_path / LAST)
    assert (stored.closed, stored.best_epoch) == (4, 2)
    train(patient, ALONE, tmp_path, resume=True)
    assert read_checkpoint(tmp_path / LAST).closed == 4


class Falling:
    """Metrics with this AP."""

    def __init__(self, ap: float) -> None:
        self.summary = {"AP": ap}

    def scalars(self) -> dict[str, float]:
        return self.summary


@pytest.mark.parametrize("step", [3, 5, 11])
def test_a_run_stopped_by_ctrl_c_ends_as_an_uninterrupted_one(
    job: Job, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, step, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(MaenasError, match=f"interrupted after step {step + 1}; .* --resume"):
            train(job, ALONE, tmp_path)
    assert read_checkpoint(tmp_path / LAST).step == step + 1
    train(job, ALONE, tmp_path, resume=True)
    assert_same_run(uninterrupted, tmp_path)


def assert_goes_on(job: Job, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of `job` in `folder`/parts, stopped after its third step and resumed, ends as the one in `folder`/whole."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(MaenasError, match="interrupted after step 3"):
            train(job, ALONE, folder / "parts")
    train(job, ALONE, folder / "parts", resume=True)
    assert_same_run(folder / "whole", folder / "parts")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_of_other_optimizers_ends_as_an_uninterrupted_one(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    short = replace(job, recipe=override(RECIPE, [f"optimizer={optimizer}", "epochs=2", "eval_every=9"]))
    train(short, ALONE, tmp_path / "whole")
    assert_goes_on(short, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_stopped_during_an_evaluation_ends_as_an_uninterrupted_one(
    job: Job, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = detector.validate._detect

    def signalled(*arguments: Any) -> Any:
        os.kill(os.getpid(), getattr(signal, name))
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(detector.validate, "_detect", signalled)
        with pytest.raises(MaenasError, match=r"interrupted after step 12; .* --resume"):
            train(job, ALONE, tmp_path)
    assert read_checkpoint(tmp_path / LAST).closed == 2
    train(job, ALONE, tmp_path, resume=True)
    assert_same_run(uninterrupted, tmp_path)


def test_an_epoch_that_was_logged_and_not_stored_is_logged_once(job: Job, tmp_path: Path) -> None:
    """A run that was killed between the line in the log and the checkpoint that says so."""
    train(job, ALONE, tmp_path)
    before = (tmp_path / "epochs.jsonl").read_text()
    stored = read_checkpoint(tmp_path / LAST)
    write_checkpoint(tmp_path / LAST, replace(stored, closed=2, best_epoch=2))
    train(job, ALONE, tmp_path, resume=True)
    assert losses(tmp_path)[2] == pytest.approx(json.loads(before.splitlines()[2])["losses"], rel=1e-5)
    assert [json.loads(line)["epoch"] for line in (tmp_path / "epochs.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert before.splitlines()[:2] == (tmp_path / "epochs.jsonl").read_text().splitlines()[:2]


def test_a_report_is_there_with_the_checkpoint_that_a_run_goes_on_from(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed later, and is resumed without ever being better, has it too."""
    monkeypatch.setattr(module, "write_report", write_report)
    monkeypatch.setattr(module, "SAVING_SHARE", math.inf)  # a checkpoint at the end of every epoch

    def kill(event: Event) -> None:
        if isinstance(event, EpochEvent) and event.epoch == 3:
            raise RuntimeError("killed")

    each = replace(job, recipe=replace(RECIPE, eval_every=2))
    with pytest.raises(RuntimeError):
        train(each, ALONE, tmp_path, callbacks=[kill])
    assert read_checkpoint(tmp_path / LAST).best_epoch == 2
    assert {"metrics.json", "confusion.png"} < {path.name for path in (tmp_path / "evaluation").iterdir()}


def test_a_finished_run_resumed_stays_as_it_is(job: Job, uninterrupted: Path, tmp_path: Path) -> None:
    train(job, ALONE, tmp_path)
    again = train(job, ALONE, tmp_path, resume=True)
    assert again.metrics is None
    assert_same_run(uninterrupted, tmp_path)


def test_worker_processes_change_nothing(job: Job, uninterrupted: Path, tmp_path: Path) -> None:
    train(replace(job, recipe=replace(RECIPE, workers=2, cache="none")), ALONE, tmp_path)
    assert_same_run(uninterrupted, tmp_path)


def test_a_folder_with_a_run_is_not_overwritten(job: Job, uninterrupted: Path) -> None:
    with pytest.raises(MaenasError, match="already holds a training run; add --resume"):
        train(job, ALONE, uninterrupted)
    with pytest.raises(MaenasError, match=r"another run; different seed \(0 there, 1 here\)"):
        train(replace(job, recipe=replace(RECIPE, seed=1)), ALONE, uninterrupted, resume=True)


def test_a_second_run_in_the_folder_of_one_that_goes_on_is_refused(job: Job, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(MaenasError, match=f"in use by process {os.getpid()}"):
        train(job, ALONE, tmp_path)


def test_a_loss_that_is_not_a_number_stops_before_the_next_checkpoint(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.train_step

    def poisoned(parts: Parts, batches: Sequence[Batch], step: int) -> torch.Tensor:
        if step == 6:
            with torch.no_grad():
                parts.net.state_dict()["head.cls0.bias"].fill_(torch.nan)
        return original(parts, batches, step)

    monkeypatch.setattr(module, "train_step", poisoned)
    with pytest.raises(MaenasError, match=r"step 7: the loss cls is not finite; the batch is in"):
        train(replace(job, recipe=EVERY_STEP), ALONE, tmp_path)
    stored = read_checkpoint(tmp_path / LAST)
    assert stored.step == 6
    assert all(tensor.isfinite().all() for tensor in stored.net.values())
    batch = load_file(tmp_path / "bad_batch.safetensors")
    assert batch["0.images"].shape == (4, 3, 64, 64)
    assert set(batch) == {"0.images", "0.boxes", "0.labels", "0.ids"}


def test_a_full_disk_leaves_the_last_checkpoint(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill() -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)

    stop_after(monkeypatch, 5, fill)
    with pytest.raises(MaenasError, match=r"no space left on device; free some space .* --resume"):
        train(replace(job, recipe=EVERY_STEP), ALONE, tmp_path)
    assert read_checkpoint(tmp_path / LAST).step == 5


@pytest.mark.parametrize("part", ["net", "average", "optimizer"])
def test_a_checkpoint_with_states_of_something_else_is_refused(part: str, job: Job, tmp_path: Path) -> None:
    train(replace(job, recipe=replace(EVERY_STEP, epochs=1, plain_epochs=1)), ALONE, tmp_path)
    stored = read_checkpoint(tmp_path / LAST)
    write_checkpoint(tmp_path / LAST, replace(stored, **{part: {"a": torch.zeros(1)}}))
    with pytest.raises(MaenasError, match="does not hold the states of this run"):
        train(replace(job, recipe=stored.recipe), ALONE, tmp_path, resume=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_under_the_log_is_one_message(job: Job, tmp_path: Path) -> None:
    (tmp_path / "steps.csv").symlink_to("/dev/full")
    (tmp_path / "epochs.jsonl").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detector.log._keep_until", lambda out, step, closed: [])
        with pytest.raises(MaenasError, match=r"the run in .* stopped: no space left on device; free some space"):
            train(job, ALONE, tmp_path)


def test_weights_of_other_classes_start_a_run(job: Job, uninterrupted: Path, tmp_path: Path) -> None:
    start = read_weights(uninterrupted / WEIGHTS_FILE)
    names = ("one", "two")
    net = DetectorNet(replace(SPEC, head=replace(SPEC.head, num_classes=2)))
    other = Weights(net.spec, names, {**start.state, **class_layers(net)}, {})
    short = override(RECIPE, ["epochs=1", "warmup_epochs=0", "lr_per_image=0"])
    outcome = train(replace(job, recipe=short, start=other), ALONE, tmp_path)
    state = read_weights(outcome.weights).state
    same = [name for name in state if torch.equal(state[name], start.state[name])]
    assert "backbone.stage1.unit0.conv1.conv.weight" in same
    assert not any(name.startswith("head.cls") and name.endswith("weight") for name in same)


def class_layers(net: DetectorNet) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in net.state_dict().items() if name.startswith("head.cls")}


@pytest.mark.parametrize("kind", ["cwd", "mgd"])
def test_a_teacher_is_learned_from_and_resumed_with(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    wide = replace(SPEC, neck=NeckSpec((24, 24, 24), 1, 1.0, "basic", "relu"))
    torch.manual_seed(5)
    recipe = override(RECIPE, ["epochs=2", f"distill.kind={kind}", "distill.off_epochs=1", "eval_every=9"])
    taught = replace(job, recipe=recipe, teacher=DetectorNet(wide))
    train(taught, ALONE, tmp_path / "whole")
    distill = [float(row[3 + LOSSES.index("distill")]) for row in rows(tmp_path / "whole")[1:]]
    assert all(value > 0 for value in distill[:STEPS_PER_EPOCH])
    assert not any(distill[STEPS_PER_EPOCH:])
    assert_goes_on(taught, tmp_path, monkeypatch)


def test_gradients_of_accumulated_batches_are_averaged(job: Job, tmp_path: Path) -> None:
    recipe = override(RECIPE, ["batch=2", "accumulate=3", "epochs=1", "warmup_epochs=0", "plain_epochs=0"])
    train(replace(job, recipe=recipe), ALONE, tmp_path)
    table = rows(tmp_path)[1:]
    assert [row[0] for row in table] == ["1", "2", "3"]  # 8 batches: 3, 3 and 2
    assert float(table[0][2]) == pytest.approx(0.001 * 6)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_trains(job: Job, tmp_path: Path, amp: str, optimizer: str) -> None:
    short = [f"optimizer={optimizer}", "epochs=1", "warmup_epochs=0"]
    recipe = override(RECIPE, [f"amp={amp}", *short])
    train(replace(job, recipe=recipe), ALONE, tmp_path)
    exact = override(RECIPE, short)
    train(replace(job, recipe=exact), ALONE, tmp_path / "exact")
    losses = [[float(row[3]) for row in rows(out)[1:]] for out in (tmp_path, tmp_path / "exact")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.1)


def test_without_validation_data_the_last_weights_are_kept(job: Job, tmp_path: Path) -> None:
    outcome = train(replace(job, val=None, recipe=override(RECIPE, ["epochs=1", "warmup_epochs=0"])), ALONE, tmp_path)
    assert (outcome.metrics, outcome.best_ap) == (None, -1.0)
    stored = read_checkpoint(tmp_path / LAST)
    state = read_weights(outcome.weights).state
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.average.items())


def test_the_plan_names_steps_memory_and_time_and_writes_nothing(job: Job, tmp_path: Path) -> None:
    text = plan_text(job, ALONE)
    assert "images     16, 4 steps of 4 x 1 an epoch" in text
    assert "steps      12 in 3 epochs" in text
    assert "GB" in text
    assert "images/s" in text


def test_the_layout_is_safe_for_bottlenecks_of_8_channels() -> None:
    stages = tuple(replace(stage, bottleneck=8) for stage in TINY_STAGES)
    narrow = DetectorNet(replace(SPEC, backbone=replace(SPEC.backbone, stages=stages)))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert memory_format(narrow, cpu) == torch.contiguous_format
    assert memory_format(narrow, gpu) == memory_format(DetectorNet(SPEC), cpu) == torch.channels_last


def test_losses_are_told_in_order(tmp_path: Path) -> None:
    reader = LossReader(tmp_path, ALONE)
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4), torch.zeros(2, 1), torch.zeros(2))
    for step in range(3):
        reader.push(step, [batch, batch], torch.full((5,), float(step)))
    told = list(reader.arrived())
    assert [(row.step, row.images, row.losses["box"]) for row in told] == [(0, 4, 0.0), (1, 4, 1.0), (2, 4, 2.0)]


def test_on_a_gpu_losses_are_read_some_steps_later_however_fast_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes find a loss that is not finite at the same step then, and end together."""
    reader = LossReader(tmp_path, ALONE)
    waited = []
    ready = SimpleNamespace(query=lambda: True, synchronize=lambda: waited.append(1))
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4), torch.zeros(2, 1), torch.zeros(2))
    for step in range(7):
        waiting = guard._Waiting(step, [batch], torch.full((5,), float(step)), ready, at=step / 2)  # type: ignore[arg-type]
        reader._queue.append(waiting)
        told = [row.step for row in reader.arrived()]
        assert told == ([step - 4] if step >= 4 else [])
    assert [(row.step, row.at) for row in reader.arrived(everything=True)] == [(3, 1.5), (4, 2.0), (5, 2.5), (6, 3.0)]
    assert len(waited) == 7


def test_speed_is_that_of_the_steps_however_late_their_losses_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    losses = dict.fromkeys(LOSSES, 1.0)
    with TrainingLog(tmp_path, step=0, closed=0, total_steps=6, quiet=True) as log:
        clock[0] = 103.0  # all three are read at once, as on a GPU at the end of an epoch
        speeds = [log.step(n, epoch=1, lr=0.1, losses=losses, images=8, at=100.0 + n) for n in (1, 2, 3)]
        log.epoch(1, step=3, seconds=3.0, evaluation=0.0, metrics=None)
        clock[0] = 110.0
        speeds.append(log.step(4, epoch=2, lr=0.1, losses=losses, images=8, at=104.0))
    assert speeds == [8.0] * 4


def test_statistics_of_inherited_weights_are_no_part_of_a_runs_identity(job: Job) -> None:
    """They come from a forward pass, whose rounding follows from the number of threads."""
    torch.manual_seed(0)
    state = DetectorNet(SPEC).state_dict()
    name = next(name for name in state if name.endswith("running_mean"))
    moved = state | {name: state[name] + 1e-6}
    for notes, same in (({"inherited_from": "x"}, True), ({}, False)):
        one, two = (replace(job, start=Weights(SPEC, job.train.names, s, notes)) for s in (state, moved))
        assert (fingerprint(one) == fingerprint(two)) == same
    other = state | {"head.cls0.bias": state["head.cls0.bias"] + 1}
    one, two = (replace(job, start=Weights(SPEC, job.train.names, s, {"inherited_from": "x"})) for s in (state, other))
    assert fingerprint(one) != fingerprint(two)


def test_a_run_without_fp16_goes_on_with_it(job: Job) -> None:
    """As one does that began on a GPU with bf16: its scaler had nothing to store."""
    parts, _, _ = assemble_run(job, ALONE, None)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    state = parts.average.state_dict()
    stored = SimpleNamespace(net=state, average=state, optimizer=parts.optimizer.state_dict(), scaler={}, distiller={})
    job_module._restore(replace(parts, scaler=scaler), stored)  # type: ignore[arg-type]


def test_a_teacher_sees_images_in_its_own_colours(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(SPEC, input=replace(SPEC.input, channel_order="bgr", value_range=(0.0, 1.0)))
    parts, loader, _ = assemble_run(replace(job, teacher=DetectorNet(other)), ALONE, None)
    assert parts.teacher is not None
    seen = []
    features = parts.teacher.features
    monkeypatch.setattr(parts.teacher, "features", lambda images: seen.append(images) or features(images))
    batch = loader.batch(0)
    train_step(parts, [batch], 0)
    assert torch.equal(seen[0], normalise(batch.images, other.input))


def test_a_state_is_laid_out_as_its_parameter() -> None:
    """Fused optimisers read both in the order of memory, which differs between devices."""
    layer = torch.nn.Conv2d(8, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.randn(1, 8, 5, 5)).sum().backward()
    optimizer.step()
    state = optimizer.state[layer.weight]
    before = state["momentum_buffer"].clone()
    state["momentum_buffer"] = before.contiguous()
    job_module._fit_optimizer(optimizer)
    assert state["momentum_buffer"].stride() == layer.weight.stride()
    assert torch.equal(state["momentum_buffer"], before)


SCRIPT = """
import sys, torch
from detector import train
from maenas.cli.main import main
torch.set_num_threads(1)
train.curves_plot = train.label_plot = lambda _: b""  # plots take longer than these runs
train.write_report = lambda *_: None
sys.argv.insert(1, "train")
main()
"""


def training_command(place: Path, data: Path, recipe: Recipe, out: Path) -> list[str]:
    """`maenas train` of the tiny network, its files in `place`."""
    write_spec(place / "tiny.json", SPEC, "tiny")
    (place / "recipe.json").write_text(dump_json(recipe), encoding="utf-8")
    options = ["--data", str(data), "--recipe", str(place / "recipe.json"), "--out", str(out)]
    return [sys.executable, "-c", SCRIPT, str(place / "tiny.json"), *options, "--resume", "--device", "cpu"]


def test_a_reader_who_has_enough_ends_no_training(folder: Path, tmp_path: Path) -> None:
    command = training_command(tmp_path, folder, RECIPE, tmp_path / "run")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait() == 0
    assert (tmp_path / "run" / WEIGHTS_FILE).exists()
    assert read_checkpoint(tmp_path / "run" / LAST).closed == RECIPE.epochs


@pytest.mark.slow
def test_a_scheduler_that_ends_the_whole_group_leaves_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = replace(EVERY_STEP, workers=1, epochs=500)
    command = training_command(tmp_path, folder, recipe, out)
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not (out / LAST).exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert "interrupted after step" in err
    assert "killed by signal" not in err
    assert read_checkpoint(out / LAST).step > 0


@pytest.mark.parametrize(("free", "told"), [(10**9, []), (100_000, ["only 4 of 16 images fit"])])
def test_images_that_do_not_stay_decoded_are_told(
    free: int, told: list[str], job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 64 x 64 pixels: half of 100 kB holds four."""
    tell_node.cache_clear()
    monkeypatch.setattr("detector.job.free_memory", lambda: free)
    assemble_run(job, ALONE, None)
    assert [message[: len(told[0])] for message in caplog.messages] == told


def test_a_loading_process_that_is_killed_ends_in_one_message(folder: Path, tmp_path: Path) -> None:
    """As by a system that runs out of memory."""
    out = tmp_path / "run"
    command = training_command(tmp_path, folder, replace(EVERY_STEP, workers=1, epochs=500), out)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (out / LAST).exists():
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("the system does not tell the children of a process")
    for child in children.read_text(encoding="utf-8").split():
        os.kill(int(child), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert re.search(r"process that loads images was killed.*--set workers=0.*--resume", err)
    assert read_checkpoint(out / LAST).step > 0


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(
    job: Job, folder: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = training_command(tmp_path, folder, EVERY_STEP, out)
    rng = random.Random(7)
    for _ in range(6):
        before = read_checkpoint(out / LAST).step if (out / LAST).exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not ((out / LAST).exists() and read_checkpoint(out / LAST).step > before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read_checkpoint(out / LAST).step >= 6
    subprocess.run(command, check=True, capture_output=True)
    assert_same_run(uninterrupted, out)


@pytest.mark.parametrize("deterministic", [False, True])
def test_training_keeps_cudnn_on(deterministic: bool) -> None:
    before = torch.backends.cudnn.enabled
    with algorithms(deterministic=deterministic):
        assert torch.backends.cudnn.enabled == before
        assert torch.backends.cudnn.benchmark != deterministic
        assert torch.backends.cudnn.deterministic == deterministic
    assert torch.backends.cudnn.enabled == before
