"""AP on resampled images equals the evaluator's, on the images and on repeated ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.data.sample import Dataset, Sample
from detector.evaluate import evaluate
from detector.postprocess import Detections
from detector.resample import match, weighted_ap

NAMES = ("a", "b", "c")


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    start = rng.uniform(0, 60, (count, 2))
    return np.hstack([start, start + rng.uniform(4, 40, (count, 2))]).astype(np.float32)


def case(seed: int, images: int, *, crowds: bool) -> tuple[Dataset, dict[int, Detections]]:
    """Random truth, and detections that hit some of it; scores of one data set differ."""
    rng = np.random.default_rng(seed)
    samples, found = [], {}
    scores = rng.permutation(10_000)
    for id in rng.permutation(3 * images)[:images].tolist():
        count, crowd = int(rng.integers(0, 6)), int(rng.integers(0, 2)) if crowds else 0
        boxes, labels = random_boxes(rng, count), rng.integers(0, 2 if seed % 2 else 3, count)
        many = random_boxes(rng, crowd)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        samples.append(Sample(Path(f"{id}.png"), id, 100, 100, boxes, labels, areas, many, rng.integers(0, 3, crowd)))
        near = np.vstack([np.repeat(boxes, 3, axis=0), np.repeat(many, 3, axis=0)])
        near = near + rng.normal(0, 1.5, near.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 0.5)
        guesses = np.vstack([near, random_boxes(rng, 4)]).astype(np.float32)
        own, scores = scores[: len(guesses)], scores[len(guesses) :]
        classes = rng.integers(0, 3, len(guesses))
        classes[: 3 * count] = np.where(rng.random(3 * count) < 0.8, np.repeat(labels, 3), classes[: 3 * count])
        order = np.argsort(-own)
        found[id] = Detections(
            torch.from_numpy(guesses[order]),
            torch.from_numpy((own[order] / 10_000).astype(np.float32)),
            torch.from_numpy(classes[order]),
        )
    return Dataset(NAMES, tuple(samples)), found


@pytest.mark.parametrize("seed", range(12))
def test_with_every_image_once_it_is_the_evaluators_ap_to_the_last_bit(seed: int) -> None:
    dataset, found = case(seed, images=12, crowds=seed % 3 == 0)
    expected = evaluate(dataset, found).summary["AP"]
    assert expected is not None
    assert expected > 0
    assert weighted_ap(match(dataset, found), np.ones((1, 12), np.int64))[0] == expected


@pytest.mark.parametrize("seed", range(6))
def test_weights_count_as_repeated_images_do(seed: int) -> None:
    dataset, found = case(seed, images=8, crowds=seed % 2 == 0)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(8, np.full(8, 1 / 8), size=5)
    several = weighted_ap(match(dataset, found), weights)
    ordered = sorted(dataset.samples, key=lambda sample: sample.id)
    for row, ap in zip(weights, several, strict=True):
        copies = [replace(s, id=1000 * n + s.id) for s, times in zip(ordered, row, strict=True) for n in range(times)]
        again = {sample.id: found[sample.id % 1000] for sample in copies}
        assert ap == pytest.approx(evaluate(Dataset(NAMES, tuple(copies)), again).summary["AP"], abs=1e-12)


def test_without_a_box_there_is_no_ap() -> None:
    dataset, found = case(1, images=4, crowds=False)
    assert np.isnan(weighted_ap(match(dataset, found), np.zeros((1, 4), np.int64))).all()


def test_an_image_without_detections_counts() -> None:
    dataset, found = case(2, images=6, crowds=False)
    first = dataset.samples[0].id
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    found[first] = empty
    expected = evaluate(dataset, found).summary["AP"]
    assert weighted_ap(match(dataset, found), np.ones((1, 6), np.int64))[0] == expected
