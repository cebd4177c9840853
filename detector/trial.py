"""A candidate of a race trained up to the end of a rung: a normal run of the trainer, stopped there and gone on with.

The recipe is that of the whole run, so that a candidate that is never stopped, and one that is, end with equal weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from detector.checkpoint import read_checkpoint
from detector.data.sample import Dataset
from detector.distributed import World
from detector.events import BeginEvent, Callback, EpochEvent, EvaluationEvent, Event, StepEvent, StopTraining
from detector.guard import LossNotFiniteError
from detector.job import Job, make_job, worker_count
from detector.model.deploy import deploy
from detector.model.net import DetectorNet
from detector.model.weights import write_weights
from detector.predict import Detector
from detector.recipe import Recipe
from detector.resample import match, weighted_ap
from detector.run import run_job
from detector.trackers import is_installed, tracker
from detector.train import LAST
from detector.validate import detect_dataset
from maenas.errors import MaenasError
from maenas.run_files import EPOCHS_FILE, read_epochs
from maenas.spec import SpecFile

NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory")  # how PyTorch puts it on a CPU


@dataclass(frozen=True)
class Trial:
    """What to train (a spec's file), how, and until which epoch; `device` as for `detector.device.choose_device`."""

    name: str
    seed: int  # 0, 1, ... over that of the recipe
    spec: str
    data: str
    recipe: Recipe
    input_size: int | None
    out: str
    until: int
    window: int  # evaluations whose mean counts
    device: str = "auto"
    parent: int | None = None  # number of the process without which this one is to stop


@dataclass(frozen=True)
class TrialEnd:
    """AP of a trial, or why there is none."""

    ap: float | None
    reason: str = ""


@dataclass(frozen=True)
class Progress:
    """An evaluation: AP of this epoch alone, and the training speed just before."""

    name: str
    seed: int
    epoch: int
    until: int
    ap: float
    images_per_s: float


def trial_job(trial: Trial) -> Job:
    """What is trained; raises `MaenasError` for files that cannot be read."""
    return make_job(trial.spec, trial.data, recipe=trial.recipe, input_size=trial.input_size, device=trial.device)


def run_trial(trial: Trial, tell: Callable[[Progress], object] = lambda progress: None) -> TrialEnd:
    """Train until the end of the rung, from the checkpoint where there is one; `tell` hears of every evaluation.

    A loss that is not finite, and too little memory, are an outcome. Raises `MaenasError` for what is wrong with all
    candidates alike: data that cannot be read, a full disk, an interruption.
    """
    callbacks: list[Callback] = [_stopper(trial), _teller(trial, tell)]
    if is_installed("tensorboard"):
        callbacks.append(tracker("tensorboard"))
    try:
        run_job(trial_job(trial), device=trial.device, out=trial.out, resume=True, callbacks=callbacks, quiet=True)
    except LossNotFiniteError as error:
        return TrialEnd(None, f"diverged: {error}")
    except (MemoryError, torch.OutOfMemoryError) as error:
        return TrialEnd(None, f"out of memory: {str(error).splitlines()[0] if str(error) else 'none is left'}")
    except RuntimeError as error:
        if not any(text in str(error).lower() for text in NO_MEMORY):
            raise
        return TrialEnd(None, f"out of memory: {str(error).splitlines()[0]}")
    return TrialEnd(mean_ap(Path(trial.out), trial.until, trial.window))


def mean_ap(out: Path, until: int, window: int) -> float:
    """Mean AP of the last `window` evaluations of a run up to the end of this epoch; raises `MaenasError` if it has
    not come so far."""
    epochs = [epoch for epoch in read_epochs(out / EPOCHS_FILE) if epoch.epoch <= until]
    rated = [epoch.metrics.get("AP", 0.0) for epoch in epochs if epoch.metrics is not None]
    if not rated or epochs[-1].epoch < until:
        raise MaenasError(f"the run in {out} has ended before epoch {until}; repeat the command with --resume")
    return float(np.mean(rated[-window:]))


def _stopper(trial: Trial) -> Callable[[Event], None]:
    """Stops the run at the end of the rung, and where the process that asked for it is gone."""

    def stop(event: Event) -> None:
        if isinstance(event, BeginEvent):
            done = event.closed >= trial.until
        elif isinstance(event, EpochEvent):
            done = event.epoch >= trial.until
        else:
            done = isinstance(event, StepEvent) and trial.parent is not None and os.getppid() != trial.parent
        if done:
            raise StopTraining

    return stop


def _teller(trial: Trial, tell: Callable[[Progress], object]) -> Callable[[Event], None]:
    speeds: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, StepEvent):
            speeds.append(event.images_per_s)
        elif isinstance(event, EvaluationEvent):
            ap = event.metrics.summary["AP"] or 0.0
            speed = float(np.median(speeds)) if speeds else 0.0
            tell(Progress(trial.name, trial.seed, event.epoch, trial.until, ap, speed))
            speeds.clear()

    return note


# Afterwards ---------------------------------------------------------------------------------------------------------


def last_average(job: Job, out: Path) -> DetectorNet:
    """The averaged weights at the end of a run, no matter whether an earlier epoch was rated higher."""
    stored = read_checkpoint(out / LAST)
    net = DetectorNet(job.spec)
    try:
        net.load_state_dict(stored.average)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise MaenasError(f"{out / LAST}: not of this candidate: {error!s:.200}") from error
    return net


def resampled_aps(job: Job, out: Path, dataset: Dataset, weights: np.ndarray, device: torch.device) -> np.ndarray:
    """AP `[B]` of a run's last averaged weights on `dataset`; its images, by id, count as `weights` `[B, I]` says.

    An image that cannot be read is left out, with a warning, for every candidate alike.
    """
    network = deploy(last_average(job, out)).to(device).to(memory_format=torch.channels_last)
    detector = Detector(network, job.spec.input, job.train.names, device)
    found = detect_dataset(detector, dataset, World(0, 1, device), workers=worker_count(job.recipe))
    seen = [sample.id in found for sample in sorted(dataset.samples, key=lambda sample: sample.id)]
    return weighted_ap(match(dataset, found), weights[:, seen])


def write_last_weights(job: Job, out: Path, path: Path, file: SpecFile, about: Sequence[tuple[str, str]]) -> None:
    """The last averaged weights of a run as weights to use, with the spec's file `file` and what is said `about` it."""
    write_weights(path, last_average(job, out), job.spec, job.train.names, metadata=dict(about), spec_file=file)
