"""The average precision of a detector on a data set, in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.choices import RuntimeName
from detector.data.dataset import Split, align_names, open_dataset
from detector.distributed import World
from detector.evaluate import Metrics, write_report
from detector.evaluate import evaluate as rate
from detector.predict import Detector
from detector.truth_picture import truth_and_predictions
from detector.validate import detect_dataset, lowest_thresholds
from maenas.errors import MaenasError


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """What was rated, at which thresholds, and the metrics."""

    weights: str
    data: str
    split: Split
    conf: float
    iou: float
    metrics: Metrics

    @property
    def ap(self) -> float | None:
        """COCO's AP; None where there is no box."""
        return self.metrics.summary["AP"]

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.scalars().items())
        return f"EvaluationResult({self.split} of {self.data}: {numbers})"

    def document(self) -> dict[str, Any]:
        """Everything as plain data for JSON."""
        settings = {"weights": self.weights, "data": self.data, "split": self.split}
        return {**settings, "conf": self.conf, "iou": self.iou, **self.metrics.document()}


def evaluate(
    weights: str | Path | Detector,
    data: str | Path,
    *,
    split: Split = "val",
    conf: float | None = None,
    iou: float | None = None,
    batch: int = 16,
    device: str = "auto",
    runtime: RuntimeName | None = None,
    plots: str | Path | None = None,
    on_images: Callable[[int, int], object] = lambda done, all: None,
) -> EvaluationResult:
    """Rate a detector (a file, the folder of a run, or a `Detector`) on a split of a data set.

    `runtime` as for `Detector.load`. `conf` and `iou` are 0.001 and 0.7, or what suppression in the file is set to,
    unless given. The folder `plots` gets `metrics.json` and plots. `on_images` is told how many images are
    done of how many.
    Raises `MaenasError` for what cannot be read, classes that do not match, and thresholds out of range.
    """
    if batch < 1:
        raise MaenasError(f"batch is {batch}; it must be at least 1")
    detector = weights if isinstance(weights, Detector) else Detector.load(weights, device, runtime=runtime)
    dataset = align_names(open_dataset(data, split), detector.names)
    lowest = lowest_thresholds(detector)
    conf, iou = lowest[0] if conf is None else conf, lowest[1] if iou is None else iou
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        on_images(done, len(dataset))

    world = World(0, 1, detector.device)
    found = detect_dataset(detector, dataset, world, conf=conf, iou=iou, batch=batch, on_images=count)
    metrics = rate(dataset, found)
    if plots is not None:
        write_report(metrics, Path(plots), truth_and_predictions(dataset, found))
    name = "detector" if isinstance(weights, Detector) else str(weights)
    return EvaluationResult(name, dataset.source, split, conf, iou, metrics)
