import logging
import mmap
import multiprocessing
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detector.data.augment import shift_colours
from detector.data.dataset import Dataset, open_dataset
from detector.data.loader import Batch, Loader, LoaderSettings, eval_batches, make_loader, padded_count
from detector.data.pictures import Pictures, Reports, load_image
from detector.data.sample import Sample
from detector.data.settings import AugmentSettings
from detector.data.shapes import write_shapes
from detector.images import read_image
from maenas.errors import MaenasError
from maenas.spec import InputSpec
from tests.detector.data.conftest import write_image

SETTINGS = LoaderSettings(InputSpec(64, 64), 4, epochs=2, plain_epochs=1, augment=AugmentSettings(mosaic_size=64))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, images=20, size=64, seed=1)
    return open_dataset(folder, "train")


def assert_equal(one: Batch, two: Batch) -> None:
    for name, a, b in zip(Batch._fields, one, two, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name


def test_batches_have_the_promised_form(shapes: Dataset) -> None:
    loader = make_loader(shapes, SETTINGS)
    assert (loader.steps_per_epoch, loader.total_steps) == (4, 8)
    batches = list(loader.batches())
    assert len(batches) == 8
    for images, boxes, labels, ids in batches:
        assert images.shape == (4, 3, 64, 64)
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert boxes.dtype == torch.float32
        assert boxes.shape == (*labels.shape, 4)
        assert labels.dtype == ids.dtype == torch.int64
        assert (labels >= -1).all()
        assert (labels < 4).all()
        assert (boxes >= 0).all()
        assert (boxes <= 64).all()
        assert (boxes[labels < 0] == 0).all()
        real = boxes[labels >= 0]
        assert (real[:, 2:] > real[:, :2]).all()


def test_an_epoch_takes_every_image_at_most_once(shapes: Dataset) -> None:
    loader = make_loader(shapes, SETTINGS)
    epochs = [torch.cat([loader.batch(step).ids for step in range(first, first + 4)]).tolist() for first in (0, 4)]
    assert all(len(set(ids)) == 16 for ids in epochs)
    assert epochs[0] != epochs[1]


def test_workers_change_nothing(shapes: Dataset) -> None:
    cache = mmap.mmap(-1, len(shapes) + 64 * 64 * 3 * 7)
    alone = list(make_loader(shapes, SETTINGS).batches())
    together = list(make_loader(shapes, replace(SETTINGS, workers=2), cache=cache).batches())
    for one, two in zip(alone, together, strict=True):
        assert_equal(one, two)


def test_the_cache_changes_nothing(shapes: Dataset) -> None:
    cached = make_loader(shapes, SETTINGS, cache=mmap.mmap(-1, 10**9))
    plain = make_loader(shapes, SETTINGS)
    for step in (0, 5, 0, 7):
        assert_equal(cached.batch(step), plain.batch(step))


@pytest.mark.parametrize("start", [0, 1, 3, 4, 7, 8])
def test_going_on_equals_not_having_stopped(shapes: Dataset, start: int) -> None:
    whole = list(make_loader(shapes, SETTINGS).batches())
    rest = list(make_loader(shapes, SETTINGS).batches(start))
    assert len(rest) == len(whole) - start
    for one, two in zip(whole[start:], rest, strict=True):
        assert_equal(one, two)


def test_processes_share_the_batch_of_one(shapes: Dataset) -> None:
    whole = make_loader(shapes, SETTINGS)
    parts = [make_loader(shapes, replace(SETTINGS, batch_size=2), rank=rank, world_size=2) for rank in (0, 1)]
    assert {part.total_steps for part in parts} == {whole.total_steps}
    for step in range(8):
        one, two = (part.batch(step) for part in parts)
        expected = whole.batch(step)
        assert torch.equal(torch.cat([one.images, two.images]), expected.images)
        assert torch.equal(torch.cat([one.ids, two.ids]), expected.ids)
        for part, rows in ((one, slice(0, 2)), (two, slice(2, 4))):
            most = part.labels.shape[1]
            assert torch.equal(part.labels, expected.labels[rows, :most])
            assert torch.equal(part.boxes, expected.boxes[rows, :most])
            assert (expected.labels[rows, most:] == -1).all()


def test_another_seed_gives_other_batches(shapes: Dataset) -> None:
    one, two = (make_loader(shapes, replace(SETTINGS, seed=seed)).batch(0) for seed in (0, 1))
    assert not torch.equal(one.images, two.images)


def test_the_last_epochs_show_whole_images(shapes: Dataset) -> None:
    settings = replace(SETTINGS, augment=AugmentSettings(mosaic_size=64, flip_prob=0, box_prob=0))
    batch = make_loader(shapes, settings).batch(5)
    by_id = {sample.id: sample for sample in shapes.samples}
    for image, boxes, labels, id in zip(*batch, strict=True):
        sample = by_id[int(id)]
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), load_image(sample))
        np.testing.assert_allclose(boxes[labels >= 0], sample.boxes)
        np.testing.assert_array_equal(labels[labels >= 0], sample.labels)


