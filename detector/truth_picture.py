"""Truth beside prediction: some validation images, twice each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from detector.data.check import truth_tile
from detector.data.dataset import Dataset
from detector.draw import Tile, encoded, sheet
from detector.postprocess import Detections
from maenas.errors import MaenasError

SURE: Final = 0.25  # least confidence of a detection that is drawn
_IMAGES: Final = 8
_PAIRS: Final = 2  # in a row


def truth_and_predictions(dataset: Dataset, detections: Mapping[int, Detections]) -> bytes:
    """A JPEG of evenly chosen images that were looked at: left with their true boxes, right with what was found."""
    looked_at = [sample for sample in dataset.samples if sample.id in detections]
    count = min(_IMAGES, len(looked_at))
    tiles = []
    for number in range(count):
        sample = looked_at[number * len(looked_at) // count]
        with suppress(MaenasError):  # the evaluation told
            truth = truth_tile(sample, dataset.names)
            tiles += [truth._replace(caption=f"truth: {sample.path.name}")]
            tiles += [_predicted(truth, detections[sample.id], dataset.names, sample.path.name)]
    return encoded(sheet(tiles, columns=2 * _PAIRS), "JPEG")


def _predicted(truth: Tile, found: Detections, names: tuple[str, ...], name: str) -> Tile:
    sure = found.scores >= SURE
    labels: list[int] = found.labels[sure].tolist()
    scores = found.scores[sure].tolist()
    texts = [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    # The best one is drawn last, on top.
    boxes = found.boxes[sure].float().cpu().numpy()[::-1]
    return Tile(truth.image, boxes, labels[::-1], texts[::-1], f"found: {name}")
