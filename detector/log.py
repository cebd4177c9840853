"""What a training run tells while it goes on and afterwards: bar, files, plots."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from detector.data.loader import Batch
from detector.draw import Tile, encoded, figure_png, sheet
from detector.plots import tidy
from detector.step import LOSSES
from maenas.errors import MaenasError
from maenas.files import write_atomic
from maenas.run_files import EPOCHS_FILE, STEPS_FILE, Epoch, whole_lines
from maenas.strict import parse_json

MOST_DRAWN = 16  # images of the first batch
COLUMNS = ("step", "epoch", "lr", *LOSSES, "images_per_s")


class TrainingLog:
    """Bar and files of a run in the folder `out`, which goes on after `step` steps and `closed` epochs.

    Rows of later ones, from a run that was killed, are dropped first.

    With `quiet` no line tells of an epoch. Use as a context manager. Raises OSError if a file cannot be written.
    """

    def __init__(self, out: Path, *, step: int, closed: int, total_steps: int, quiet: bool = False) -> None:
        begun = _keep_until(out, step, closed)
        self._quiet = quiet
        self._steps: TextIO = (out / STEPS_FILE).open("a", buffering=1, newline="", encoding="utf-8")
        self._epochs: TextIO = (out / EPOCHS_FILE).open("a", encoding="utf-8")
        self._rows = csv.writer(self._steps, lineterminator="\n")
        self._show = sys.stderr.isatty()
        columns, rows = shutil.get_terminal_size()  # tqdm shows nothing where a terminal claims to have none
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            unit=" steps",
            desc="train",
            disable=not self._show,
            ncols=columns,
            nrows=rows,
        )
        self._last = time.monotonic()
        self._shown = self._last
        self._sums = {name: sum(row[name] for row in begun) for name in LOSSES}
        self._count = len(begun)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # closes them all, though one may fail on a full disk
            for thing in (self._steps, self._epochs, self._bar):
                stack.callback(thing.close)

    def step(self, step: int, *, epoch: int, lr: float, losses: Mapping[str, float], images: int, at: float) -> float:
        """One step, counted from 1, of `images` images, made at `at` (monotonic seconds); returns images a second."""
        speed = images / max(at - self._last, 1e-9)
        self._last = at
        values = [losses[name] for name in LOSSES]
        self._rows.writerow([step, epoch, f"{lr:.8g}", *(f"{value:.6g}" for value in values), f"{speed:.4g}"])
        for name, value in zip(LOSSES, values, strict=True):
            self._sums[name] += value
        self._count += 1
        self._bar.update(step - self._bar.n)
        if self._show and at - self._shown > 0.5:
            self._shown = at
            shown: dict[str, object] = {"epoch": epoch}
            shown |= {name: f"{value:.3f}" for name, value in zip(LOSSES, values, strict=True) if value}
            self._bar.set_postfix(shown | {"lr": f"{lr:.2e}", "images/s": f"{speed:.1f}"}, refresh=False)
        return speed

    def epoch(
        self, epoch: int, *, step: int, seconds: float, evaluation: float, metrics: Mapping[str, float] | None
    ) -> Epoch:
        """The end of an epoch, counted from 1, after `step` steps; `metrics` where it was evaluated.

        `seconds` are all that it took, `evaluation` those of them that went to its evaluation.
        """
        means = {name: total / max(self._count, 1) for name, total in self._sums.items()}
        row = Epoch(epoch, step, round(seconds, 3), means)
        if metrics is not None:
            row = replace(row, metrics=dict(metrics), evaluation_seconds=round(evaluation, 3))
        self._epochs.write(row.line())
        self._sums = dict.fromkeys(LOSSES, 0.0)
        self._count = 0
        self._last = time.monotonic()  # evaluation is not part of the next step
        return row

    def keep(self) -> None:
        """Have everything told so far on the disk, before a checkpoint says that it happened."""
        for file in (self._steps, self._epochs):
            file.flush()
            os.fsync(file.fileno())

    def say_epoch(self, row: Epoch) -> None:
        """Prints an epoch above the bar."""
        if not self._quiet:
            self.say(_epoch_text(row))

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()


def _epoch_text(row: Epoch) -> str:
    losses = "  ".join(f"{name} {value:.3f}" for name, value in row.losses.items() if value)
    metrics = row.metrics or {}
    shown = [f"  {name} {metrics[name]:.3f}" for name in ("AP", "AP50") if name in metrics]
    if row.evaluation_seconds is not None:
        shown.append(f"  (evaluation {row.evaluation_seconds:.1f} s)")
    return f"epoch {row.epoch:>4}  {row.seconds:6.1f} s  {losses}" + "".join(shown)


def _keep_until(out: Path, step: int, closed: int) -> list[dict[str, float]]:
    """Drops what the files say about later steps and epochs: the run goes on from there and will say it again.

    Returns the rows of the steps that stay and belong to no epoch that does.
    """
    steps, epochs = out / STEPS_FILE, out / EPOCHS_FILE
    try:
        rows = whole_lines(steps)[1:] if step and steps.exists() else []
        done = [row for row in rows if _cells(row)["step"] <= step]
        rows = whole_lines(epochs) if step and epochs.exists() else []
        ended = [row for row in rows if parse_json(row, Epoch, where=str(epochs)).epoch <= closed]
    except ValueError as error:  # also a MaenasError
        raise MaenasError(f"{steps} or {epochs.name} is damaged ({error}); remove both to go on without") from error
    write_atomic(steps, "".join([",".join(COLUMNS) + "\n", *done]))
    write_atomic(epochs, "".join(ended))
    return [cells for cells in map(_cells, done) if cells["epoch"] > closed]


def _cells(line: str) -> dict[str, float]:
    """A row of `steps.csv`; raises `ValueError` for one that is short, or holds anything but numbers."""
    cells = line.rstrip("\n").split(",")
    if len(cells) != len(COLUMNS):
        raise ValueError(f"a row of {len(cells)} instead of {len(COLUMNS)} cells")
    return dict(zip(COLUMNS, map(float, cells), strict=True))


def curves_plot(out: Path) -> bytes:
    """Losses, learning rate and AP of the run in `out`, as PNG."""
    with (out / STEPS_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [json.loads(line) for line in (out / EPOCHS_FILE).read_text(encoding="utf-8").splitlines()]
    steps = [int(row["step"]) for row in rows]
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name in LOSSES:
        values = np.array([float(row[name]) for row in rows])
        if values.any():
            (line,) = left.plot(steps, _smooth(values), label=name, linewidth=1.6)
            left.plot(steps, values, color=line.get_color(), linewidth=0.6, alpha=0.3)
    left.set(title="loss", xlabel="step", yscale="log")
    middle.plot(steps, [float(row["lr"]) for row in rows])
    middle.set(title="learning rate", xlabel="step")
    middle.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    evaluated = [row for row in epochs if "metrics" in row]
    for name in ("AP", "AP50"):
        values = [row["metrics"].get(name, 0.0) for row in evaluated]
        right.plot([row["epoch"] for row in evaluated], values, "o-", markersize=3, label=name)
    right.set(title="validation", xlabel="epoch", ylim=(0, None))
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, middle, right):
        tidy(axes)
    for axes in (left, right):  # under the axes, where it covers nothing
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(LOSSES), frameon=False)
    return figure_png(figure)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over the steps around each one, a fiftieth of the run."""
    reach = max(1, len(values) // 100)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    starts = np.maximum(np.arange(len(values)) - reach, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def batch_picture(batch: Batch, names: tuple[str, ...]) -> bytes:
    """The first images of a batch with their boxes, as the network gets them, as JPEG."""
    tiles = []
    rows = zip(batch.images[:MOST_DRAWN], batch.boxes, batch.labels, strict=False)
    for number, (image, boxes, labels) in enumerate(rows, start=1):
        real = labels >= 0
        kept = labels[real].tolist()
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        texts = [names[label] for label in kept]
        tiles.append(Tile(pixels, boxes[real].numpy(), kept, texts, f"{number} of {len(batch.images)}"))
    return encoded(sheet(tiles, columns=4), "JPEG")
