"""`maenas train` and `maenas eval`: parse, open, call, print."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from maenas.errors import MaenasError, printable_line

DataPath = Annotated[
    str, typer.Option("--data", help="A folder or file in COCO, YOLO or Pascal VOC format, or the word shapes.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]


def train_command(
    spec: Annotated[str, typer.Argument(help="A spec file, or the name of a shipped one.")],
    data: DataPath = "shapes",
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="small-data, finetune, damo, nano, demo, or a YAML file; auto chooses by data, weights and device.",
        ),
    ] = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe, e.g. augment.shear=0.2. Repeatable.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Length; warm-up and plain epochs scale with it.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Short for --set batch=N.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Short for --set seed=N.")] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Epochs without a better AP after which to stop: --set patience=N."),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input", help="Side of the square input. [default: the spec's; for the shapes 192, as they are]"
        ),
    ] = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run. [default: runs/SPEC]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it stopped.")] = False,
    finetune: Annotated[
        Path | None, typer.Option("--finetune", help="Weights to begin with; the number of classes may differ.")
    ] = None,
    teacher: Annotated[Path | None, typer.Option("--teacher", help="Weights of a detector to distil from.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Time a few steps, say what the run would take, and stop.")
    ] = False,
) -> None:
    """Train a detector, evaluating as it goes; leaves weights, checkpoints, logs and plots in --out.

    For several GPUs: torchrun --nproc-per-node 8 -m maenas train ...
    """
    from detector.data.shapes import SHAPES, SIZE
    from detector.device import choose_device
    from detector.distributed import join_world
    from detector.plan import plan_text
    from detector.recipe import AUTO, Recipe, choose_recipe, load_recipe, override
    from detector.train import train

    shorts = {"epochs": epochs, "batch": batch, "seed": seed, "patience": patience}
    texts = [*(settings or []), *(f"{key}={value}" for key, value in shorts.items() if value is not None)]
    if data == SHAPES:
        input_size = SIZE if input_size is None else input_size
    given = None if recipe == AUTO else override(load_recipe(recipe), texts)  # a mistake shows before data are read
    job = _job(spec, data, given or Recipe(), input_size=input_size, finetune=finetune, teacher=teacher)
    chosen = recipe
    if given is None:
        choice = choose_recipe(
            images=len(job.train),
            classes=len(job.train.names),
            device=choose_device(device).type,
            start=finetune is not None,
            shapes=data == SHAPES,
            depthwise=job.spec.backbone.stages[0].block == "k1dwk1",
        )
        job = replace(job, recipe=override(load_recipe(choice.name), texts))
        chosen = f"{choice.name} (chosen: {choice.why})"
    folder = out or Path("runs") / job.name
    with join_world(device) as world:
        if plan:
            text = plan_text(job, world)
            if world.is_main:
                print(f"{'recipe':<11}{chosen}\n{text}")
            return
        if world.is_main:
            _print_job(job, world, folder, chosen)
        outcome = train(job, world, folder, resume=resume)
        if world.is_main:
            _print_outcome(outcome, folder)


def _job(
    name: str, data: str, recipe: Any, *, input_size: int | None, finetune: Path | None, teacher: Path | None
) -> Any:
    """What the command describes; the data decide the classes."""
    from detector.data.dataset import align_names, open_dataset
    from detector.model.weights import load_net, read_weights
    from detector.train import Job
    from maenas.spec import InputSpec, load_spec

    stored = load_spec(name)
    train = open_dataset(data, "train")
    val = align_names(open_dataset(data, "val"), train.names)
    detector = replace(stored.detector, head=replace(stored.detector.head, num_classes=len(train.names)))
    if input_size is not None:
        size = InputSpec(input_size, input_size)
        detector = replace(detector, input=replace(detector.input, height=size.height, width=size.width))
    return Job(
        detector,
        stored.name,
        train,
        val,
        recipe,
        start=None if finetune is None else read_weights(finetune),
        teacher=None if teacher is None else load_net(teacher)[0],
        spec_file=stored,
    )


def _print_job(job: Any, world: Any, folder: Path, recipe: str) -> None:
    from detector.data.sample import summarise

    size = job.spec.input
    classes = ", ".join(map(printable_line, job.train.names[:8])) + (", ..." if len(job.train.names) > 8 else "")
    print(f"{'detector':<11}{job.name}, {size.height}x{size.width}, {len(job.train.names)} classes ({classes})")
    print(f"{'data':<11}{len(job.train)} images to train on, {len(job.val)} to evaluate on ({job.train.source})")
    for line in summarise((*job.train.problems, *job.val.problems)):
        print(f"{'left out':<11}{line}")
    if job.start is not None:
        print(f"{'start':<11}{_start_text(job)}")
    print(f"{'recipe':<11}{recipe}")
    print(f"{'run':<11}{job.recipe.epochs} epochs on {world.device}, in {folder}", flush=True)


def _start_text(job: Any) -> str:
    """What the weights to begin with do not cover."""
    from detector.model.net import DetectorNet
    from detector.model.weights import load_into

    report = load_into(DetectorNet(job.spec), job.start)
    parts = [
        f"{what} {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        for what, names in (("new", report.reinitialised), ("missing", report.missing), ("unused", report.unexpected))
        if names
    ]
    if not report.reinitialised and job.start.names != job.train.names:
        parts.append(f"the class convolutions were trained for {', '.join(map(printable_line, job.start.names[:8]))}")
    return f"given weights; {'; '.join(parts) or 'all tensors fit'}"


def _print_outcome(outcome: Any, folder: Path) -> None:
    if outcome.metrics is not None:
        print(f"\n{_metrics_text(outcome.metrics)}\n")
    ap = f" (AP {outcome.best_ap:.3f})" if outcome.best_ap >= 0 else ""
    print(f"wrote {outcome.weights}{ap}; logs and plots are in {folder}")


def eval_command(
    weights: Annotated[Path, typer.Argument(help="Weights (.safetensors), or an .onnx file that maenas exported.")],
    data: DataPath,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "val",
    conf: Annotated[
        float | None,
        typer.Option("--conf", help="Scores up to this do not count. [default: 0.001, or that of suppression in FILE]"),
    ] = None,
    iou: Annotated[
        float | None,
        typer.Option(
            "--iou", help="Of two boxes that overlap more the worse is dropped. [default: 0.7, or as for --conf]"
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images at once.")] = 16,
    device: Device = "auto",
    plots: Annotated[Path | None, typer.Option("--plots", help="Folder for metrics.json and plots.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but one JSON document.")] = False,
) -> None:
    """Measure the average precision of a detector on a data set."""
    from tqdm import tqdm

    from detector.data.dataset import align_names, open_dataset
    from detector.distributed import World
    from detector.evaluate import evaluate, write_report
    from detector.predict import Detector
    from detector.truth_picture import truth_and_predictions
    from detector.validate import detect_dataset, lowest_thresholds

    if split not in ("train", "val", "test"):
        raise MaenasError(f"--split is {split!r}; choose train, val, test")
    if batch < 1:
        raise MaenasError(f"--batch is {batch}; it must be at least 1")
    detector = Detector.load(weights, device)
    dataset = align_names(open_dataset(data, split), detector.names)
    lowest = lowest_thresholds(detector)
    conf, iou = lowest[0] if conf is None else conf, lowest[1] if iou is None else iou
    with tqdm(total=len(dataset), unit=" images", desc="eval", disable=as_json or not sys.stderr.isatty()) as bar:
        world = World(0, 1, detector.device)
        found = detect_dataset(detector, dataset, world, conf=conf, iou=iou, batch=batch, on_images=bar.update)
    metrics = evaluate(dataset, found)
    if plots is not None:
        write_report(metrics, plots, truth_and_predictions(dataset, found))
    if as_json:
        settings = {"weights": str(weights), "data": dataset.source, "split": split, "conf": conf, "iou": iou}
        print(json.dumps({"command": "eval", **settings, **metrics.document()}))
        return
    print(_metrics_text(metrics))
    if plots is not None:
        print(f"wrote {plots}")


def _metrics_text(metrics: Any) -> str:
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
    return f"{columns(table)}\n{others}\n{metrics.images} images{unread}"
