"""Annotations from the cache are those of the file, whatever happened to either since."""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.data import annotation_cache, coco
from detector.data.coco import parse_coco, read_coco
from detector.data.dataset import class_counts
from detector.data.flat import flat
from detector.data.sample import MISSING_IMAGE, Dataset, Sample
from detector.memory import tell_node
from maenas.errors import MaenasError
from tests.detector.data.conftest import coco_document, write_coco


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its own cache for each test, for files of any size, also right after a change."""
    tell_node.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(coco, "LEAST_BYTES", 0)
    monkeypatch.setattr(annotation_cache, "SETTLED_S", -1e6)
    return tmp_path / "cache" / "maenas"


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were parsed."""
    files: list[Path] = []

    def counted(path: Path, elsewhere: Callable[[], Sequence[Path]]) -> annotation_cache.Parsed:
        files.append(path)
        return parse_coco(path, elsewhere)

    monkeypatch.setattr(coco, "parse_coco", counted)
    return files


def assert_same_sample(one: Sample, two: Sample) -> None:
    for field in fields(Sample):
        ours, theirs = getattr(one, field.name), getattr(two, field.name)
        assert type(ours) is type(theirs)
        if isinstance(ours, np.ndarray):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            assert np.array_equal(ours, theirs)
        else:
            assert ours == theirs


def assert_same(one: Dataset, two: Dataset) -> None:
    assert (one.names, one.problems, one.source) == (two.names, two.problems, two.source)
    for ours, theirs in zip(one.samples, two.samples, strict=True):
        assert_same_sample(ours, theirs)


def annotations(root: Path, document: dict[str, Any] | None = None) -> Path:
    return write_coco(root, document) / "annotations" / "instances_train.json"


numbers = st.floats(-20, 60, width=32) | st.integers(-5, 50)
entries = st.builds(
    lambda image, category, bbox, extra: {"image_id": image, "category_id": category, "bbox": bbox, **extra},
    st.sampled_from([10, 11, 12, 99]),
    st.sampled_from([3, 7]),
    st.lists(numbers, min_size=3, max_size=4),
    st.fixed_dictionaries({}, optional={"area": numbers, "iscrowd": st.integers(0, 1), "segmentation": st.just([[1]])}),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(entries, max_size=12))
def test_cached_annotations_equal_parsed_ones(tmp_path_factory: pytest.TempPathFactory, boxes: list[Any]) -> None:
    path = annotations(tmp_path_factory.mktemp("data"), {**coco_document(), "annotations": boxes})
    parsed = parse_coco(path).dataset
    assert_same(read_coco(path), parsed)
    assert_same(read_coco(path), parsed)


def test_a_file_is_parsed_once(tmp_path: Path, parses: list[Path]) -> None:
    path = annotations(tmp_path / "data")
    for _ in range(3):
        read_coco(path)
    assert parses == [path]


