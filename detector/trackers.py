"""Callbacks that tell TensorBoard, MLflow or Weights & Biases about a training run."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final, get_args

from detector.choices import TrackerName
from detector.events import BeginEvent, Callback, EndEvent, EpochEvent, EvaluationEvent, Event, StepEvent
from detector.recipe import Recipe
from maenas.errors import MaenasError
from maenas.files import reason


def tracker(name: TrackerName) -> Callback:
    """A new callback for one run; raises `MaenasError` where the package is not installed."""
    if name not in _MAKERS:
        raise MaenasError(f"{name!r} is no tracker; choose {', '.join(get_args(TrackerName))}")
    if not is_installed(name):
        raise MaenasError(f"logging to {name} needs the package {name}: pip install {name}")
    return _MAKERS[name]()


def is_installed(name: TrackerName) -> bool:
    """Whether `tracker` can make one of this name."""
    return find_spec(name) is not None


class _TensorBoard:
    """Event files in the folder `tensorboard` of the run: every step and evaluation."""

    def __init__(self) -> None:
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, BeginEvent):
            folder = str(event.folder / "tensorboard")
            module: Any = import_module("torch.utils.tensorboard")
            try:
                self._writer = module.SummaryWriter(folder, purge_step=event.step + 1)
            except OSError as error:
                print(f"note: no logging to TensorBoard: {folder}: {reason(error)}", file=sys.stderr)
        elif isinstance(event, StepEvent | EvaluationEvent) and self._writer is not None:
            for name, value in _scalars(event).items():
                self._writer.add_scalar(name, value, event.step)
        elif isinstance(event, EndEvent) and self._writer is not None:
            self._writer.close()


class _Mlflow:
    """A run of MLflow, at its tracking URI: the recipe as parameters, every epoch and evaluation as metrics."""

    def __init__(self) -> None:
        self._mlflow: Any = import_module("mlflow")
        self._began = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, BeginEvent):
            self._mlflow.start_run(run_name=event.name)
            self._began = True
            self._mlflow.log_params(_settings(event))
        elif isinstance(event, EpochEvent | EvaluationEvent):
            self._mlflow.log_metrics(_scalars(event), step=event.step)
        elif isinstance(event, EndEvent) and self._began:
            self._mlflow.end_run("FAILED" if event.reason == "failed" else "FINISHED")


class _Wandb:
    """A run of Weights & Biases in the project `maenas`, or that of WANDB_PROJECT: every step and evaluation."""

    def __init__(self) -> None:
        self._wandb: Any = import_module("wandb")
        self._run: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, BeginEvent):
            project = os.environ.get("WANDB_PROJECT", "maenas")
            folder = str(event.folder)
            self._run = self._wandb.init(project=project, name=event.name, dir=folder, config=_settings(event))
        elif isinstance(event, StepEvent | EvaluationEvent):
            self._run.log(_scalars(event), step=event.step)
        elif isinstance(event, EndEvent) and self._run is not None:
            self._run.finish(exit_code=int(event.reason == "failed"))


_MAKERS: Final[Mapping[TrackerName, Callable[[], Callback]]] = MappingProxyType(
    {"tensorboard": _TensorBoard, "mlflow": _Mlflow, "wandb": _Wandb}
)


def _scalars(event: StepEvent | EpochEvent | EvaluationEvent) -> dict[str, float]:
    """The numbers of an event by name: train/... or val/..."""
    if isinstance(event, EvaluationEvent):
        return {f"val/{name}": value for name, value in event.metrics.scalars().items()}
    losses = {f"train/{name}": value for name, value in event.losses.items()}
    if isinstance(event, EpochEvent):
        return losses
    return {**losses, "train/lr": event.lr, "train/images_per_s": event.images_per_s}


def _settings(event: BeginEvent) -> dict[str, str | int | float]:
    """What the run was asked for, flat."""
    return {**dict(_flat(event.recipe)), "batch": event.batch, "device": event.device}


def _flat(recipe: Recipe) -> Iterator[tuple[str, str | int | float]]:
    for name, value in dataclasses.asdict(recipe).items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        for key, item in inner:
            yield name if key is None else f"{name}.{key}", item if isinstance(item, int | float | str) else str(item)