def test_every_size_of_multi_scale_comes_the_same_in_all_processes(shapes: Dataset) -> None:
    settings = replace(SETTINGS, epochs=8, multi_scale=(32, 64, 96))
    loaders = [make_loader(shapes, replace(settings, batch_size=2), rank=rank, world_size=2) for rank in (0, 1)]
    shapes_seen = [tuple(loaders[0].batch(step).images.shape[2:]) for step in range(loaders[0].total_steps)]
    assert set(shapes_seen) == {(32, 32), (64, 64), (96, 96)}
    for step in range(6):
        assert loaders[1].batch(step).images.shape[2:] == shapes_seen[step]
    wide = make_loader(shapes, replace(settings, input=InputSpec(64, 128), multi_scale=(192,)))
    assert wide.batch(0).images.shape[2:] == (96, 192)


def test_a_batch_larger_than_the_data_set_goes_round(shapes: Dataset) -> None:
    one = replace(shapes, samples=shapes.samples[:1])
    loader = make_loader(one, SETTINGS)
    assert loader.steps_per_epoch == 1
    batch = loader.batch(0)
    assert batch.ids.tolist() == [one.samples[0].id] * 4
    assert not torch.equal(batch.images[0], batch.images[1])


def test_images_without_boxes_are_trained_on(shapes: Dataset) -> None:
    empty = [
        replace(sample, boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64)) for sample in shapes.samples
    ]
    batch = make_loader(replace(shapes, samples=tuple(empty)), SETTINGS).batch(0)
    assert batch.boxes.shape == (4, padded_count(0), 4)
    assert (batch.labels == -1).all()


def broken(dataset: Dataset, folder: Path, count: int) -> Dataset:
    """The data set with its first images damaged."""
    path = folder / "broken.jpg"
    path.write_bytes(b"\xff\xd8 no more")
    samples = [replace(sample, path=path if i < count else sample.path) for i, sample in enumerate(dataset.samples)]
    return replace(dataset, samples=tuple(samples))


