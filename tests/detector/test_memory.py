"""What is free is counted as the system would give it, and the processes of a node have one cache."""

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
from detector.memory import free_memory, node_memory, total_memory
from detector.process import algorithms
from detector.recipe import Recipe, override
from maenas.spec import InputSpec
from tests.detector.test_distributed import run

GB = 10**9


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 64000000 kB\nMemFree: 1000000 kB\nMemAvailable: 48000000 kB\n"}


def group(place: str, most: str, used: int, inactive: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup/{place}"
    return {
        f"{folder}/memory.max": f"{most}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\ninactive_file {inactive}\n",
    }


def test_files_kept_in_memory_are_free(tmp_path: Path) -> None:
    assert free_memory(write(tmp_path, MACHINE)) == 48000000 * 1024


def test_the_tightest_group_counts_also_one_around_ours(tmp_path: Path) -> None:
    groups = group("a/b", "max", 3 * GB, 0) | group("a", str(10 * GB), 8 * GB, 5 * GB) | group("", "max", 0, 0)
    root = write(tmp_path, {**MACHINE, "proc/self/cgroup": "0::/a/b\n", **groups})
    assert free_memory(root) == 7 * GB
    assert total_memory(root) == min(10 * GB, total_memory(tmp_path / "nowhere"))


def test_a_group_above_its_limit_has_nothing_free(tmp_path: Path) -> None:
    root = write(tmp_path, {**MACHINE, "proc/self/cgroup": "0::/\n", **group("", str(GB), 2 * GB, 0)})
    assert free_memory(root) == 0


def test_groups_of_the_first_version_count(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "5:cpu:/job\n4:memory:/job\n0::/job\n",
        f"{folder}/memory.limit_in_bytes": str(4 * GB),
        f"{folder}/memory.usage_in_bytes": str(3 * GB),
        f"{folder}/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB}\n",
    }
    assert free_memory(write(tmp_path, {**MACHINE, **files})) == 2 * GB


def test_this_machine_has_some() -> None:
    assert 0 < free_memory() < total_memory()


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