def test_processes_that_come_together_parse_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = annotations(tmp_path / "data"), tmp_path / "told"

    def slow(path: Path, elsewhere: Callable[[], Sequence[Path]]) -> annotation_cache.Parsed:
        with told.open("a") as file:
            file.write("parsed\n")
        time.sleep(0.3)
        return parse_coco(path, elsewhere)

    monkeypatch.setattr(coco, "parse_coco", slow)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=read_coco, args=(path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert told.read_text() == "parsed\n"


def rewrite(path: Path) -> None:
    """Another box, in as many bytes and with the same time."""
    before = path.stat()
    path.write_text(path.read_text().replace("[1, 2, 10, 20]", "[1, 3, 10, 20]"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove_image(path: Path) -> None:
    (path.parents[1] / "images" / "0.jpg").unlink()


def move_images(path: Path) -> None:
    """To a folder that is looked into first."""
    images = path.parents[1] / "images"
    (images / "train").mkdir()
    for image in images.glob("*.jpg"):
        image.rename(images / "train" / image.name)


@pytest.mark.parametrize("change", [rewrite, remove_image, move_images])
def test_what_changed_since_is_noticed(tmp_path: Path, parses: list[Path], change: Callable[[Path], None]) -> None:
    path = annotations(tmp_path / "data")
    before = read_coco(path)
    change(path)
    after = read_coco(path)
    assert_same(after, parse_coco(path).dataset)
    assert len(parses) == 2
    first = (before.samples[0].path, before.samples[0].boxes.tolist())
    assert first != (after.samples[0].path, after.samples[0].boxes.tolist())
    assert (MISSING_IMAGE in {problem.kind for problem in after.problems}) == (change is remove_image)


def test_sizes_from_image_files_are_read_every_time(tmp_path: Path, parses: list[Path]) -> None:
    document = coco_document()
    for image in document["images"]:
        del image["width"], image["height"]
    path = annotations(tmp_path / "data", document)
    for _ in range(2):
        read_coco(path)
    assert len(parses) == 2


def test_a_folder_that_may_still_change_is_looked_into_again(
    tmp_path: Path, parses: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_cache, "SETTLED_S", 3600.0)
    path = annotations(tmp_path / "data")
    for _ in range(2):
        read_coco(path)
    assert len(parses) == 2


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_damaged_cache_is_written_anew(tmp_path: Path, empty_cache: Path, parses: list[Path], keep: int) -> None:
    path = annotations(tmp_path / "data")
    whole = read_coco(path)
    [file] = empty_cache.glob("*.safetensors")
    data = file.read_bytes()
    file.unlink()  # the arrays of `whole` lie in it
    file.write_bytes(data[:keep])
    assert_same(read_coco(path), whole)
    assert_same(read_coco(path), whole)
    assert len(parses) == 2


def test_a_cache_that_cannot_be_written_is_told_once(
    tmp_path: Path, parses: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    path = annotations(tmp_path / "data")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_same(read_coco(path), parse_coco(path).dataset)
    [record] = caplog.records
    assert "parsed by every process" in record.getMessage()
    assert str(tmp_path / "cache") in record.getMessage()


def test_without_a_home_annotations_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(annotation_cache.Path, "home", no_home)
    path = annotations(tmp_path / "data")
    assert_same(read_coco(path), parse_coco(path).dataset)
    with pytest.raises(MaenasError, match="set XDG_CACHE_HOME"):
        annotation_cache.cache_folder()


def test_a_large_file_is_parsed_in_another_process(
    tmp_path: Path, parses: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_cache, "APART_BYTES", 0)
    path = annotations(tmp_path / "data")
    assert_same(read_coco(path), parse_coco(path).dataset)
    assert parses == []  # here
    path.write_text("{")
    with pytest.raises(MaenasError, match="not valid JSON"):
        read_coco(path)


def test_a_small_file_leaves_nothing_in_the_cache(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco, "LEAST_BYTES", 8 * 2**20)
    read_coco(annotations(tmp_path / "data"))
    assert not empty_cache.exists()


def test_samples_can_be_changed_without_changing_the_cache(tmp_path: Path) -> None:
    path = annotations(tmp_path / "data")
    read_coco(path).samples[0].boxes[:] = 1
    assert_same(read_coco(path), parse_coco(path).dataset)


def test_slices_and_sums_are_those_of_the_samples(tmp_path: Path) -> None:
    dataset = parse_coco(annotations(tmp_path / "data")).dataset
    plain = list(dataset.samples)
    for part in (slice(None), slice(1, None, 2), slice(0, 0), slice(None, None, -1)):
        ours, theirs = flat(dataset.samples)[part], plain[part]
        for one, two in zip(ours, theirs, strict=True):
            assert_same_sample(one, two)
        assert ours.ids.tolist() == [sample.id for sample in theirs]
        assert ours.counts.tolist() == [len(sample.labels) for sample in theirs]
        assert ours.sizes.tolist() == [[sample.width, sample.height] for sample in theirs]
        counted = class_counts(Dataset(dataset.names, theirs))
        assert ours.class_counts(2).tolist() == counted.tolist()
        assert counted.sum() == sum(len(sample.labels) for sample in theirs)
    twice = flat([plain[0], plain[1], plain[0]])
    assert twice.first_of_path().tolist() == [0, 1, 0]
