"""The processes of a node have one cache."""

import multiprocessing
import os
import types
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.batch_size import largest_size, random_batch
from detector.data.dataset import open_dataset
from detector.data.loader import LoaderSettings, make_loader, padded_count
from detector.data.pictures import Pictures
from detector.data.shapes import write_shapes
from detector.distributed import any_process, join_world, wait_for_all
from detector.memory import AHEAD, IN_USE, loaders_that_fit, node_memory, tell_node
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
        assert any_process(False) == (False,)
        (out / str(world.rank)).touch()


def test_processes_that_cannot_share_have_a_part_each(tmp_path: Path) -> None:
    run(2, split_memory, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]


@given(st.integers(1, 64), st.integers(1, 10**8), st.integers(0, 10**10), st.integers(1, 8))
def test_as_many_load_as_there_is_room_for(wanted: int, batch_bytes: int, room: int, processes: int) -> None:
    blocks = types.SimpleNamespace(f_blocks=10**7, f_bavail=room // 4096, f_frsize=4096)
    with (
        mock.patch("os.statvfs", return_value=blocks, create=True),
        mock.patch.dict(os.environ, LOCAL_WORLD_SIZE=str(processes)),
    ):
        found = loaders_that_fit(wanted, batch_bytes)
    share = room // 4096 * 4096 / processes
    assert 0 <= found <= wanted
    assert found == 0 or (AHEAD * found + IN_USE) * batch_bytes <= share
    assert found == wanted or (AHEAD * (found + 1) + IN_USE) * batch_bytes > share - 1


def test_without_a_limit_all_load() -> None:
    unlimited = types.SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=4096)
    with mock.patch("os.statvfs", return_value=unlimited, create=True):
        assert loaders_that_fit(4, 10**9) == 4
    with mock.patch("os.statvfs", side_effect=FileNotFoundError, create=True):
        assert loaders_that_fit(4, 10**9) == 4


def test_a_container_without_room_loads_in_its_own_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The default of Docker, 64 MB, in which torch would wait for ever for a batch that never comes."""
    tell_node.cache_clear()
    write_shapes(tmp_path / "shapes", images=20, size=64, seed=0)
    settings = LoaderSettings(InputSpec(height=640, width=640), batch_size=16, epochs=2, workers=4)
    loader = make_loader(open_dataset(tmp_path / "shapes", "train"), settings)
    docker = types.SimpleNamespace(f_blocks=16384, f_bavail=16384, f_frsize=4096)
    with mock.patch("os.statvfs", return_value=docker, create=True):
        for _ in range(2):
            batches = loader.batches()
            next(batches)
            assert not multiprocessing.active_children()
    (message,) = caplog.messages
    assert "197 MB" in message
    assert "--shm-size 1g" in message


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
