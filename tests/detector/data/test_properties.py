"""Boxes stay with what they are drawn around: a box is drawn as pixels, both are transformed, and compared."""

import cv2
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detector.data.box_augment import POLICY, Geometry, augment_boxes, change_geometry
from detector.data.geometry import (
    Affine,
    affine_matrix,
    clip_boxes,
    fill,
    flip_boxes,
    mirroring,
    paint,
    rectangle,
    resizing,
    still_objects,
    transform_boxes,
)
from detector.data.mosaic import (
    Labels,
    Mixup,
    Mosaic,
    Picture,
    draw_mixup,
    draw_mosaic,
    mixup_labels,
    mosaic_labels,
    paint_mixup,
    paint_mosaic,
    place_tile,
)
from detector.data.scratch import Scratch

SIDE = 128
seeds = st.integers(0, 2**32 - 1)


def scene(rng: np.random.Generator, value: int) -> Picture:
    """A black image with one bright rectangle whose box is known."""
    height, width = rng.integers(60, 200, 2)
    x1, y1 = rng.integers(0, width - 24), rng.integers(0, height - 24)
    x2, y2 = rng.integers(x1 + 20, width), rng.integers(y1 + 20, height)
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = value
    return Picture(image, np.array([[x1, y1, x2, y2]], np.float32), np.array([value]))


def extent(mask: np.ndarray) -> np.ndarray:
    """The box around the pixels that are set."""
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float64)


def assert_lies_on(mask: np.ndarray, box: np.ndarray, tolerance: float) -> None:
    """The set pixels fill the box: to within `tolerance` pixels on every side."""
    assert mask.any()
    np.testing.assert_allclose(extent(mask), box, atol=tolerance)


@given(seeds)
@example(1529569)
@settings(max_examples=150)
def test_mosaic_boxes_lie_on_their_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    draw = draw_mosaic(rng, SIDE, degrees=10, scale=(0.3, 2.0), shear=2.0, translate=0.2)
    pictures = [scene(rng, 255) if index == 0 else dark(rng) for index in range(4)]
    order = rng.permutation(4)
    pictures = [pictures[index] for index in order]
    keep_ratio = bool(rng.integers(2))
    tiles = [place_tile(i, p.image.shape, draw, SIDE, keep_ratio=keep_ratio) for i, p in enumerate(pictures)]
    labels = mosaic_labels(pictures, tiles, draw, SIDE)
    flip = bool(rng.integers(2))
    height, width = rng.choice([64, 96, 128, 192], 2)
    to_out = resizing((SIDE, SIDE), (width, height))
    if flip:
        to_out = mirroring(width) @ to_out
    out = np.empty((height, width, 4), np.uint8)
    paint_mosaic(out, pictures, tiles, draw, SIDE, to_out, Scratch())
    boxes = labels.boxes * np.array([width, height] * 2) / SIDE
    boxes = flip_boxes(boxes, width) if flip else boxes
    if len(boxes) == 1 and (boxes[0, 2:] - boxes[0, :2]).min() > 8:
        # The rectangle is cut by the tile and the image; its corners reach the box only where they are not cut off.
        zoom = draw.affine.scale * max(width, height) / SIDE
        bright = out[:, :, 0] > 184  # half way between the grey around and the rectangle
        if not bright.any():  # the image shows but a corner of the box, where a turned rectangle does not reach
            assert abs(draw.affine.angle) > 1
            return
        visible = extent(bright)
        inside = clip_boxes(boxes, width, height)[0]
        assert (visible[:2] >= inside[:2] - 1.5 - zoom).all()
        assert (visible[2:] <= inside[2:] + 1.5 + zoom).all()
        if abs(draw.affine.angle) < 1:
            np.testing.assert_allclose(visible, inside, atol=3 + 2 * zoom + 0.06 * max(width, height))


