"""A training run from start to finish: epochs, evaluation, checkpoints, resuming.

A run lives in one folder: `last.pt` and `best.pt` (to go on from), `weights.safetensors` (to use), the recipe, logs and
plots. Everything that decides the course of the weights follows from the job and the step, so that a run that was
killed and resumed ends as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch

from detector.checkpoint import (
    LAST,
    TrainingCheckpoint,
    check_same_run,
    how_to_go_on,
    read_checkpoint,
    take_folder,
    write_checkpoint,
)
from detector.data.label_plot import label_plot
from detector.data.loader import Batch, lost_loaders
from detector.data.pictures import Reports
from detector.distributed import (
    World,
    any_process,
    from_main,
    lost_processes,
    mean_over_processes,
    told_by_main,
    wait_for_all,
    was_restarted,
)
from detector.evaluate import Metrics, evaluate, write_report
from detector.events import (
    BeginEvent,
    Callback,
    EndEvent,
    EndReason,
    EpochEvent,
    EvaluationEvent,
    Listeners,
    Outcome,
    StepEvent,
    StopTraining,
)
from detector.guard import LossNotFiniteError, LossReader
from detector.job import Job, assemble_run, fingerprint, worker_count
from detector.log import TrainingLog, batch_picture, curves_plot
from detector.model.weights import write_weights
from detector.postprocess import Detections
from detector.process import algorithms, stop_requested
from detector.step import is_rated, states, step_lr, train_step
from detector.truth_picture import truth_and_predictions
from detector.validate import detect_in_training
from maenas.errors import MaenasError
from maenas.files import reason, write_atomic
from maenas.run_files import BATCH_PICTURE, EVALUATION, LABELS_PICTURE, WEIGHTS_FILE
from maenas.strict import dump_json

SAVING_SHARE = 0.05  # of a run's time that checkpoints at the ends of short epochs may take
BEST, RECIPE = "best.pt", "recipe.json"


def train(
    job: Job, world: World, out: Path, *, resume: bool = False, callbacks: Sequence[Callback] = (), quiet: bool = False
) -> Outcome:
    """Train `job` in the folder `out`; with `resume` go on where a run of the same job stopped there, if one did.

    The `callbacks` of the main process hear of every event (`detector.events`) and may end the run early; with
    `quiet` only they tell of epochs.
    Raises MaenasError if `out` holds a run and `resume` is not set, or a run of another job; at a loss that is not
    finite; if the disk is full; if a loading process is killed; and when interrupted. In the last four cases the last
    checkpoint is whole.
    """
    last = out / LAST
    listeners = Listeners(callbacks if world.is_main else (), quiet=quiet)
    try:
        with ExitStack() as stack:
            stack.enter_context(lost_processes(lambda: how_to_go_on(last)))
            stack.enter_context(lost_loaders(lambda: how_to_go_on(last)))
            data = from_main(world, lambda: take_folder(out, stack, resume=resume or was_restarted()))
            stack.enter_context(algorithms(deterministic=job.recipe.deterministic))
            stopped = stack.enter_context(stop_requested(world))
            with told_by_main(world):
                stored = read_checkpoint(last, data) if data else None
                run = _Run(job, world, out, stored, stopped, listeners)
            return run.go()
    except KeyboardInterrupt:
        raise MaenasError(f"interrupted; {how_to_go_on(last)}") from None
    except OSError as error:
        raise MaenasError(f"the run in {out} stopped: {reason(error)}. {how_to_go_on(last)}") from error


class _Run:
    """The state of a run: `step` steps done, of which the first `closed` epochs are evaluated and logged."""

    def __init__(
        self,
        job: Job,
        world: World,
        out: Path,
        stored: TrainingCheckpoint | None,
        stopped: Callable[[], bool],
        listeners: Listeners,
    ) -> None:
        self.job, self.world, self.out, self.stopped, self.listeners = job, world, out, stopped, listeners
        self.data = fingerprint(job)
        self.step, self.closed, self.best_ap, self.best_epoch = 0, 0, -1.0, 0
        if stored is not None:
            check_same_run(stored, spec=job.spec, recipe=job.recipe, data=self.data, path=out / LAST)
            self.step, self.closed = stored.step, stored.closed
            self.best_ap, self.best_epoch = stored.best_ap, stored.best_epoch
        self.parts, self.loader, self.batch = assemble_run(job, world, stored)
        steps = self.parts.schedule.steps_per_epoch
        if not self.closed <= job.recipe.epochs or not self.closed * steps <= self.step <= (self.closed + 1) * steps:
            raise MaenasError(f"checkpoint {out / LAST}: damaged; {self.step} steps do not end in epoch {self.closed}")
        self.reader = LossReader(out, world)
        self.reports = Reports(() if job.val is None else job.val.samples[world.rank :: world.size])
        self.metrics: Metrics | None = None
        self.found: Mapping[int, Detections] = {}  # of the last evaluation
        self.report: tuple[Metrics, Path, bytes] | None = None  # of the best one, until it is written
        self.saved_at, self.saving_s = time.monotonic(), 0.0

    def go(self) -> Outcome:
        """All epochs that are left."""
        why: EndReason = "failed"
        try:
            self._begin()
            why = self._epochs()
        finally:
            best = None if self.best_ap < 0 else self.best_ap
            self.listeners.tell(EndEvent(self.step, why, self.out / WEIGHTS_FILE, best))
        return Outcome(self.out / WEIGHTS_FILE, self.best_ap, self.metrics, why)

    def _begin(self) -> None:
        recipe, total = self.job.recipe, self.parts.schedule.total
        if self.world.is_main:
            write_atomic(self.out / RECIPE, dump_json(recipe))
        device = str(self.world.device)
        done = (self.step, total, recipe.epochs, self.closed)
        begin = BeginEvent(self.out, self.job.name, recipe, device, self.batch, *done)
        self.listeners.tell(begin)

    def _epochs(self) -> EndReason:
        """Train, and leave weights and plots; returns why it ended."""
        why: EndReason = "finished"
        with ExitStack() as stack:
            log = None
            if self.world.is_main:
                total = self.parts.schedule.total
                quiet = self.listeners.quiet
                told = TrainingLog(self.out, step=self.step, closed=self.closed, total_steps=total, quiet=quiet)
                log = stack.enter_context(told)
            first = self.parts.schedule.first_batch(self.step)
            batches = stack.enter_context(closing(self.loader.batches(first)))
            try:
                for epoch in range(self.closed, self.job.recipe.epochs):
                    if self._ends_early():
                        why = "stopped" if self.listeners.stop_asked else "patience"
                        if log is not None and why == "patience":
                            log.say(f"stopped: no better AP than {self.best_ap:.3f} since epoch {self.best_epoch}")
                        break
                    self._epoch(epoch, batches, log)
            except StopTraining:
                why = "stopped"
        if self.world.is_main:
            if not (self.out / WEIGHTS_FILE).exists():  # stopped before the first evaluation
                self._write_weights()
            write_atomic(self.out / "curves.png", curves_plot(self.out))
        return why

    def _epoch(self, epoch: int, batches: Iterator[Batch], log: TrainingLog | None) -> None:
        """What is left of an epoch, its evaluation, and its checkpoint."""
        began = time.monotonic()
        schedule = self.parts.schedule
        while self.step < (epoch + 1) * schedule.steps_per_epoch:
            count = schedule.first_batch(self.step + 1) - schedule.first_batch(self.step)
            group = list(islice(batches, count))
            if self.step == 0 and self.world.is_main:
                write_atomic(self.out / LABELS_PICTURE, label_plot(self.job.train))
                write_atomic(self.out / BATCH_PICTURE, batch_picture(group[0], self.job.train.names))
            self.reader.push(self.step, group, train_step(self.parts, group, self.step))
            self.step += 1
            self._tell(log, everything=False)
            self._save_if_due(log)
        self._tell(log, everything=True)
        trained = time.monotonic()
        metrics = self._evaluate(log) if is_rated(self.job.recipe, epoch) else None
        self.closed = epoch + 1
        if log is not None:
            seconds, rating = time.monotonic() - began, time.monotonic() - trained
            scalars = None if metrics is None else metrics.scalars()
            row = log.epoch(self.closed, step=self.step, seconds=seconds, evaluation=rating, metrics=scalars)
            if metrics is not None:
                is_best = (metrics.summary["AP"] or 0.0) > self.best_ap
                self.listeners.tell(EvaluationEvent(self.closed, self.step, metrics, is_best))
            self.listeners.tell(EpochEvent(self.closed, self.step, seconds, row.losses))
            self._store(metrics, log)
            log.say_epoch(row)  # after it is stored

    def _tell(self, log: TrainingLog | None, *, everything: bool) -> None:
        """Read the losses of some steps ago, or all; stops the run, in all processes, at one that is not finite."""
        try:
            for row in self.reader.arrived(everything=everything):
                if log is not None:
                    epoch = row.step // self.parts.schedule.steps_per_epoch + 1
                    lr, images = step_lr(self.parts, row.step), row.images * self.world.size
                    speed = log.step(row.step + 1, epoch=epoch, lr=lr, losses=row.losses, images=images, at=row.at)
                    self.listeners.tell(StepEvent(row.step + 1, epoch, lr, row.losses, speed))
        except LossNotFiniteError:
            wait_for_all()  # until each has stored its batch: torchrun ends the others with the first
            with told_by_main(self.world):
                raise

    def _ends_early(self) -> bool:
        """Whether a callback asked to stop, or the patience is over; the same in all processes."""
        here = self.world.is_main and (self._is_stale() or self.listeners.stop_asked)  # the others know neither
        return mean_over_processes(torch.tensor(float(here), device=self.world.device)).item() > 0

    def _is_stale(self) -> bool:
        """Whether AP has not risen for as many epochs as the patience, at the last evaluation."""
        recipe = self.job.recipe
        rated = next((epoch for epoch in range(self.closed, 0, -1) if is_rated(recipe, epoch - 1)), 0)
        return self.job.val is not None and rated > 0 and 0 < recipe.patience <= rated - self.best_epoch

    def _evaluate(self, log: TrainingLog | None) -> Metrics | None:
        """Metrics of the averaged weights; None without validation data, and on all but the main process."""
        if self.job.val is None:
            return None
        found = detect_in_training(
            self.parts,
            self.job.val,
            batch=self.batch // self.world.size,
            workers=worker_count(self.job.recipe),
            reports=self.reports,
            on_images=lambda _: self._save_if_stopped(log),
        )
        self.found = found
        return evaluate(self.job.val, found) if self.world.is_main else None

    def _save_if_stopped(self, log: TrainingLog | None) -> None:
        """During an evaluation, which the resumed run begins again."""
        if any(any_process(self.stopped())):
            self._save(LAST, log)
            self._interrupt()

    def _interrupt(self) -> NoReturn:
        """Ends every process, once the checkpoint is written: torchrun ends the others with the first."""
        wait_for_all()
        with told_by_main(self.world):
            raise MaenasError(f"interrupted after step {self.step}; {how_to_go_on(self.out / LAST)}")

    def _save_if_due(self, log: TrainingLog | None) -> None:
        """Asked after each step, with one answer for all processes, whichever of them a signal has reached."""
        asked = self.listeners.stop_asked and self.world.size == 1
        late = time.monotonic() - self.saved_at >= 60 * self.job.recipe.checkpoint_minutes
        stopped, due = any_process(self.stopped(), self.world.is_main and (asked or late))
        if stopped or due:
            self._tell(log, everything=True)  # no checkpoint is younger than a loss that is not finite
            self._save(LAST, log)
        if stopped:
            self._interrupt()
        if asked:
            raise StopTraining

    def _store(self, metrics: Metrics | None, log: TrainingLog) -> None:
        """Keep the run, and the averaged weights where they are the best so far or nothing tells.

        The last checkpoint comes last, with the report of the best: a run that dies before it does all of this again.
        They may be left to a later epoch where epochs are so short that saving would take much of the time.
        """
        ap = -1.0 if metrics is None else metrics.summary["AP"] or 0.0
        if ap > self.best_ap or (self.job.val is None and self.closed == self.job.recipe.epochs):
            self.best_ap, self.best_epoch, self.metrics = ap, self.closed, metrics
            self._write_weights()
            if metrics is not None and self.job.val is not None:
                self.report = metrics, self.out / EVALUATION, truth_and_predictions(self.job.val, self.found)
            self._save(BEST, log)
        ended = self._is_stale() or self.listeners.stop_asked or self.closed == self.job.recipe.epochs
        if ended or time.monotonic() - self.saved_at >= self.saving_s / SAVING_SHARE:
            self._save(LAST, log)

    def _write_weights(self) -> None:
        about = {"trained_as": self.job.name, "steps": str(self.step), "data": self.job.train.source}
        if self.best_ap >= 0:
            about["AP"] = f"{self.best_ap:.6f}"
        names, file = self.job.train.names, self.job.spec_file
        write_weights(self.out / WEIGHTS_FILE, self.parts.average, self.job.spec, names, metadata=about, spec_file=file)

    def _save(self, name: str, log: TrainingLog | None) -> None:
        if log is None:
            return
        began = time.monotonic()
        log.keep()
        if name == LAST and self.report is not None:
            write_report(*self.report)
            self.report = None
        checkpoint = TrainingCheckpoint(
            spec=self.job.spec,
            names=self.job.train.names,
            recipe=self.job.recipe,
            batch=self.batch,
            data=self.data,
            step=self.step,
            closed=self.closed,
            best_ap=self.best_ap,
            best_epoch=self.best_epoch,
            **states(self.parts),
        )
        write_checkpoint(self.out / name, checkpoint)
        if name == LAST:
            self.saved_at, self.saving_s = time.monotonic(), time.monotonic() - began
