"""Boxes that do not suit the input of a detector are told before it trains."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.data.flat import flat
from detector.data.sample import Dataset, Sample
from detector.reach import input_sides, longest_box, reach_texts
from maenas.spec import InputSpec, published_specs, resized

NANO = published_specs()["damo-yolo-nano-s"]  # 7 bins, 416 pixels


def sample(number: int, side: int, *sizes: tuple[float, float]) -> Sample:
    boxes = np.array([(1, 2, 1 + width, 2 + height) for width, height in sizes], np.float32).reshape(-1, 4)
    labels, none = np.zeros(len(boxes), np.int64), np.zeros((0, 4), np.float32)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return Sample(Path(f"{number}.jpg"), number, side, side, boxes, labels, areas, none, np.zeros(0, np.int64))


def dataset(*samples: Sample) -> Dataset:
    return Dataset(("a",), samples)


def test_boxes_beyond_the_bins_are_counted_at_the_size_of_the_input() -> None:
    data = dataset(sample(1, 800, (750, 300), (100, 100)), sample(2, 1600, (900, 20)), sample(3, 800))
    assert reach_texts(NANO, data) == []
    (text,) = reach_texts(resized(NANO, 640), data)
    assert text.startswith("1 of 3 boxes are longer than 448 pixels at 640x640")
    assert longest_box(published_specs()["damo-yolo-t"]) == 1024


def test_many_boxes_smaller_than_a_cell_are_told() -> None:
    few = dataset(sample(1, 416, (7, 7), *[(50.0, 50.0)] * 4))
    many = dataset(sample(1, 416, (7, 7), (3, 2), (7, 9), (50, 50)))
    assert reach_texts(NANO, few) == []
    assert reach_texts(NANO, many)[0].startswith("50% of the boxes are smaller than 8 pixels at 416x416")
    assert reach_texts(resized(NANO, 832), many)[0].startswith("25%")


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_sides_of_a_part_of_the_samples_are_those_of_its_boxes_one_by_one(resize: str) -> None:
    rng = np.random.default_rng(0)
    samples = [sample(n, 100 + 50 * (n % 3), *rng.uniform(1, 90, (n % 4, 2)).tolist()) for n in range(12)]
    samples = [replace(one, height=one.height // 2) for one in samples]
    size, part = InputSpec(64, 96, resize="letterbox" if resize == "letterbox" else "stretch"), flat(samples)[3:11:2]
    wanted = []
    for one in samples[3:11:2]:
        x, y = 96 / one.width, 64 / one.height
        if resize == "letterbox":
            scale = min(x, y)
            x, y = round(one.width * scale) / one.width, round(one.height * scale) / one.height
        wanted += [((x2 - x1) * x, (y2 - y1) * y) for x1, y1, x2, y2 in one.boxes.tolist()]
    np.testing.assert_allclose(input_sides(part, size), np.array(wanted), rtol=1e-5)
