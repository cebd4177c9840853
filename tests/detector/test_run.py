"""Training from Python: events, stopping on request, threads, trackers."""

import csv
import json
import os
import sys
import threading
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from detector.checkpoint import read_checkpoint
from detector.data.shapes import write_shapes
from detector.events import (
    BeginEvent,
    Callback,
    EndEvent,
    EpochEvent,
    EvaluationEvent,
    Event,
    StepEvent,
    StopTraining,
)
from detector.recipe import Recipe, override
from detector.run import TrainingRun, train
from detector.trackers import tracker
from maenas.errors import MaenasError
from maenas.spec import write_spec
from tests.detector.conftest import TINY

RECIPE = override(
    Recipe(),
    [
        *("epochs=2", "warmup_epochs=1", "plain_epochs=1", "eval_every=1", "batch=4", "workers=0", "clip_norm=10"),
        *("lr_per_image=0.001", "ema_ramp_steps=10", "augment.mosaic_size=64"),
    ],
)
STEPS_PER_EPOCH = 4

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, images=20, size=64, seed=0)
    return folder


def run(data: Path, out: Path, *callbacks: Callback, **options: Any) -> TrainingRun:
    return train(TINY, data, recipe=RECIPE, device="cpu", out=out, callbacks=callbacks, **options)


def stop_at(kind: type[Event], number: int) -> Callback:
    """A callback that asks to stop at the event `number`, from 1, of its kind."""
    seen: list[Event] = []

    def callback(event: Event) -> None:
        if isinstance(event, kind):
            seen.append(event)
            if len(seen) == number:
                raise StopTraining

    return callback


