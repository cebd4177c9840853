import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detector.assign import Assignment, assign
from detector.boxes import make_priors

CASES = (
    "case00_gt0_c3",
    "case01_gt1_c80",
    "case02_gt3_c3",
    "case03_gt8_c80",
    "case04_gt40_c3",
    "case05_gt1_c3",
    "case06_gt3_c80",
    "case07_gt8_c3",
    "case12_tiny_gt2_c3",
)

Arrays = Callable[[str], dict[str, np.ndarray]]


# Published assignments -----------------------------------------------------------------------------------------------


def check_published(assignment: Assignment, image: int, case: dict[str, np.ndarray]) -> None:
    """The published numbers count boxes from 1, and mark the overlaps of background with -1e8."""
    np.testing.assert_array_equal(assignment.gt_index[image].numpy(), case["out_gt_inds"] - 1)
    np.testing.assert_array_equal(assignment.labels[image].numpy(), case["out_labels"])
    overlaps = np.maximum(case["out_max_overlaps"], 0)
    np.testing.assert_allclose(assignment.overlaps[image].numpy(), overlaps, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_assigns_as_published(name: str, golden_arrays: Arrays) -> None:
    case = {key: torch.from_numpy(value) for key, value in golden_arrays(f"assign_{name}").items()}
    priors = torch.from_numpy(golden_arrays("priors_256")["priors"][:, :3])
    inputs = (case["pred_scores"], case["decoded_boxes"], case["gt_boxes"], case["gt_labels"])
    scores, boxes, gt_boxes, gt_labels = (x[None] for x in inputs)
    check_published(assign(scores, boxes, priors, gt_boxes, gt_labels), 0, golden_arrays(f"assign_{name}"))


def test_a_padded_batch_is_assigned_as_published(golden_arrays: Arrays) -> None:
    cases = [golden_arrays(f"assign_{name}") for name in CASES if name.endswith("c3")]
    most = max(len(case["gt_labels"]) for case in cases) + 2
    gt_boxes, gt_labels = torch.zeros(len(cases), most, 4), torch.full((len(cases), most), -1)
    for image, case in enumerate(cases):
        count = len(case["gt_labels"])
        gt_boxes[image, :count] = torch.from_numpy(case["gt_boxes"])
        gt_labels[image, :count] = torch.from_numpy(case["gt_labels"])
    scores = torch.from_numpy(np.stack([case["pred_scores"] for case in cases]))
    boxes = torch.from_numpy(np.stack([case["decoded_boxes"] for case in cases]))
    priors = torch.from_numpy(golden_arrays("priors_256")["priors"][:, :3])
    assignment = assign(scores, boxes, priors, gt_boxes, gt_labels)
    for image, case in enumerate(cases):
        check_published(assignment, image, case)


# The slow and obvious assignment -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Scene:
    """What `assign` takes."""

    scores: Tensor
    boxes: Tensor
    priors: Tensor
    gt_boxes: Tensor
    gt_labels: Tensor
    least: int = 1

    def assign(self) -> Assignment:
        return assign(self.scores, self.boxes, self.priors, self.gt_boxes, self.gt_labels, least=self.least)


def cross_entropy(p: float, y: float) -> float:
    log_p = max(math.log(p), -100.0) if p > 0 else -100.0
    log_not_p = max(math.log1p(-p), -100.0) if p < 1 else -100.0
    return -(y * log_p + (1 - y) * log_not_p)


def iou_of(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / max(union, 1e-6)


def gap(first: tuple[bool, float], second: tuple[bool, float]) -> float:
    """How far two ranks (outside, cost) are from a tie."""
    if first[0] != second[0]:
        return math.inf
    return abs(first[1] - second[1]) / (1 + abs(first[1]) + abs(second[1]))


def assign_slowly(scores: Any, boxes: Any, priors: Any, gts: Any, least: int) -> tuple[list[int], list[float], float]:
    """Box of each prior or -1, its overlap, and how far the nearest decision is from going the other way; one image.

    The published rule in float64, one box and one prior after the other; `gts` are pairs of box and label.
    """
    margin = math.inf
    inside, near = {}, {}
    for a, (x, y, stride) in enumerate(priors):
        for g, ((x1, y1, x2, y2), _) in enumerate(gts):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            offset = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            inside[a, g], near[a, g] = min(sides) > 0, offset < 2.5 * stride
            margin = min(margin, abs(offset - 2.5 * stride), abs(min(sides)))
    valid = [a for a in range(len(priors)) if any(inside[a, g] or near[a, g] for g in range(len(gts)))]
    rank, iou = {}, {}
    for a in valid:
        for g, (box, label) in enumerate(gts):
            iou[a, g] = iou_of(box, boxes[a])
            targets = [iou[a, g] if c == label else 0.0 for c in range(len(scores[a]))]
            focal = sum(cross_entropy(p, y) * (y - p) ** 2 for p, y in zip(scores[a], targets, strict=True))
            rank[a, g] = (not (inside[a, g] and near[a, g]), focal - 3 * math.log(iou[a, g] + 1e-7))
    wishes: dict[int, list[int]] = {}
    for g in range(len(gts)):
        total = sum(sorted((iou[a, g] for a in valid), reverse=True)[:10])
        margin = min(margin, abs(total - round(total)) if round(total) > 1 else math.inf)
        order = sorted(valid, key=lambda a: rank[a, g])
        central = sum(inside[a, g] and near[a, g] for a in valid)
        count = max(1, int(total), min(least, central))
        if count < len(order):
            margin = min(margin, gap(rank[order[count - 1], g], rank[order[count], g]))
        for a in order[:count]:
            wishes.setdefault(a, []).append(g)
    index, overlaps = [-1] * len(priors), [0.0] * len(priors)
    for a, wish in wishes.items():
        if len(wish) > 1:
            wish = sorted(range(len(gts)), key=lambda g: rank[a, g])
            margin = min(margin, gap(rank[a, wish[0]], rank[a, wish[1]]))
        index[a], overlaps[a] = wish[0], iou[a, wish[0]]
    return index, overlaps, margin


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Images of 64 pixels: predictions that are noise or near a box; boxes of any size, also outside or without area;
    padding anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, most, classes = draw(st.integers(1, 3)), draw(st.integers(0, 5)), draw(st.integers(1, 4))
    accuracy, sharpness = draw(st.sampled_from([0.0, 0.7, 0.95])), draw(st.sampled_from([1.0, 4.0, 40.0]))
    priors = make_priors(64, 64)
    sides = np.exp(rng.uniform(np.log(2), np.log(100), (images, most, 2))) * (rng.random((images, most, 1)) > 0.05)
    corner = rng.uniform(-10, 64, (images, most, 2))
    gt_boxes = np.concatenate((corner, corner + sides), axis=-1)
    gt_labels = rng.integers(-1, classes, (images, most))
    reach = np.exp(rng.uniform(np.log(1), np.log(40), (images, len(priors), 4)))
    boxes = priors[:, [0, 1, 0, 1]].numpy() + reach * [-1, -1, 1, 1]
    if most:
        target = np.take_along_axis(gt_boxes, rng.integers(0, most, (images, len(priors), 1)), axis=1)
        jitter = target + rng.normal(0, 2, boxes.shape) * [1, 1, 0.5, 0.5]
        close = rng.random((images, len(priors), 1)) < accuracy
        boxes = np.where(close & (jitter[..., :2] < jitter[..., 2:]).all(-1, keepdims=True), jitter, boxes)
    logits = torch.from_numpy(rng.normal(0, sharpness, (images, len(priors), classes))).float()
    return Scene(
        logits.sigmoid(),
        torch.from_numpy(boxes).float(),
        priors,
        torch.from_numpy(gt_boxes).float(),
        torch.from_numpy(gt_labels),
        least=draw(st.sampled_from([1, 3, 10])),
    )


@settings(max_examples=100)
@given(scenes())
def test_equals_the_loops_over_images_boxes_and_priors(scene: Scene) -> None:
    assignment = scene.assign()
    for image in range(len(scene.boxes)):
        rows = [row for row, label in enumerate(scene.gt_labels[image].tolist()) if label >= 0]
        gts = [(scene.gt_boxes[image, row].tolist(), int(scene.gt_labels[image, row])) for row in rows]
        index, overlaps, margin = assign_slowly(
            scene.scores[image].tolist(), scene.boxes[image].tolist(), scene.priors.tolist(), gts, scene.least
        )
        assume(margin > 1e-5)
        expected = [rows[g] if g >= 0 else -1 for g in index]
        assert assignment.gt_index[image].tolist() == expected
        assert assignment.labels[image].tolist() == [gts[g][1] if g >= 0 else -1 for g in index]
        np.testing.assert_allclose(assignment.overlaps[image].numpy(), overlaps, rtol=1e-4, atol=1e-6)


# Properties ----------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(scenes())
def test_an_image_is_assigned_as_if_it_were_alone(scene: Scene) -> None:
    together = scene.assign()
    for image in range(len(scene.boxes)):
        row = slice(image, image + 1)
        fields = (scene.scores[row], scene.boxes[row], scene.priors, scene.gt_boxes[row], scene.gt_labels[row])
        alone = assign(*fields, least=scene.least)
        for part, whole in zip(alone, together, strict=True):
            assert torch.equal(part, whole[row])


@settings(max_examples=30)
@given(scenes(), st.integers(1, 4))
def test_padding_changes_nothing(scene: Scene, count: int) -> None:
    images = len(scene.boxes)
    padded = dataclasses.replace(
        scene,
        gt_boxes=torch.cat((scene.gt_boxes, torch.full((images, count, 4), 20.0)), dim=1),
        gt_labels=torch.cat((scene.gt_labels, torch.full((images, count), -1)), dim=1),
    )
    for plain, other in zip(scene.assign(), padded.assign(), strict=True):
        assert torch.equal(plain, other)


@settings(max_examples=30)
@given(scenes())
def test_a_box_with_a_prior_in_reach_loses_it_only_to_another_box(scene: Scene) -> None:
    assignment = scene.assign()
    assert ((assignment.gt_index >= 0) == (assignment.labels >= 0)).all()
    assert (assignment.overlaps[assignment.gt_index < 0] == 0).all()
    assert ((assignment.overlaps >= 0) & (assignment.overlaps <= 1)).all()
    for image in range(len(scene.boxes)):
        real = scene.gt_labels[image] >= 0
        if real.sum() == 1 and (assignment.gt_index[image] < 0).all():
            box = scene.gt_boxes[image][real][0]
            x, y, stride = scene.priors.unbind(-1)
            centre = (box[:2] + box[2:]) / 2
            assert not ((abs(x - centre[0]) < 2.4 * stride) & (abs(y - centre[1]) < 2.4 * stride)).any()


def test_without_any_box_all_is_background() -> None:
    priors = make_priors(64, 64)
    for most in (0, 3):
        nothing = assign(
            torch.rand(2, len(priors), 3),
            torch.rand(2, len(priors), 4),
            priors,
            torch.zeros(2, most, 4),
            torch.full((2, most), -1),
        )
        assert (nothing.gt_index == -1).all()
        assert (nothing.labels == -1).all()
        assert (nothing.overlaps == 0).all()
        assert [x.dtype for x in nothing] == [torch.int64, torch.int64, torch.float32]


def random_scene(images: int, most: int, classes: int, dtype: torch.dtype = torch.float32) -> Scene:
    random = torch.Generator().manual_seed(0)
    priors = make_priors(128, 128)
    shape = (images, len(priors))
    reach = torch.rand((*shape, 4), generator=random) * 40
    corner = torch.rand((images, most, 2), generator=random) * 80
    sides = torch.rand((images, most, 2), generator=random) * 40 + 5
    return Scene(
        torch.rand((*shape, classes), generator=random).to(dtype),
        (priors[:, [0, 1, 0, 1]] + reach * torch.tensor([-1, -1, 1, 1])).to(dtype),
        priors,
        torch.cat((corner, corner + sides), dim=-1),
        torch.randint(0, classes, (images, most), generator=random),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    half = random_scene(2, 4, 3, dtype)
    full = dataclasses.replace(half, scores=half.scores.float(), boxes=half.boxes.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = half.assign()
    for ours, other in zip(mixed, full.assign(), strict=True):
        assert torch.equal(ours, other)


def test_never_waits_for_the_device() -> None:
    """Meta tensors have no values: whatever read one would fail."""
    scene = random_scene(2, 4, 3)
    fields = [getattr(scene, field.name).to("meta") for field in dataclasses.fields(scene)[:5]]
    assert assign(*fields).gt_index.shape == (2, len(scene.priors))


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.untyped_storage().nbytes() // value.element_size())
        return result


def test_memory_does_not_grow_with_boxes_times_classes() -> None:
    images, most, classes = 2, 20, 30
    scene = random_scene(images, most, classes)
    with LargestTensor() as largest:
        scene.assign()
    assert largest.elements <= images * len(scene.priors) * max(most, classes)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_batches_of_crowds_are_assigned_in_parts_alike(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 12
    scene = random_scene(5, most, 3)
    whole = scene.assign()
    pairs = images * most * len(scene.priors)
    monkeypatch.setattr("detector.assign.AT_ONCE", pairs)
    with LargestTensor() as largest:
        parts = scene.assign()
    assert largest.elements <= max(pairs, scene.boxes.numel())
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)
