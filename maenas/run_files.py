"""What a training run and an evaluation leave behind, declared once: the trainer writes it, reports read it.

A run's folder holds `weights.safetensors`, `steps.csv` (a row for every step), `epochs.jsonl` (an object for every
epoch) and, in `evaluation/`, `metrics.json`. Legend: C classes, R points of recall.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from maenas.errors import MaenasError
from maenas.files import read_text
from maenas.strict import STRICT, parse_json

WEIGHTS_FILE: Final = "weights.safetensors"  # to use
STEPS_FILE: Final = "steps.csv"
EPOCHS_FILE: Final = "epochs.jsonl"
EVALUATION: Final = "evaluation"  # folder
METRICS_FILE: Final = "metrics.json"
LABELS_PICTURE: Final = "labels.png"  # what the training data holds
BATCH_PICTURE: Final = "batch.jpg"  # the first batch, as the network gets it
MAX_LOG_BYTES: Final = 2**30
TRUTH_PICTURE: Final = "truth_and_predictions.jpg"  # of some validation images, in the evaluation's folder

PART: Final = {**STRICT, "extra": "ignore"}  # a reader takes the keys that it knows; a later version may write more


def weights_path(path: str | Path) -> Path:
    """`path`, or the weights in it where it is the folder of a training run; raises `MaenasError` if it has none."""
    path = Path(path)
    if not path.is_dir():
        return path
    inside = path / WEIGHTS_FILE
    if not inside.is_file():
        others = ", ".join(sorted(file.name for file in path.glob("*.safetensors")))
        there = f", but {others}" if others else ""
        raise MaenasError(
            f"{path}: there is no {WEIGHTS_FILE} in this folder{there}; name the folder of a training run, or a file"
        )
    return inside


def weights_hint(path: Path) -> str:
    """What a message adds about a file that holds no weights to use, by its ending; empty for most."""
    hints = {
        ".json": "a spec has no weights: `maenas train` makes them",
        ".pt": f"of a training run name the folder, or {WEIGHTS_FILE} in it",
        ".pth": "`maenas weights convert` reads a released .pth",
    }
    hint = hints.get(path.suffix.lower())
    return f"; {hint}" if hint else ""


@dataclass(frozen=True)
class Epoch:
    """One epoch: steps done until its end, mean losses, and COCO metrics where it was evaluated.

    `evaluation_seconds` are those of `seconds` that the evaluation took.
    """

    __pydantic_config__: ClassVar = PART
    epoch: int
    step: int
    seconds: float
    losses: Mapping[str, float]
    metrics: Mapping[str, float] | None = None
    evaluation_seconds: float | None = None

    def line(self) -> str:
        """As it stands in `epochs.jsonl`."""
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None}) + "\n"


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
    matrix: tuple[tuple[int, ...], ...]  # [C + 1, C + 1]


@dataclass(frozen=True)
class Curves:
    """Precision at IoU 0.5 for each recall, by class."""

    __pydantic_config__: ClassVar = PART
    recalls: tuple[float, ...]
    classes: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        rows = [self.recalls, *self.classes.values()]
        if any(len(row) != len(self.recalls) for row in rows) or not _are_shares(*rows):
            raise MaenasError("precision over recall must be numbers from 0 to 1, one for each recall")


@dataclass(frozen=True)
class OverConfidence:
    """Means over the classes at IoU 0.5 if only detections of at least that confidence count.

    Precision is interpolated as in AP: the best at that recall or a higher one.
    """

    __pydantic_config__: ClassVar = PART
    confidences: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]

    def __post_init__(self) -> None:
        rows = (self.confidences, self.precision, self.recall, self.f1)
        if len({len(row) for row in rows}) != 1 or not self.confidences or not _are_shares(*rows):
            raise MaenasError("the curves over confidence must be numbers from 0 to 1, of one length, and not empty")

    @property
    def best(self) -> int:
        """Index of the confidence with the highest F1."""
        return max(range(len(self.f1)), key=self.f1.__getitem__)


@dataclass(frozen=True)
class Evaluation:
    """Detections against the truth of `images` images, of `listed_images`; COCO metrics are None without a box."""

    __pydantic_config__: ClassVar = PART
    images: int
    summary: Mapping[str, float | None]
    per_class: tuple[ClassResult, ...]
    confusion: Confusion
    precision_at_iou50: Curves
    over_confidence: OverConfidence | None = None
    listed_images: int | None = None

    def __post_init__(self) -> None:
        side = len(self.per_class) + 1
        if len(self.confusion.matrix) != side or any(len(row) != side for row in self.confusion.matrix):
            raise MaenasError(f"the confusion matrix of {side - 1} classes must be {side} by {side}")

    def text(self) -> str:
        """As it stands in `metrics.json`: a line for each entry, since a matrix of many classes is long."""
        lines = (f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in asdict(self).items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _are_shares(*rows: tuple[float, ...]) -> bool:
    return all(0 <= value <= 1 for row in rows for value in row)


def whole_lines(path: Path) -> list[str]:
    """The lines of a log; a run that was killed while it wrote leaves a last one without an end."""
    lines = read_text(path, what="training log", max_bytes=MAX_LOG_BYTES).splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def read_epochs(path: Path) -> list[Epoch]:
    """The epochs of a log; raises `MaenasError` where it is damaged, or no epoch has ended."""
    lines = enumerate(whole_lines(path), start=1)
    epochs = [parse_json(line, Epoch, where=f"{path}, line {number}") for number, line in lines]
    if not epochs:
        raise MaenasError(f"training log {path}: is empty; no epoch has ended yet")
    return epochs


def read_rates(path: Path) -> tuple[list[int], list[float]]:
    """Steps and their learning rates, of `steps.csv`; raises `MaenasError` where it is damaged."""
    steps, rates = [], []
    for number, row in enumerate(csv.DictReader(whole_lines(path)), start=2):
        try:
            step, rate = int(row["step"]), float(row["lr"])
        except (KeyError, TypeError, ValueError) as error:
            raise MaenasError(f"training log {path}, line {number}: no step or no learning rate ({error})") from None
        if not math.isfinite(rate):
            raise MaenasError(f"training log {path}, line {number}: the learning rate is {rate}")
        steps.append(step)
        rates.append(rate)
    return steps, rates


def read_evaluation(path: Path) -> Evaluation:
    """The numbers of an evaluation; raises `MaenasError`."""
    return parse_json(read_text(path, what="metrics"), Evaluation, where=str(path))


def ordered_by_ap(results: Sequence[ClassResult]) -> list[int]:
    """Indices of the classes that were rated, the worst first."""
    rated = [(result.ap, index) for index, result in enumerate(results) if result.ap is not None]
    return [index for _, index in sorted(rated)]


def most_confused(matrix: np.ndarray, names: Sequence[str], most: int) -> tuple[np.ndarray, list[str]]:
    """A confusion matrix `[C + 1, C + 1]` and its labels, background last, of at most `most` classes.

    Those stay that were taken for another class, or another for them, most often; the others become one.
    """
    count = len(names)
    if count <= most:
        return matrix, [*names, "background"]
    wrong = matrix[:count, :count].copy()
    np.fill_diagonal(wrong, 0)
    totals = wrong.sum(axis=0) + wrong.sum(axis=1)
    kept = np.sort(np.argsort(-totals, kind="stable")[:most])
    group = np.full(count + 1, most)
    group[kept] = np.arange(most)
    group[count] = most + 1
    small = np.zeros((most + 2, most + 2), matrix.dtype)
    np.add.at(small, (group[:, None], group[None, :]), matrix)
    chosen = [str(names[int(index)]) for index in kept]
    return small, [*chosen, f"{count - most} other classes", "background"]


def confused_pairs(matrix: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """The pairs of different classes that were confused most often: truth, prediction, count."""
    wrong = matrix[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = (divmod(int(place), wrong.shape[1]) for place in order)
    return [(row, column, int(wrong[row, column])) for row, column in pairs if wrong[row, column]]
