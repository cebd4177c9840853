"""Images much larger than the training's are shrunk as they are decoded; boxes and what is drawn stay the same."""

import mmap
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.data.augment import training_sample
from detector.data.pictures import DETAIL, Pictures, load_image, shrinking
from detector.data.sample import Sample
from detector.data.scratch import Scratch
from detector.data.settings import AugmentSettings
from maenas.spec import InputSpec

SIDES = st.integers(1, 9000)


@given(width=SIDES, height=SIDES, wide=st.integers(32, 1280), high=st.integers(32, 1280))
def test_as_much_is_shrunk_as_leaves_twice_the_training_size(width: int, height: int, wide: int, high: int) -> None:
    (shrink,) = shrinking(np.array([[width, height]]), (wide, high)).tolist()

    def enough(by: int) -> bool:
        return width / by >= DETAIL * wide and height / by >= DETAIL * high

    assert shrink in (1, 2, 4, 8)
    assert shrink == 1 or enough(shrink)
    assert shrink == 8 or not enough(2 * shrink)


def picture(width: int, height: int) -> np.ndarray:
    """Smooth colours with some noise, uint8 RGB."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (7, 9, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def sample_of(path: Path, width: int, height: int) -> Sample:
    boxes = np.array([[width * 0.1, height * 0.2, width * 0.7, height * 0.9]], np.float32)
    one, none = np.zeros(1, np.int64), np.zeros((0, 4), np.float32)
    return Sample(path, 1, width, height, boxes, one, one.astype(np.float32), none, np.zeros(0, np.int64))


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [(320, 240), (333, 250)])
def test_a_shrunk_image_has_the_means_of_blocks(
    tmp_path: Path, suffix: str, size: tuple[int, int], shrink: int
) -> None:
    path, (width, height) = tmp_path / f"a{suffix}", size
    Image.fromarray(picture(width, height)).save(path, quality=95)
    whole = load_image(sample_of(path, width, height)).astype(float)
    found = load_image(sample_of(path, width, height), shrink=shrink)
    assert found.shape == (-(-height // shrink), -(-width // shrink), 3)
    rows, columns = height // shrink, width // shrink
    means = whole[: rows * shrink, : columns * shrink].reshape(rows, shrink, columns, shrink, 3).mean(axis=(1, 3))
    assert np.abs(found[:rows, :columns] - means).mean() < 2


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_photograph_is_shrunk_as_it_is_shown_or_annotated(tmp_path: Path, orientation: int) -> None:
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(320, 240)).save(path, quality=95, exif=exif)
    for width, height in {(320, 240), (240, 320) if orientation > 4 else (320, 240)}:
        sample = sample_of(path, width, height)
        whole, found = load_image(sample), load_image(sample, shrink=4)
        wanted = cv2.resize(whole, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        assert found.shape == wanted.shape
        assert np.abs(found.astype(float) - wanted).mean() < 2


def test_training_images_have_the_same_boxes_and_nearly_the_same_pixels(tmp_path: Path) -> None:
    """Whether images are shrunk or not, and whether they stay decoded or not."""
    samples = []
    for number, (width, height) in enumerate(((640, 480), (500, 700), (64, 64))):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(cv2.GaussianBlur(picture(width, height), (0, 0), 4)).save(path, quality=95)
        samples.append(sample_of(path, width, height))
    size = InputSpec(64, 64)
    all_pixels = Pictures(samples)
    shrunk = Pictures(samples, size=(64, 64)), Pictures(samples, size=(64, 64), cache=mmap.mmap(-1, 493_000))
    assert [shrunk[0][index].image.shape[:2] for index in range(3)] == [(240, 320), (350, 250), (64, 64)]
    assert shrunk[1].cached == 2
    settings = AugmentSettings(mosaic_size=64, mixup_prob=0.5, box_prob=0)
    for seed in range(8):
        made = []
        for pictures in (all_pixels, *shrunk):
            out = np.empty((64, 64, 3), np.uint8)
            labels = training_sample(
                seed % 3,
                pictures,
                settings,
                np.random.default_rng(seed),
                out,
                Scratch(),
                mosaic_prob=0.5,
                strength=0.5,
                resize=size,
            )
            made.append((labels.boxes, out.astype(float)))
        (boxes, pixels), one, two = made
        assert np.array_equal(one[1], two[1])
        assert one[0] == pytest.approx(boxes, abs=1e-3)
        assert np.abs(one[1] - pixels).mean() < 3
