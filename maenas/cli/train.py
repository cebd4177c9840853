"""`maenas train` and `maenas eval`: parse, call, print."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from detector.choices import Split
from maenas.cli.detector_options import AsJson, DataSet, Device, Runtime
from maenas.cli.extras import require_extra, require_runtime
from maenas.cli.options import output_folder
from maenas.errors import printable_line
from maenas.units import number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detector.choices import TrackerName
    from detector.evaluate import Metrics
    from detector.events import BeginEvent, Callback, Event
    from detector.job import Job
    from detector.run import TrainingRun


class Tracker(StrEnum):
    """`TrackerName` as typer takes it in a list."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


@dataclass(frozen=True)
class Training:
    """How a detector is trained; field by field as in `maenas.train`."""

    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="small-data, finetune, damo, nano, demo, or a YAML file; auto chooses by data, weights and device.",
        ),
    ] = "auto"
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", help="Number of epochs; warm-up and plain epochs scale with it.", min=1, max=1_000_000
        ),
    ] = None
    batch: Annotated[int | None, typer.Option("--batch", help="Short for --set batch=N.", min=1, max=1_000_000)] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Short for --set seed=N.", min=0, max=2**63 - 1)] = None
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            help="Stop after this many epochs without a better AP: --set patience=N.",
            min=0,
            max=1_000_000,
        ),
    ] = None
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input",
            help="Side of the square input.",
            show_default="the spec's; for the shapes 192, as they are",
            min=32,
            max=8192,
        ),
    ] = None
    device: Device = "auto"
    finetune: Annotated[
        Path | None,
        typer.Option("--finetune", help="Weights, or a run, to start from; the number of classes may differ."),
    ] = None
    init: Annotated[
        Path | None,
        typer.Option("--init", help="Weights of a detector of other widths and depths to inherit from."),
    ] = None
    teacher: Annotated[
        Path | None, typer.Option("--teacher", help="Weights, or the run, of a detector to learn from.")
    ] = None


def train_command(
    *,
    spec: Annotated[str, typer.Argument(help="A spec file, or the name of a shipped one.")],
    data: DataSet = "shapes",
    training: Training,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe, e.g. augment.shear=0.2. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run.", show_default="runs/SPEC", callback=output_folder)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out from where it stopped.")] = False,
    log: Annotated[
        list[Tracker] | None,
        typer.Option(
            "--log", help="Also log to this tracker. Repeatable.", show_default="tensorboard where it is installed"
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Time a few steps, print what the run would take, and stop.")
    ] = False,
) -> None:
    """Train a detector, evaluating as it goes; leaves weights, checkpoints, logs and plots in --out.

    For several GPUs: torchrun --nproc-per-node 8 -m maenas train ...
    """
    require_extra("detector")
    from detector.job import make_job
    from detector.plan import plan_job
    from detector.run import run_job

    trackers = [] if plan else _trackers(log)
    job = make_job(spec, data, settings=settings or (), **vars(training))
    if plan:
        print(plan_job(job, training.device), end="")
        return
    run = run_job(job, device=training.device, out=out, resume=resume, callbacks=[_announce(job), *trackers])
    if run.is_main:
        _print_outcome(run)


def _trackers(names: Sequence[Tracker] | None) -> list[Callback]:
    from detector.trackers import is_installed, tracker

    if names is None:
        return [tracker("tensorboard")] if is_installed("tensorboard") else []
    return [tracker(cast("TrackerName", name.value)) for name in dict.fromkeys(names)]


def _announce(job: Job) -> Callback:
    from detector.events import BeginEvent

    def announce(event: Event) -> None:
        if isinstance(event, BeginEvent):
            _print_job(job, event)

    return announce


