from pathlib import Path

import numpy as np
import pytest

from detector.data.dataset import class_counts, open_dataset
from detector.data.shapes import NAMES, are_built_in, draw_image, write_shapes
from detector.images import read_image
from maenas.errors import MaenasError


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_shapes(tmp_path / name, images=10, size=64, seed=seed)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 12
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert any((tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes() for file in files)


def test_shapes_are_a_data_set_with_two_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("detector.data.shapes.IMAGES", 50)
    train, val = open_dataset("shapes", "train"), open_dataset("shapes", "val")
    assert train.names == val.names == NAMES
    assert (len(train), len(val)) == (40, 10)
    assert not {sample.path for sample in train.samples} & {sample.path for sample in val.samples}
    assert (class_counts(train) > 0).all()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    open_dataset("shapes", "train")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_cache_that_cannot_be_written_says_how_to_name_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MaenasError, match="set XDG_CACHE_HOME"):
        open_dataset("shapes", "train")


def test_a_folder_of_that_name_takes_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_shapes(Path("shapes"), images=10, size=64, seed=3)
    assert not are_built_in("shapes")
    assert {sample.path.parents[1] for sample in open_dataset("shapes", "train").samples} == {tmp_path / "shapes"}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert are_built_in("shapes")


def test_boxes_lie_around_their_shapes() -> None:
    for seed in range(40):
        pixels, boxes, labels = draw_image(np.random.default_rng((1, seed)), 128)
        assert pixels.shape == (128, 128, 3)
        assert len(boxes) == len(labels) <= 6
        assert (boxes >= 0).all()
        assert (boxes <= 128).all()
        if len(boxes) == 1:  # nothing but a soft background around it
            flat = np.abs(pixels.astype(int) - np.median(pixels, axis=(0, 1))).max(axis=2)
            x1, y1, x2, y2 = boxes[0]
            inner = flat[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
            assert inner.max() > 40


def test_a_single_shape_touches_all_sides_of_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.full((128, 128, 3), 128, np.uint8)
    monkeypatch.setattr("detector.data.shapes._background", lambda rng, size: grey.copy())
    seen = 0
    for seed in range(60):
        pixels, boxes, _ = draw_image(np.random.default_rng((2, seed)), 128)
        if len(boxes) != 1:
            continue
        seen += 1
        contrast = np.abs(pixels.astype(int) - 128).max(axis=2)
        ys, xs = np.nonzero(contrast > contrast.max() / 2)
        found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose(found, boxes[0], atol=1.5)
    assert seen > 3


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(MaenasError, match="exists already"):
        write_shapes(tmp_path / "full", images=10, size=64, seed=0)
    with pytest.raises(MaenasError, match="can be made"):
        write_shapes(tmp_path / "new", images=1, size=64, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_files_hold_the_pixels_that_were_drawn(tmp_path: Path) -> None:
    write_shapes(tmp_path / "a", images=5, size=64, seed=9)
    pixels, _, _ = draw_image(np.random.default_rng((9, 1)), 64)
    np.testing.assert_array_equal(read_image(tmp_path / "a" / "images" / "000001.png"), pixels)
