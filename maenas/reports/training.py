"""What a training run left beside its weights: losses and AP by epoch, the last evaluation; and sample detections."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from maenas.errors import MaenasError
from maenas.files import read_text
from maenas.reports.blocks import Note, Picture, Plot, Section, Table
from maenas.reports.figures import confusion_figure, curves_figure, precision_figure
from maenas.reports.origin import PART
from maenas.strict import parse_json

EPOCHS, METRICS = "epochs.jsonl", "evaluation/metrics.json"
EPOCH_ROWS = 40
MOST_CURVES = 20
PICTURES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
MOST_PICTURES, LARGEST_PICTURE = 8, 2_000_000  # bytes


@dataclass(frozen=True)
class Epoch:
    """One line of the log: mean losses, and COCO metrics where it was evaluated."""

    __pydantic_config__: ClassVar = PART
    epoch: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True)
class ClassResult:
    """AP of one class; None where it has no box."""

    __pydantic_config__: ClassVar = PART
    name: str
    boxes: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True)
class Confusion:
    """Counts, truth by prediction; the last row and column are the background."""

    __pydantic_config__: ClassVar = PART
    score: float
    iou: float
    matrix: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Curves:
    """Precision at IoU 0.5 for each recall, by class."""

    __pydantic_config__: ClassVar = PART
    recalls: tuple[float, ...]
    classes: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Evaluation:
    """COCO metrics of the weights."""

    __pydantic_config__: ClassVar = PART
    images: int
    summary: Mapping[str, float | None]
    per_class: tuple[ClassResult, ...]
    confusion: Confusion
    precision_at_iou50: Curves

    def __post_init__(self) -> None:
        side = len(self.per_class) + 1
        if len(self.confusion.matrix) != side or any(len(row) != side for row in self.confusion.matrix):
            raise MaenasError(f"the confusion matrix of {side - 1} classes must be {side} by {side}")


def training_sections(run: Path) -> list[Section]:
    """Sections about the run in the folder `run`; raises `MaenasError` for a file that is not what a run writes."""
    sections = []
    if (run / EPOCHS).is_file():
        sections.append(_epochs_section(_read_epochs(run / EPOCHS)))
    if (run / METRICS).is_file():
        path = run / METRICS
        sections.append(_evaluation_section(parse_json(read_text(path, what="metrics"), Evaluation, where=str(path))))
    return sections or [Section("Training", [Note(f"There is no {EPOCHS} and no {METRICS} beside the weights.")])]


def _read_epochs(path: Path) -> list[Epoch]:
    # A run that was killed while it wrote leaves a last line without an end.
    lines = [line for line in read_text(path, what="training log").splitlines(keepends=True) if line.endswith("\n")]
    epochs = [parse_json(line, Epoch, where=f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    if not epochs:
        raise MaenasError(f"training log {path}: is empty; no epoch has ended yet")
    return epochs


def _epochs_section(epochs: Sequence[Epoch]) -> Section:
    names = [name for name in epochs[0].losses if any(epoch.losses.get(name) for epoch in epochs)]
    numbers = [epoch.epoch for epoch in epochs]
    losses = {name: [epoch.losses.get(name) for epoch in epochs] for name in names}
    rated = [epoch for epoch in epochs if epoch.metrics is not None]
    step = -(-len(epochs) // EPOCH_ROWS)
    shown = [*epochs[:-1:step], epochs[-1]]
    rows = [[str(e.epoch), *(_number(e.losses.get(name)) for name in names), *_ap(e)] for e in shown]
    table = Table("Mean losses and AP by epoch", ["epoch", *names, "AP", "AP50"], rows)
    text = f"Curves of the losses {', '.join(names)} over {len(epochs)} epochs."
    blocks = [Plot("Losses", text, curves_figure(numbers, losses, "mean loss", log=True), table, height=340)]
    if rated:
        metrics = {name: [(e.metrics or {}).get(name) for e in rated] for name in ("AP", "AP50")}
        figure = curves_figure([e.epoch for e in rated], metrics, "average precision", log=False)
        best = max(rated, key=lambda epoch: (epoch.metrics or {}).get("AP", 0.0))
        text = f"AP and AP50 on the validation images; the best AP is {_ap(best)[0]} after epoch {best.epoch}."
        blocks.append(Plot("Average precision", text, figure, height=320))
    return Section("Training", blocks)


def _ap(epoch: Epoch) -> list[str]:
    return [_number((epoch.metrics or {}).get(name)) for name in ("AP", "AP50")]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _evaluation_section(result: Evaluation) -> Section:
    numbers = [_number(value) or "none" for value in result.summary.values()]
    summary = Table("COCO metrics", ["images", *result.summary], [[str(result.images), *numbers]])
    rows = [[row.name, str(row.boxes), _number(row.ap), _number(row.ap50)] for row in result.per_class]
    classes = Table("By class", ["class", "boxes", "AP", "AP50"], rows)
    curves = result.precision_at_iou50
    drawn = dict(list(curves.classes.items())[:MOST_CURVES])
    more = f"; the first {MOST_CURVES} of {len(curves.classes)} classes" if len(drawn) < len(curves.classes) else ""
    precision = Plot(
        f"Precision over recall at IoU 0.5{more}",
        f"Falling curves for {len(drawn)} classes; the AP50 of each is in the table by class.",
        precision_figure(curves.recalls, drawn),
        height=380,
    )
    names = [*(row.name for row in result.per_class), "background"]
    matrix = result.confusion.matrix
    cells = [[name, *map(str, row)] for name, row in zip(names, matrix, strict=True)]
    confusion = Plot(
        f"Confusion at score {result.confusion.score:g} and IoU {result.confusion.iou:g}",
        "Heat map of the truth by the prediction, as the share of each row; the counts are in the table.",
        confusion_figure(matrix, names),
        Table("Truth (rows) by prediction (columns)", ["", *names], cells),
        height=min(900, 220 + 26 * len(names)),
    )
    return Section("Evaluation", [summary, classes, precision, confusion])


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