def test_every_event_of_a_run_is_told_in_order(data: Path, tmp_path: Path) -> None:
    write_spec(tmp_path / "tiny.json", TINY, "tiny")
    events: list[Event] = []
    out = tmp_path / "run"
    done = train(tmp_path / "tiny.json", data, recipe=RECIPE, device="cpu", out=out, callbacks=[events.append])
    epoch = [StepEvent] * STEPS_PER_EPOCH + [EvaluationEvent, EpochEvent]
    assert [type(event) for event in events] == [BeginEvent, *epoch, *epoch, EndEvent]
    first, last = events[0], events[-1]
    assert isinstance(first, BeginEvent)
    assert (first.name, first.step, first.steps, first.epochs, first.batch) == ("tiny", 0, 8, 2, 4)
    assert first.recipe == RECIPE
    assert last == EndEvent(8, "finished", out / "weights.safetensors", done.best_ap)
    with (out / "steps.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [event for event in events if isinstance(event, StepEvent)]
    for row, event in zip(rows, steps, strict=True):
        assert (int(row["step"]), int(row["epoch"])) == (event.step, event.epoch)
        assert float(row["total"]) == pytest.approx(event.losses["total"], rel=1e-4)
        assert float(row["lr"]) == pytest.approx(event.lr)
    epochs = [json.loads(line) for line in (out / "epochs.jsonl").read_text().splitlines()]
    rated = [event for event in events if isinstance(event, EvaluationEvent)]
    assert [row["metrics"] for row in epochs] == [event.metrics.scalars() for event in rated]
    assert [row["losses"] for row in epochs] == [event.losses for event in events if isinstance(event, EpochEvent)]
    assert rated[0].is_best
    with pytest.raises(FrozenInstanceError):
        first.step = 3  # type: ignore[misc]


def test_a_run_gives_its_detector(data: Path, tmp_path: Path) -> None:
    done = run(data, tmp_path, epochs=1)
    assert (done.folder, done.weights, done.reason) == (tmp_path, tmp_path / "weights.safetensors", "finished")
    assert done.metrics is not None
    assert done.best_ap == (done.metrics.summary["AP"] or 0.0)
    assert done.detector("cpu").names == ("circle", "square", "triangle", "cross")
    assert repr(done) == f"TrainingRun({str(tmp_path)!r}, AP {done.best_ap:.3f}, finished)"


@pytest.mark.parametrize(
    ("kind", "number", "step"), [(StepEvent, 2, 2), (StepEvent, 5, 5), (EvaluationEvent, 1, 4), (EpochEvent, 1, 4)]
)
def test_a_run_stopped_by_a_callback_is_resumed_to_the_same_end(
    data: Path, tmp_path: Path, kind: type[Event], number: int, step: int
) -> None:
    events: list[Event] = []
    stopped = run(data, tmp_path / "parts", stop_at(kind, number), events.append)
    assert stopped.reason == "stopped"
    assert isinstance(events[-1], EndEvent)
    assert events[-1].reason == "stopped"
    assert read_checkpoint(tmp_path / "parts" / "last.pt").step == step
    assert stopped.detector("cpu").names[0] == "circle"  # also before the first evaluation
    assert (stopped.best_ap is None) == (step < STEPS_PER_EPOCH)
    resumed = run(data, tmp_path / "parts", resume=True)
    whole = run(data, tmp_path / "whole")
    assert (resumed.reason, resumed.best_ap) == ("finished", whole.best_ap)
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()


def test_an_error_of_a_callback_is_its_own_and_the_end_is_told(data: Path, tmp_path: Path) -> None:
    events: list[Event] = []

    def broken(event: Event) -> None:
        if isinstance(event, StepEvent):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(data, tmp_path, events.append, broken)
    assert isinstance(events[-1], EndEvent)
    assert (events[-1].reason, events[-1].best_ap) == ("failed", None)


def test_training_works_in_a_thread(data: Path, tmp_path: Path) -> None:
    done: list[TrainingRun] = []
    thread = threading.Thread(target=lambda: done.append(run(data, tmp_path / "thread", epochs=1)))
    thread.start()
    thread.join()
    assert done[0].reason == "finished"
    here = run(data, tmp_path / "here", epochs=1)
    assert done[0].weights.read_bytes() == here.weights.read_bytes()


def test_tensorboard_gets_every_step_and_evaluation(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(data, tmp_path, tracker("tensorboard"))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [row.step for row in board.Scalars("train/total")] == list(range(1, 9))
    assert [row.step for row in board.Scalars("val/AP")] == [4, 8]


class Recorder(ModuleType):
    """A module whose functions note how they were called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def note(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            return self  # wandb.init gives a run

        return note


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands in for a package that is not installed."""

    def make(name: str) -> Recorder:
        fake = Recorder(name)
        monkeypatch.setitem(sys.modules, name, fake)
        monkeypatch.setattr("detector.trackers.is_installed", lambda name: True)
        return fake

    return make


def test_mlflow_gets_the_recipe_and_every_epoch(data: Path, tmp_path: Path, package: Any) -> None:
    fake = package("mlflow")
    done = run(data, tmp_path, tracker("mlflow"))
    names = [name for name, _, _ in fake.calls]
    assert names == ["start_run", "log_params", *["log_metrics"] * 4, "end_run"]
    parameters = fake.calls[1][1][0]
    assert (parameters["epochs"], parameters["augment.mosaic_size"], parameters["device"]) == (2, 64, "cpu")
    logged = [
        (next(iter(arguments[0])).partition("/")[0], options["step"]) for _, arguments, options in fake.calls[2:6]
    ]
    assert logged == [("val", 4), ("train", 4), ("val", 8), ("train", 8)]
    best = max(arguments[0].get("val/AP", -1.0) for _, arguments, _ in fake.calls[2:6])
    assert best == done.best_ap
    assert fake.calls[-1][1] == ("FINISHED",)


def test_wandb_gets_every_step_in_order(data: Path, tmp_path: Path, package: Any) -> None:
    fake = package("wandb")
    run(data, tmp_path, tracker("wandb"), stop_at(StepEvent, 6))
    assert fake.calls[0][0] == "init"
    assert fake.calls[0][2]["config"]["optimizer"] == "sgd"
    steps = [options["step"] for name, _, options in fake.calls if name == "log"]
    assert steps == [1, 2, 3, 4, 4, 5, 6]
    assert fake.calls[-1] == ("finish", (), {"exit_code": 0})


def test_a_tracker_that_is_not_installed_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.trackers.is_installed", lambda name: False)
    with pytest.raises(MaenasError, match="needs the package wandb: pip install wandb"):
        tracker("wandb")
    with pytest.raises(MaenasError, match="choose tensorboard, mlflow, wandb"):
        tracker("comet")  # type: ignore[arg-type]


def test_a_recipe_and_its_changes_reach_the_run(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, stop_at(StepEvent, 1), settings=["momentum=0.5"], epochs=4, batch=2, seed=3, patience=9)
    stored = read_checkpoint(tmp_path / "last.pt")
    expected = replace(RECIPE, epochs=4, warmup_epochs=2.0, plain_epochs=2, batch=2, seed=3, patience=9, momentum=0.5)
    assert stored.recipe == expected
    assert os.listdir(tmp_path).count("weights.safetensors") == 1