def test_broken_images_are_replaced_with_one_warning(
    shapes: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        batches = list(make_loader(broken(shapes, tmp_path, 2), SETTINGS).batches())
    assert len(batches) == 8
    assert len(caplog.records) == 1
    assert "broken.jpg" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluations_with_the_same_reports_warn_once(workers: int, shapes: Dataset, tmp_path: Path) -> None:
    log = logging.FileHandler(tmp_path / "log.txt")  # which worker processes share
    logging.getLogger("detector.data.pictures").addHandler(log)
    damaged = broken(shapes, tmp_path, 1)
    reports = Reports(damaged.samples)
    for _ in range(3):
        batches = list(eval_batches(damaged, InputSpec(64, 64), batch_size=4, workers=workers, reports=reports))
        assert sum(len(batch.ids) for batch in batches) == len(shapes) - 1
    logging.getLogger("detector.data.pictures").removeHandler(log)
    log.close()
    assert (tmp_path / "log.txt").read_text().count("left out of the evaluation") == 1


def test_a_jpeg_without_its_end_is_trained_on_with_one_warning(
    shapes: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cut.jpg"
    write_image(path, 64, 64)
    path.write_bytes(path.read_bytes()[:-20])
    cut = replace(shapes, samples=(replace(shapes.samples[0], path=path), *shapes.samples[1:]))
    settings = replace(SETTINGS, plain_epochs=2)
    with caplog.at_level(logging.WARNING):
        batches = list(make_loader(cut, settings).batches())
    assert sum((batch.ids == shapes.samples[0].id).sum() for batch in batches) == settings.epochs
    assert [record.message.count("cut.jpg: the end of the file is missing") for record in caplog.records] == [1]


@pytest.mark.parametrize("workers", [0, 1])
def test_only_broken_images_are_an_error(shapes: Dataset, tmp_path: Path, workers: int) -> None:
    loader = make_loader(broken(shapes, tmp_path, len(shapes)), replace(SETTINGS, workers=workers))
    with pytest.raises(MaenasError, match="16 images in a row cannot be read"):
        list(loader.batches())


def test_wrong_requests_are_refused(shapes: Dataset) -> None:
    with pytest.raises(MaenasError, match="batch size is 0"):
        make_loader(shapes, replace(SETTINGS, batch_size=0))
    with pytest.raises(MaenasError, match="no image"):
        make_loader(replace(shapes, samples=()), SETTINGS)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (1500, 2)])
