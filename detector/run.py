"""Training from Python: one call, and what it leaves.

run = train("mine.json", data="shapes", epochs=3)
run.detector().predict("street.jpg")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.data.shapes import SHAPES
from detector.distributed import join_world
from detector.evaluate import Metrics
from detector.events import Callback, EndReason
from detector.job import Designed, Job, make_job
from detector.predict import Detector
from detector.recipe import AUTO, Recipe
from detector.train import train as train_job
from maenas.spec import DetectorSpec, SpecFile


@dataclass(frozen=True, repr=False)
class TrainingRun:
    """A run that is over: its folder, the best weights, their AP and metrics, and why it ended.

    `best_ap` is None where nothing was evaluated; `metrics` is None there, and where the best weights are from before
    the run was resumed.
    """

    folder: Path
    weights: Path
    best_ap: float | None
    metrics: Metrics | None
    reason: EndReason
    is_main: bool = True  # whether this process is the one that writes and knows the metrics

    def __repr__(self) -> str:
        ap = "no AP" if self.best_ap is None else f"AP {self.best_ap:.3f}"
        return f"TrainingRun({str(self.folder)!r}, {ap}, {self.reason})"

    def detector(self, device: str = "auto") -> Detector:
        """The trained detector; raises `MaenasError` for a device that is not there."""
        return Detector.load(self.weights, device)


def train(
    spec: str | Path | DetectorSpec | SpecFile | Designed,
    data: str | Path = SHAPES,
    *,
    recipe: str | Path | Recipe = AUTO,
    settings: Sequence[str] = (),
    epochs: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    patience: int | None = None,
    input_size: int | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    finetune: str | Path | None = None,
    init: str | Path | None = None,
    teacher: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainingRun:
    """Train a detector, as `maenas train` does; arguments are its options, and as for `make_job`.

    The run lies in the folder `out`, runs/NAME unless given. `callbacks` hear of its events and may raise
    `StopTraining`. It may run in any thread; signals stop it with a checkpoint only in the main one.
    Raises `MaenasError` as `make_job` and `detector.train.train` do.
    """
    job = make_job(
        spec,
        data,
        recipe=recipe,
        settings=settings,
        epochs=epochs,
        batch=batch,
        seed=seed,
        patience=patience,
        input_size=input_size,
        device=device,
        finetune=finetune,
        init=init,
        teacher=teacher,
    )
    return run_job(job, device=device, out=out, resume=resume, callbacks=callbacks)


def run_job(
    job: Job,
    *,
    device: str = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> TrainingRun:
    """Train a job that is made already; the rest as for `train`. With `quiet` only `callbacks` tell of epochs."""
    folder = Path("runs") / job.name if out is None else Path(out)
    with join_world(device) as world:
        outcome = train_job(job, world, folder, resume=resume, callbacks=callbacks, quiet=quiet)
        is_main = world.is_main
    best = None if outcome.best_ap < 0 else outcome.best_ap
    return TrainingRun(folder, outcome.weights, best, outcome.metrics, outcome.reason, is_main)
