"""What a training run left beside its weights: losses, rate and AP by epoch, its pictures; and sample detections."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from maenas.errors import MaenasError
from maenas.reports.blocks import Block, Note, Picture, Plot, Section, Table
from maenas.reports.evaluation import evaluation_section, number_text
from maenas.reports.training_figures import curves_figure
from maenas.run_files import (
    BATCH_PICTURE,
    EPOCHS_FILE,
    EVALUATION,
    LABELS_PICTURE,
    METRICS_FILE,
    STEPS_FILE,
    TRUTH_PICTURE,
    Epoch,
    read_epochs,
    read_evaluation,
    read_rates,
)

EPOCH_ROWS = 40
MOST_RATES = 400  # points of the curve of the learning rate
PICTURES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
MOST_PICTURES, LARGEST_PICTURE = 8, 2_000_000  # bytes
RUN_PICTURES = {
    f"{EVALUATION}/{TRUTH_PICTURE}": "Truth beside prediction: validation images with their boxes, and what was found",
    LABELS_PICTURE: "Labels of the training data",
    BATCH_PICTURE: "First batch, as the network gets it",
}


def training_sections(run: Path) -> list[Section]:
    """Sections about the run in the folder `run`; raises `MaenasError` for a file that is not what a run writes."""
    sections = []
    if (run / EPOCHS_FILE).is_file():
        rates = read_rates(run / STEPS_FILE) if (run / STEPS_FILE).is_file() else ([], [])
        sections.append(_epochs_section(read_epochs(run / EPOCHS_FILE), *rates))
    metrics = run / EVALUATION / METRICS_FILE
    if metrics.is_file():
        sections.append(evaluation_section(read_evaluation(metrics)))
    pictures = _run_pictures(run)
    if pictures:
        sections.append(Section("Pictures of the run", pictures))
    missing = f"There is no {EPOCHS_FILE} and no {EVALUATION}/{METRICS_FILE} beside the weights."
    return sections or [Section("Training", [Note(missing)])]


def _epochs_section(epochs: Sequence[Epoch], steps: Sequence[int], rates: Sequence[float]) -> Section:
    names = [name for name in epochs[0].losses if any(epoch.losses.get(name) for epoch in epochs)]
    numbers = [epoch.epoch for epoch in epochs]
    losses = {name: [epoch.losses.get(name) for epoch in epochs] for name in names}
    rated = [epoch for epoch in epochs if epoch.metrics is not None]
    pace = -(-len(epochs) // EPOCH_ROWS)
    shown = [*epochs[:-1:pace], epochs[-1]]
    rows = [[str(e.epoch), *(number_text(e.losses.get(name)) for name in names), *_ap(e)] for e in shown]
    table = Table("Mean losses and AP by epoch", ["epoch", *names, "AP", "AP50"], rows)
    text = f"Curves of the losses {', '.join(names)} over {len(epochs)} epochs."
    blocks = [Plot("Losses", text, curves_figure(numbers, losses, "mean loss", log=True), table, height=360)]
    if rated:
        metrics = {name: [(e.metrics or {}).get(name) for e in rated] for name in ("AP", "AP50")}
        figure = curves_figure([e.epoch for e in rated], metrics, "average precision")
        best = max(rated, key=lambda epoch: (epoch.metrics or {}).get("AP", 0.0))
        text = f"AP and AP50 on the validation images; the best AP is {_ap(best)[0]} after epoch {best.epoch}."
        blocks.append(Plot("Average precision", text, figure, height=340))
    if steps:
        blocks.append(_rate_plot(steps, rates))
    return Section("Training", blocks)


def _rate_plot(steps: Sequence[int], rates: Sequence[float]) -> Plot:
    pace = -(-len(steps) // MOST_RATES)
    x, y = [*steps[:-1:pace], steps[-1]], [*rates[:-1:pace], rates[-1]]
    figure = curves_figure(x, {"learning rate": y}, "learning rate", axis="step")
    text = f"Learning rate over {len(steps)} steps: highest {max(rates):.3g}, at the end {rates[-1]:.3g}."
    return Plot("Learning rate", text, figure, height=300)


def _ap(epoch: Epoch) -> list[str]:
    return [number_text((epoch.metrics or {}).get(name)) for name in ("AP", "AP50")]


# Pictures -----------------------------------------------------------------------------------------------------------


def _run_pictures(run: Path) -> list[Block]:
    found = ((run / name, text) for name, text in RUN_PICTURES.items())
    try:
        return [
            Picture(text, _data_uri(path))
            for path, text in found
            if path.is_file() and path.stat().st_size <= LARGEST_PICTURE
        ]
    except OSError as error:
        raise MaenasError(f"{run}: its pictures cannot be read: {error.strerror or error}") from error


def detections_section(folder: Path) -> Section:
    """Some of the drawings that `maenas detect` wrote into `folder`; raises `MaenasError` if there are none."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
        fitting = [path for path in paths if path.stat().st_size <= LARGEST_PICTURE][:MOST_PICTURES]
        pictures = [Picture(path.name, _data_uri(path)) for path in fitting]
    except OSError as error:
        raise MaenasError(f"{folder}: cannot be read: {error.strerror or error}") from error
    if not pictures:
        raise MaenasError(
            f"{folder}: no picture of at most 2 MB (.jpg, .png); name the folder that maenas detect wrote"
        )
    return Section("Sample detections", [Note(f"{len(pictures)} of {len(paths)} pictures."), *pictures])


def _data_uri(path: Path) -> str:
    return f"data:{PICTURES[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode()}"