def test_odd_images_survive_the_whole_pipeline(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    write_image(tmp_path / "a.png", width, height)
    box = np.array([[0, 0, width, height]], np.float32)
    label, none = np.array([0]), np.zeros((0, 4), np.float32)
    sample = Sample(tmp_path / "a.png", 1, width, height, box, label, label, none, np.zeros(0, np.int64))
    settings = replace(SETTINGS, epochs=8, plain_epochs=4, augment=AugmentSettings(mosaic_size=64, mixup_prob=1.0))
    for batch in make_loader(Dataset(("a",), (sample,)), settings).batches():
        assert batch.images.shape == (4, 3, 64, 64)
        assert torch.isfinite(batch.boxes).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_takes_every_image_in_order(shapes: Dataset, workers: int) -> None:
    batches = list(eval_batches(shapes, InputSpec(96, 64), batch_size=3, workers=workers))
    assert [id for batch in batches for id in batch.ids] == [sample.id for sample in shapes.samples]
    assert batches[0].images.shape == (3, 3, 96, 64)
    assert batches[0].placements[0].scale_y == 1.5


def test_evaluation_leaves_broken_images_out(shapes: Dataset, tmp_path: Path) -> None:
    batches = list(eval_batches(broken(shapes, tmp_path, 4), InputSpec(64, 64), batch_size=3))
    assert [id for batch in batches for id in batch.ids] == [sample.id for sample in shapes.samples[4:]]


# Pictures -----------------------------------------------------------------------------------------------------------


def sample_of(path: Path, width: int, height: int) -> Sample:
    none = np.zeros((0, 4), np.float32)
    return Sample(path, 1, width, height, none, np.zeros(0, np.int64), np.zeros(0), none, np.zeros(0, np.int64))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_fast_decoding_equals_the_reader_of_the_detector(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ü ñ{suffix}"
    write_image(path, 61, 47)
    difference = load_image(sample_of(path, 61, 47)).astype(int) - read_image(path)
    assert np.abs(difference).max() <= (2 if suffix == ".jpg" else 0)


def test_the_annotated_size_decides_about_the_orientation(tmp_path: Path) -> None:
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(sample_of(tmp_path / "a.jpg", 30, 50)).shape == (50, 30, 3)
    assert load_image(sample_of(tmp_path / "a.jpg", 50, 30)).shape == (30, 50, 3)
    with pytest.raises(MaenasError, match="is 30x50, but annotated as 31x50"):
        load_image(sample_of(tmp_path / "a.jpg", 31, 50))


def test_truncated_images_are_broken(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", 200, 200)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(MaenasError, match=r"a\.jpg"):
        load_image(sample_of(tmp_path / "a.jpg", 200, 200))


def test_the_cache_keeps_to_its_budget_and_cannot_be_written_to(shapes: Dataset) -> None:
    one = 64 * 64 * 3
    pictures = Pictures(shapes.samples, cache=mmap.mmap(-1, len(shapes) + 2 * one + 5))
    for index in (0, 1, 2, 0):
        np.testing.assert_array_equal(pictures[index].image, load_image(shapes.samples[index]))
    assert np.shares_memory(pictures[0].image, pictures[0].image)
    assert np.shares_memory(pictures[1].image, pictures[1].image)
    assert not np.shares_memory(pictures[2].image, pictures[2].image)
    with pytest.raises(ValueError, match="read-only"):
        pictures[0].image[0] = 0


def test_a_jpeg_that_claims_to_be_huge_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    start = data.index(b"\xff\xc0")  # marker, length, precision, height, width
    data[start + 5 : start + 9] = b"\x75\x30\x75\x30"  # 30,000 x 30,000
    (tmp_path / "huge.jpg").write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV would take 2.7 GB"))
    with pytest.raises(MaenasError, match=r"huge\.jpg"):
        load_image(sample_of(tmp_path / "huge.jpg", 16, 16))


def test_a_single_image_is_moved_with_its_boxes(tmp_path: Path) -> None:
    """The box is where the only bright rectangle is; outside the image there is grey."""
    pixels = np.zeros((120, 90, 3), np.uint8)
    pixels[40:80, 20:60] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    none = np.zeros((0, 4), np.float32)
    box, label = np.array([[20, 40, 60, 80]], np.float32), np.array([0])
    sample = Sample(tmp_path / "a.png", 1, 90, 120, box, label, label, none, np.zeros(0, np.int64))
    augment = AugmentSettings(mosaic_prob=0, single_prob=1, box_prob=0, degrees=0, shear=0, single_scale=(0.5, 1.2))
    for resize in ("stretch", "letterbox"):
        settings = LoaderSettings(InputSpec(96, 128, resize=resize), 4, epochs=8, augment=augment)
        seen = set()
        for batch in make_loader(Dataset(("a",), (sample,)), settings).batches():
            for image, boxes, labels in zip(batch.images, batch.boxes, batch.labels, strict=True):
                seen.add(boxes[0].tolist().__repr__())
                ys, xs = np.nonzero((image.numpy() > 180).all(axis=0))
                if labels[0] < 0:
                    assert len(xs) < 0.15 * 40 * 40 * 2
                    continue
                found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                np.testing.assert_allclose(found, boxes[0].numpy(), atol=1.6)
        assert len(seen) > 8


def test_colours_shift_within_their_limits_and_keep_grey_grey(shapes: Dataset) -> None:
    plain = replace(SETTINGS, augment=AugmentSettings(mosaic_prob=0, box_prob=0))
    moved = replace(plain, augment=replace(plain.augment, hue=0.02, saturation=0.7, brightness=0.4))
    before = make_loader(shapes, plain).batch(0).images.float()
    after = make_loader(shapes, moved).batch(0).images.float()
    assert not torch.equal(before, after)
    limit = (before.amax(1) * 1.4).clamp(max=255) + 2
    assert (after.amax(1) <= limit).all()
    grey = np.full((8, 8, 3), 100, np.uint8)
    shift_colours(grey, moved.augment, np.random.default_rng(0))
    assert (grey == grey[0, 0, 0]).all()


def test_a_worker_that_hangs_ends_with_its_batches(shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone, Python would wait for it when the program is over, for ever."""
    if sys.platform != "linux":
        pytest.skip("other platforms start workers that know nothing of the patch")
    loader = make_loader(shapes, replace(SETTINGS, workers=2))
    batch = Loader.batch

    def stuck(self: Loader, step: int) -> Batch:
        while step > 1:
            time.sleep(1)
        return batch(self, step)

    monkeypatch.setattr(Loader, "batch", stuck)
    batches = loader.batches()
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not multiprocessing.active_children()