def dark(rng: np.random.Generator) -> Picture:
    height, width = rng.integers(60, 200, 2)
    return Picture(np.zeros((height, width, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


@given(seeds)
@settings(max_examples=150)
def test_affine_boxes_lie_on_their_pixels(seed: int) -> None:
    """Without cuts the box is exact: all four corners of the rectangle are there."""
    rng = np.random.default_rng(seed)
    affine = Affine(rng.uniform(-10, 10), rng.uniform(0.5, 1.5), *rng.uniform(-2, 2, 2), *rng.uniform(0.4, 0.6, 2))
    draw = Mosaic(SIDE, SIDE, affine)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    x1, y1 = rng.integers(5, 80, 2)
    x2, y2 = x1 + rng.integers(20, 40), y1 + rng.integers(20, 40)
    image[y1:y2, x1:x2] = 255
    picture = Picture(image, np.array([[x1, y1, x2, y2]], np.float32), np.array([7]))
    pictures = [picture, *[Picture(np.zeros_like(image), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))] * 3]
    tiles = [place_tile(i, p.image.shape, draw, SIDE, keep_ratio=False) for i, p in enumerate(pictures)]
    out = np.empty((SIDE, SIDE, 4), np.uint8)
    paint_mosaic(out, pictures, tiles, draw, SIDE, np.eye(3), Scratch())
    box = transform_boxes(picture.boxes.astype(np.float64), affine_matrix(affine, 2 * SIDE, SIDE))[0]
    if box.min() > 1 and box.max() < SIDE - 1:
        labels = mosaic_labels(pictures, tiles, draw, SIDE)
        np.testing.assert_allclose(labels.boxes[0], box, atol=1e-3)
        assert labels.labels.tolist() == [7]
        assert_lies_on(out[:, :, 0] > 160, box, tolerance=1.5 + affine.scale)


@given(seeds)
@settings(max_examples=150)
def test_mixup_boxes_lie_on_their_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = scene(rng, 255)
    draw = draw_mixup(rng, SIDE, scale=(0.5, 1.5))
    labels = mixup_labels(Labels(np.zeros((0, 4)), np.zeros(0, np.int64)), picture, draw, SIDE)
    out = np.zeros((SIDE, SIDE, 4), np.uint8)
    paint_mixup(out, picture, draw, SIDE, np.eye(3), Scratch())
    if len(labels.boxes) == 1 and (labels.boxes[0, 2:] - labels.boxes[0, :2]).min() > 4:
        box = labels.boxes[0]
        assert_lies_on(out[:, :, 0] > 92, box, tolerance=1.5 + 2 * draw.zoom)


@given(seeds)
@settings(max_examples=200)
def test_flip_and_resize_move_boxes_as_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = scene(rng, 255)
    width = picture.image.shape[1]
    flipped = flip_boxes(picture.boxes, width)[0]
    np.testing.assert_allclose(extent(picture.image[:, ::-1, 0] > 127), flipped)
    corners = np.array(rectangle(picture.boxes[0].tolist(), mirroring(width)))
    np.testing.assert_allclose([*corners.min(axis=0), *corners.max(axis=0)], flipped)


@given(seeds)
@settings(max_examples=100)
def test_labels_never_leave_their_boxes(seed: int) -> None:
    """Every box names its own brightness; after a mosaic each box still surrounds pixels of its class."""
    rng = np.random.default_rng(seed)
    draw = Mosaic(
        int(rng.integers(64, 192)), int(rng.integers(64, 192)), Affine(0, rng.uniform(0.6, 1.2), 0, 0, 0.5, 0.5)
    )
    pictures = [scene(rng, value) for value in (60, 140, 180, 220)]
    tiles = [place_tile(i, p.image.shape, draw, SIDE, keep_ratio=False) for i, p in enumerate(pictures)]
    labels = mosaic_labels(pictures, tiles, draw, SIDE)
    out = np.empty((SIDE, SIDE, 4), np.uint8)
    paint_mosaic(out, pictures, tiles, draw, SIDE, np.eye(3), Scratch())
    for box, label in zip(labels.boxes, labels.labels, strict=True):
        if (box[2:] - box[:2]).min() < 4:  # its middle may be blended with what is beside it
            continue
        x, y = ((box[:2] + box[2:]) / 2).astype(int).clip(0, SIDE - 1)
        assert out[y, x, 0] == label


@given(seeds, st.sampled_from([policy.geometry for policy in POLICY]), st.sampled_from([-8, -4, -2, 2, 4, 8]))
@settings(max_examples=150)
def test_copied_objects_lie_in_their_boxes(seed: int, operation: Geometry, level: int) -> None:
    """What a geometric operation changes lies within the boxes, those of the copies included."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (120, 150, 3), dtype=np.uint8)
    x1, y1 = rng.uniform(0, 100), rng.uniform(0, 70)
    box = np.array([[x1, y1, x1 + rng.uniform(10, 40), y1 + rng.uniform(10, 40)]])
    before = image.copy()
    copies, sources = change_geometry(image, box, operation, level, Scratch())
    assert (sources == 0).all()
    allowed = np.zeros(image.shape[:2], bool)
    for left, top, right, bottom in clip_boxes(np.concatenate([box, copies]), 150, 120):
        allowed[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    assert not (image != before).any(axis=2)[~allowed].any()


@given(seeds)
@settings(max_examples=100)
def test_box_augmentation_keeps_boxes_and_labels_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 8))
    corners = rng.uniform(0, 90, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 60, (count, 2))], axis=1)
    labels = np.arange(count)
    image = rng.integers(0, 256, (130, 170, 3), dtype=np.uint8)
    after, classes = augment_boxes(
        image, clip_boxes(boxes, 170, 130), labels, rng, Scratch(), box_prob=1.0, strength=1.0
    )
    assert len(after) == len(classes)
    np.testing.assert_array_equal(after[:count], clip_boxes(boxes, 170, 130))
    assert (after >= 0).all()
    assert (after <= [170, 130, 170, 130]).all()
    for box, label in zip(after[count:], classes[count:], strict=True):  # copies are as large as their sources, or cut
        assert ((box[2:] - box[:2]) <= (boxes[label, 2:] - boxes[label, :2]) + 1e-6).all()


@given(seeds)
@settings(max_examples=100)
def test_candidates_equal_the_rule_said_box_by_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = np.sort(rng.uniform(0, 60, (20, 4)).reshape(20, 2, 2), axis=1).reshape(20, 4)
    after = np.sort(rng.uniform(0, 60, (20, 4)).reshape(20, 2, 2), axis=1).reshape(20, 4)
    expected = []
    for one, two in zip(before, after, strict=True):
        w, h = two[2:] - two[:2]
        area = (one[2] - one[0]) * (one[3] - one[1])
        expected.append(w > 2 and h > 2 and w * h / (area + 1e-16) > 0.1 and max(w / h, h / w) < 20)
    np.testing.assert_array_equal(still_objects(before, after), expected)


def test_mixup_draw_cuts_only_what_is_larger() -> None:
    assert mixup_labels(
        Labels(np.zeros((0, 4)), np.zeros(0, np.int64)),
        Picture(np.zeros((SIDE, SIDE, 3), np.uint8), np.array([[0, 0, 10, 10]], np.float32), np.array([1])),
        Mixup(0.5, False, 0, 0),
        SIDE,
    ).boxes.tolist() == [[0, 0, 5, 5]]


@given(seeds)
@settings(max_examples=150)
def test_painting_equals_a_warp_of_the_whole_image(seed: int) -> None:
    """Only the part that is needed is warped, with the edge repeated: as a warp of everything with that edge."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*rng.integers(1, 90, 2), 3), dtype=np.uint8)
    height, width = image.shape[:2]
    affine = Affine(rng.uniform(-180, 180), rng.uniform(0.05, 4), *rng.uniform(-5, 5, 2), *rng.uniform(-0.2, 1.2, 2))
    matrix = affine_matrix(affine, max(height, width), 100)
    x1, y1 = rng.uniform(0, width), rng.uniform(0, height)
    visible = (x1, y1, rng.uniform(x1, width), rng.uniform(y1, height))
    out = np.full((80, 100, 4), 7, np.uint8)
    paint(out, image, matrix, visible, Scratch())
    expected = cv2.warpAffine(image, matrix[:2], (100, 80), borderMode=cv2.BORDER_REPLICATE)
    painted = out[:, :, 3] == 255
    assert (out[~painted] == 7).all()
    # Coordinates are float32: where the warp begins moves them by a rounding.
    assert np.abs(out[painted][:, :3].astype(int) - expected[painted]).max(initial=0) <= 2
    mask = np.zeros((80, 100), np.uint8)
    fill(mask, rectangle(visible, matrix), 1)
    kernel = np.ones((3, 3), np.uint8)  # how OpenCV rounds the edge of a polygon depends on where it begins, too
    assert painted[cv2.erode(mask, kernel, borderValue=0) == 1].all()
    assert (cv2.dilate(mask, kernel)[painted] == 1).all()