def _print_job(job: Job, begin: BeginEvent) -> None:
    from detector.data.sample import UNUSED_CLASS, summarise
    from detector.job import leak_text, start_text
    from detector.reach import reach_texts

    size = job.spec.input
    classes = ", ".join(map(printable_line, job.train.names[:8])) + (", ..." if len(job.train.names) > 8 else "")
    rated = 0 if job.val is None else len(job.val)
    problems = (*job.train.problems, *(() if job.val is None else job.val.problems))
    known = f"{number_of(len(job.train.names), 'class')} ({classes})"
    print(f"{'detector':<11}{job.name}, {size.height}x{size.width}, {known}")
    print(f"{'data':<11}{number_of(len(job.train), 'image')} to train on, {rated} to evaluate on ({job.train.source})")
    for line in summarise([problem for problem in problems if problem.kind != UNUSED_CLASS]):
        print(f"{'left out':<11}{line}")
    for line in summarise([problem for problem in job.train.problems if problem.kind == UNUSED_CLASS]):
        print(f"{'note':<11}{line}")
    if text := leak_text(job):
        print(f"{'warning':<11}{text}")
    for text in reach_texts(job.spec, job.train):
        print(f"{'note':<11}{text}")
    if text := start_text(job):
        print(f"{'start':<11}{text}")
    print(f"{'recipe':<11}{job.chosen}")
    print(f"{'run':<11}{number_of(job.recipe.epochs, 'epoch')} on {begin.device}, in {begin.folder}", flush=True)


def _print_outcome(run: TrainingRun) -> None:
    if run.metrics is not None:
        print(f"\n{_metrics_text(run.metrics)}\n")
    ap = "" if run.best_ap is None else f" (AP {run.best_ap:.3f})"
    print(f"wrote {run.weights}{ap}; logs and plots are in {run.folder}")


@dataclass(frozen=True)
class Rating:
    """How a detector is rated; field by field as in `maenas.evaluate`."""

    split: Annotated[Split, typer.Option("--split", help="Part of the data set.")] = "val"
    conf: Annotated[
        float | None,
        typer.Option(
            "--conf",
            help="Boxes with a score up to this do not count.",
            show_default="0.001, or that of suppression in FILE",
            min=0,
            max=1,
        ),
    ] = None
    iou: Annotated[
        float | None,
        typer.Option(
            "--iou",
            help="Of two boxes that overlap more than this, the worse one is dropped.",
            show_default="0.7, or as for --conf",
            min=0,
            max=1,
        ),
    ] = None
    batch: Annotated[int, typer.Option("--batch", help="Images at once.", min=1, max=1024)] = 16
    device: Device = "auto"
    runtime: Runtime = None
    plots: Annotated[
        Path | None, typer.Option("--plots", help="Folder for metrics.json and plots.", callback=output_folder)
    ] = None


def eval_command(
    *,
    weights: Annotated[
        Path, typer.Argument(help="Folder of a run, weights (.safetensors), or an .onnx file that maenas exported.")
    ],
    data: DataSet,
    rating: Rating,
    as_json: AsJson = False,
) -> None:
    """Measure the average precision of a detector on a data set."""
    require_runtime(rating.runtime)
    from tqdm import tqdm

    from detector.rate import evaluate

    with tqdm(unit=" images", desc="eval", disable=as_json or not sys.stderr.isatty()) as bar:

        def on_images(done: int, all: int) -> None:
            bar.total = all
            bar.update(done - bar.n)

        rated = evaluate(weights, data, on_images=on_images, **vars(rating))
    if as_json:
        print(json.dumps({"command": "eval", **rated.document()}))
        return
    print(_metrics_text(rated.metrics))
    if rating.plots is not None:
        print(f"wrote {rating.plots}")


def _metrics_text(metrics: Metrics) -> str:
    """AP of every class, and the numbers over all of them."""
    from maenas.reports.text import columns

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    table = [["class", "boxes", "AP", "AP50"]]
    table += [[entry.name, str(entry.boxes), shown(entry.ap), shown(entry.ap50)] for entry in metrics.per_class]
    summary = metrics.summary
    table.append(
        ["all", str(sum(entry.boxes for entry in metrics.per_class)), *map(shown, map(summary.get, ("AP", "AP50")))]
    )
    others = "  ".join(f"{name} {shown(value)}" for name, value in summary.items() if name not in ("AP", "AP50"))
    left_out = metrics.listed_images - metrics.images
    unread = f"; {left_out} more could not be read" if left_out else ""
    return f"{columns(table)}\n{others}\n{number_of(metrics.images, 'image')}{unread}"
