"""What a user does next: the same file again, a file beside another, an option that the first step has set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data.dataset import open_dataset
from detector.data.sample import image_size
from detector.data.shapes import write_shapes
from detector.model.net import DetectorNet
from detector.model.weights import write_weights
from detector.sources import find_images
from maenas.spec import write_spec
from tests.conftest import Maenas
from tests.detector.conftest import TINY
from tests.detector.data.conftest import write_image, write_voc, write_yolo


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "net.safetensors"
    write_weights(path, DetectorNet(TINY), TINY, tuple(f"c{n}" for n in range(TINY.head.num_classes)))
    return path


def test_an_input_is_never_replaced(maenas: Maenas, weights: Path, tmp_path: Path) -> None:
    write_spec(tmp_path / "tiny.json", TINY, "tiny")
    write_shapes(tmp_path / "shapes", images=8, size=64, seed=0)
    image = next((tmp_path / "shapes").rglob("*.png"))
    commands = [
        ("export", weights, "--out", weights),
        ("export", weights, f"--out={weights}"),
        ("weights", "inherit", weights, "--spec", tmp_path / "tiny.json", "--out", weights),
        ("benchmark", tmp_path / "tiny.json", "--out", tmp_path / "tiny.json"),
        ("data", "check", tmp_path / "shapes", "--sheet", image),
    ]
    before = {path: path.read_bytes() for path in (weights, tmp_path / "tiny.json", image)}
    for command in commands:
        found = maenas(*command)
        assert found.code == 2, command
        assert "choose another file" in found.err or "must end in .png" in found.err
    assert {path: path.read_bytes() for path in before} == before
    named = maenas("export", weights, "--out", tmp_path / "net.engine")
    assert (named.code, "called like an engine" in named.err) == (2, True)
    named = maenas("export", weights, "--out", tmp_path / "net")
    assert (named.code, "give it the ending .onnx" in named.err) == (2, True)
    (tmp_path / "net.onnx").touch()
    again = maenas("export", tmp_path / "net.onnx")
    assert (again.code, "is exported already; give the weights" in again.err) == (2, True)


def test_a_file_with_suppression_is_used_with_its_own_thresholds(maenas: Maenas, weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    file = tmp_path / "net.onnx"
    options = ("--nms", "in-graph", "--conf", "0.4", "--iou", "0.5", "--out", file)
    assert maenas("export", weights, *options).code == 0
    write_image(tmp_path / "photos" / "a.jpg")
    assert maenas("detect", tmp_path / "photos", "--weights", file, "--out", tmp_path / "found").code == 0
    refused = maenas("detect", tmp_path / "photos", "--weights", file, "--conf", "0.2", "--out", tmp_path / "found")
    assert (refused.code, "conf 0.4 and iou 0.5" in refused.err) == (2, True)


def test_links_are_followed_once_and_hidden_files_are_none(tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.jpg")
    write_image(tmp_path / "elsewhere" / "b.jpg")
    write_image(tmp_path / "photos" / ".cache" / "c.jpg")
    write_image(tmp_path / "photos" / "._d.jpg")
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    found = find_images(str(tmp_path / "photos"))
    assert [path.relative_to(tmp_path / "photos").as_posix() for path in found] == ["a.jpg", "link/b.jpg"]
    write_yolo(tmp_path / "yolo")
    write_image(tmp_path / "more" / "z.jpg")
    (tmp_path / "yolo" / "images" / "train" / "sub").symlink_to(tmp_path / "more")
    assert len(open_dataset(tmp_path / "yolo", "train")) == 3


def test_images_of_pascal_voc_may_have_blanks_in_their_names(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (split,) = [path for path in (tmp_path / "ImageSets" / "Main").glob("train.txt")]
    first = split.read_text().split()[0]
    for folder in ("Annotations", "JPEGImages"):
        (path,) = (tmp_path / folder).glob(f"{first}.*")
        path.rename(path.with_stem("a photo 7"))
    split.write_text("a photo 7  1\n")
    assert [sample.path.stem for sample in open_dataset(tmp_path, "train").samples] == ["a photo 7"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_turned_image_has_the_size_that_is_shown(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(path, exif=exif)
    assert image_size(path) == (30, 50)


def test_labels_that_detect_wrote_are_boxes_and_shares_of_the_side_are_no_pixels(tmp_path: Path) -> None:
    write_yolo(tmp_path / "found", {"a": "0 0.5 0.5 0.5 0.5 0.93"})
    assert open_dataset(tmp_path / "found", "train").samples[0].boxes.tolist() == [[10, 7.5, 30, 22.5]]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.1, 0.4, 0.4], "area": 0.16, "iscrowd": 0}]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": boxes,
        "categories": [{"id": 1, "name": "cat"}],
    }
    write_image(tmp_path / "shares" / "images" / "a.jpg")
    (tmp_path / "shares" / "annotations").mkdir()
    (tmp_path / "shares" / "annotations" / "instances_train.json").write_text(json.dumps(document))
    with pytest.raises(Exception, match="every box is smaller than a pixel"):
        open_dataset(tmp_path / "shares", "train")


def test_patience_waits_for_an_evaluation_and_one_small_image_is_refused(maenas: Maenas, tmp_path: Path) -> None:
    write_spec(tmp_path / "tiny.json", TINY, "tiny")
    write_shapes(tmp_path / "shapes", images=16, size=64, seed=0)
    common = ("train", tmp_path / "tiny.json", "--data", tmp_path / "shapes", "--set", "workers=0", "--device", "cpu")
    options = ("--recipe", "demo", "--epochs", "6", "--set", "eval_every=4", "--set", "plain_epochs=0")
    run = maenas(*common, *options, "--patience", "2", "--out", tmp_path / "run")
    assert run.code == 0
    assert "since epoch 0" not in run.out
    assert (tmp_path / "run" / "evaluation").is_dir()
    small = maenas(*common, "--recipe", "demo", "--input", "32", "--batch", "1", "--out", tmp_path / "small")
    assert (small.code, "one image of 32x32 a step" in small.err) == (2, True)
