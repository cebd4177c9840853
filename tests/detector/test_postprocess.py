"""Detections are those of greedy class-wise suppression."""

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.images import Placement
from detector.postprocess import Detections, postprocess


def slow(scores: Tensor, boxes: Tensor, *, conf: float, iou: float, max_det: int) -> Detections:
    """One candidate after the other, in float64."""
    rows = [(float(scores[a, c]), a, c) for a, c in np.ndindex(*scores.shape) if scores[a, c] > conf]
    kept: list[tuple[float, int, int]] = []
    for score, anchor, label in sorted(rows, reverse=True):
        rivals = [boxes[a].double() for _, a, c in kept if c == label]
        if all(overlap(boxes[anchor].double(), rival) <= iou for rival in rivals):
            kept.append((score, anchor, label))
    kept = kept[:max_det]
    anchors = torch.tensor([anchor for _, anchor, _ in kept], dtype=torch.int64)
    labels = torch.tensor([label for *_, label in kept], dtype=torch.int64)
    return Detections(boxes[anchors], scores[anchors, labels], labels)


def overlap(one: Tensor, two: Tensor) -> float:
    low, high = torch.maximum(one[:2], two[:2]), torch.minimum(one[2:], two[2:])
    inner = float((high - low).clamp(min=0).prod())
    return inner / (float((one[2:] - one[:2]).prod() + (two[2:] - two[:2]).prod()) - inner)


def clustered(rng: np.random.Generator, anchors: int, classes: int) -> tuple[Tensor, Tensor]:
    """Scores and boxes that crowd around a few centres."""
    centres = rng.uniform(50, 600, (5, 2))[rng.integers(5, size=anchors)] + rng.normal(0, 8, (anchors, 2))
    half = rng.uniform(20, 60, (anchors, 2))
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    return torch.tensor(rng.random((anchors, classes))).float(), torch.tensor(boxes).float()


@pytest.mark.parametrize("seed", range(10))
def test_fast_equals_slow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, boxes = clustered(rng, 60, 3)
    settings = {"conf": float(rng.uniform(0.1, 0.8)), "iou": float(rng.uniform(0.3, 0.8)), "max_det": 40}
    (found,) = postprocess(scores[None], boxes[None], **settings)
    for one, two in zip(found, slow(scores, boxes, **settings), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("case", "conf", "iou", "sizes"),
    [("nms_caseA", 0.05, 0.7, [(256, 256)]), ("nms_caseB", 0.03, 0.65, [(256, 256), (192, 256)])],
)
def test_published_suppression(golden_arrays, case: str, conf: float, iou: float, sizes: list) -> None:
    arrays = golden_arrays(case)
    results = postprocess(torch.from_numpy(arrays["cls_scores"]), torch.from_numpy(arrays["boxes"]), conf=conf, iou=iou)
    for number, (found, (height, width)) in enumerate(zip(results, sizes, strict=True)):
        np.testing.assert_array_equal(found.scores.numpy(), arrays[f"det_scores_{number}"])
        np.testing.assert_array_equal(found.labels.numpy(), arrays[f"det_labels_{number}"])
        np.testing.assert_array_equal(found.boxes.numpy(), arrays[f"det_boxes_{number}"])
        placement = Placement(640, 480, width / 640, height / 480)
        expected = arrays[f"det_boxes_resized640x480_{number}"]
        np.testing.assert_allclose(placement.to_image(found.boxes).numpy(), expected, rtol=1e-6, atol=1e-4)


def test_a_score_must_be_above_the_limit() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 30, 30]]])
    (found,) = postprocess(torch.tensor([[[0.5], [0.75]]]), boxes, conf=0.5, iou=0.5)
    assert found.scores.tolist() == [0.75]


def test_nothing_found_is_empty() -> None:
    (found,) = postprocess(torch.zeros(1, 7, 3), torch.zeros(1, 7, 4), conf=0.1, iou=0.5)
    assert [tuple(part.shape) for part in found] == [(0, 4), (0,), (0,)]


def test_classes_do_not_suppress_each_other() -> None:
    box = torch.tensor([[[0.0, 0, 10, 10]]])
    (found,) = postprocess(torch.tensor([[[0.9, 0.8, 0.7]]]), box, conf=0.1, iou=0.5)
    assert found.labels.tolist() == [0, 1, 2]


def test_classes_do_not_suppress_each_other_beyond_the_corner_of_the_image() -> None:
    boxes = torch.tensor([[[600.0, 600, 640, 640], [-41, -41, 5, 5]]])
    (found,) = postprocess(torch.tensor([[[0.9, 0], [0, 0.8]]]), boxes, conf=0.1, iou=0.7)
    assert found.labels.tolist() == [0, 1]


def test_half_precision_scores_are_taken() -> None:
    scores, boxes = clustered(np.random.default_rng(0), 40, 2)
    (found,) = postprocess(scores[None].half(), boxes[None], conf=0.3, iou=0.6)
    assert found.scores.dtype == found.boxes.dtype == torch.float32


def test_what_the_network_suppressed_is_not_suppressed_again() -> None:
    """Two boxes of one class that overlap: a file that kept both is believed."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 5, 5]])
    scores = torch.tensor([[0.9, 0], [0.8, 0], [0, 0.1]])
    (once,) = postprocess(scores[None], boxes[None], conf=0.2, iou=0.5)
    (kept,) = postprocess(scores[None], boxes[None], conf=0.2, iou=None, max_det=5)
    assert (len(once.scores), kept.scores.tolist(), kept.labels.tolist()) == (1, scores[:2, 0].tolist(), [0, 0])
    assert torch.equal(kept.boxes, boxes[:2])
    (best,) = postprocess(scores[None], boxes[None], conf=0.2, iou=None, max_det=1)
    assert torch.equal(best.boxes, boxes[:1])
