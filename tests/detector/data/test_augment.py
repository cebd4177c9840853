"""What becomes of small objects in training images of any size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.data.augment import training_sample
from detector.data.pictures import Pictures
from detector.data.sample import Sample
from detector.data.scratch import Scratch
from detector.data.settings import AugmentSettings
from maenas.spec import InputSpec

STILL = {"degrees": 0.0, "translate": 0.0, "shear": 0.0, "mixup_prob": 0.0, "flip_prob": 0.0, "box_prob": 0.0}


@pytest.mark.parametrize("mosaic_prob", [0.0, 1.0])
@pytest.mark.parametrize(("pixels", "kept"), [(3, True), (1, False)])
def test_an_object_of_three_pixels_of_the_training_image_is_learnt_whatever_the_side_of_the_mosaic(
    tmp_path: Path, pixels: int, kept: bool, mosaic_prob: float
) -> None:
    """Objects of up to two pixels are left out; of a mosaic's side of 64, three pixels of 256 are less than one."""
    path = tmp_path / "a.png"
    Image.new("RGB", (256, 256)).save(path)
    corners = np.mgrid[20:230:30, 20:230:30].reshape(2, -1).T.astype(np.float32)
    boxes = np.hstack([corners, corners + pixels])
    labels, areas = np.zeros(len(boxes), np.int64), np.full(len(boxes), float(pixels * pixels), np.float32)
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    pictures = Pictures([Sample(path, 1, 256, 256, boxes, labels, areas, *none)])
    settings = AugmentSettings(
        mosaic_size=64, mosaic_scale=(1.0, 1.0), single_prob=1.0, single_scale=(1.0, 1.0), **STILL
    )
    found = training_sample(
        0,
        pictures,
        settings,
        np.random.default_rng(0),
        np.empty((256, 256, 3), np.uint8),
        Scratch(),
        mosaic_prob=mosaic_prob,
        strength=0.5,
        resize=InputSpec(256, 256),
    )
    assert (len(found.labels) >= len(boxes) // 2) == kept
    assert kept or not len(found.labels)
