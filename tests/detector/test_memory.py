"""The processes of a node have one cache."""

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from detector.batch_size import largest_size, random_batch
from detector.data.dataset import open_dataset
from detector.data.loader import padded_count
from detector.data.pictures import Pictures
from detector.data.shapes import write_shapes
from detector.distributed import any_process, join_world, wait_for_all
from detector.memory import node_memory
from detector.process import algorithms
from detector.recipe import Recipe, override
from maenas.spec import InputSpec
from tests.detector.test_distributed import run

GB = 10**9


def decode_once(folder: Path, out: Path) -> None:
    """The first process decodes the images; then their files are gone, and the second one has them all the same."""
    with join_world("cpu") as world:
        dataset = open_dataset(folder, "train")
        pictures = Pictures(dataset.samples, cache=node_memory(world, 10**7))
        if world.rank == 0:
            np.save(out / "pixels.npy", np.stack([pictures[index].image for index in range(len(dataset))]))
            for sample in dataset.samples:
                sample.path.unlink()
        wait_for_all()
        if world.rank == 1:
            found = np.stack([pictures[index].image for index in range(len(dataset))])
            np.testing.assert_array_equal(found, np.load(out / "pixels.npy"))
            (out / "shared").touch()


def test_processes_of_a_node_decode_an_image_once(tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes", images=20, size=64, seed=0)
    run(2, decode_once, tmp_path / "shapes", tmp_path)
    assert (tmp_path / "shared").exists()


def split_memory(out: Path) -> None:
    """Where one process cannot reach the memory of the other, each has half for itself."""
    with join_world("cpu") as world, mock.patch("detector.memory._anonymous", return_value=-1):
        memory = node_memory(world, 1000)
        memory[0] = 1 + world.rank
        wait_for_all()
        assert (len(memory), memory[0]) == (500, 1 + world.rank)
        assert not any_process(False)
        (out / str(world.rank)).touch()


def test_processes_that_cannot_share_have_a_part_each(tmp_path: Path) -> None:
    run(2, split_memory, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]


def test_a_trial_step_has_the_largest_images_and_the_most_boxes() -> None:
    wide = InputSpec(320, 640)
    assert largest_size(wide, Recipe()) == wide
    several = override(Recipe(), ["multi_scale=[480,800,640]"])
    largest = largest_size(wide, several)
    assert (largest.height, largest.width) == (384, 800)
    batch = random_batch(largest, 2, boxes=21)
    assert batch.images.shape == (2, 3, 384, 800)
    assert batch.boxes.shape == (2, padded_count(21), 4)
    assert (batch.boxes[..., 2:] <= torch.tensor([800.0, 384.0])).all()


@pytest.mark.parametrize(("boxes", "rows"), [(0, 8), (8, 8), (9, 12), (13, 16), (17, 24), (25, 32), (100, 128)])
def test_boxes_are_padded_to_few_counts(boxes: int, rows: int) -> None:
    assert padded_count(boxes) == rows


def test_deterministic_algorithms_tell_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with algorithms(deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with algorithms(deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
