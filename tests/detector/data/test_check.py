import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from detector.data.check import LEAK, NEW_CLASS, NO_BOXES, RARE_CLASS, SAME_IMAGE, SPECKS, check, contact_sheet
from detector.data.dataset import align_names, open_dataset
from detector.data.sample import BROKEN_IMAGE, MISSING_IMAGE, UNKNOWN_CLASS, UNUSED_CLASS
from detector.draw import CAPTION, GAP, TILE
from maenas.cli.data import data_app
from maenas.errors import MaenasError
from maenas.palette import class_colour
from tests.detector.data.conftest import coco_document, write_coco, write_voc, write_yolo


def counts(problems: dict) -> dict[str, int]:
    return {kind: entry["count"] for kind, entry in problems.items()}


def write_both(root: Path) -> Path:
    """Training and validation images, all different."""
    val = coco_document()
    val["images"] = [{**image, "file_name": f"v{image['file_name']}"} for image in val["images"]]
    return write_coco(write_coco(root), val, split="val")


def test_a_clean_data_set_has_no_problem(tmp_path: Path) -> None:
    report = check(write_both(tmp_path))
    assert report.usable
    assert report.document()["splits"]["train"]["problems"] == {}
    assert report.document()["splits"]["train"]["classes"] == {"dog": 1, "cat": 2}
    assert report.document()["splits"]["train"]["images_without_boxes"] == 1
    assert report.leaks == ()


def test_every_kind_of_problem_is_counted(tmp_path: Path) -> None:
    train = coco_document(6)
    train["annotations"].append({"id": 9, "image_id": 10, "category_id": 77, "bbox": [0, 0, 4, 4]})
    train["annotations"] += [
        {"id": 10 + i, "image_id": 12, "category_id": 3, "bbox": [0, 0, 4 + i / 100, 4]} for i in range(300)
    ]
    train["categories"].append({"id": 9, "name": "unused"})
    write_coco(tmp_path, train)
    val = coco_document(3)
    val["images"] = [{**image, "file_name": f"v{image['file_name']}"} for image in val["images"]]
    val["categories"][0]["name"] = "bird"
    write_coco(tmp_path, val, split="val")
    images = tmp_path / "images"
    (images / "3.jpg").write_bytes(b"\xff\xd8\xff\xe0 damaged \xff\xd9")
    (images / "4.jpg").unlink()
    shutil.copy(images / "1.jpg", images / "5.jpg")
    shutil.copy(images / "2.jpg", images / "v2.jpg")

    report = check(tmp_path)
    document = report.document()
    assert not report.usable
    assert counts(document["splits"]["train"]["problems"]) == {
        UNKNOWN_CLASS: 1,
        MISSING_IMAGE: 1,
        BROKEN_IMAGE: 1,
        SAME_IMAGE: 1,
        RARE_CLASS: 1,
        UNUSED_CLASS: 1,
    }
    assert counts(document["splits"]["val"]["problems"]) == {NEW_CLASS: 1}
    assert counts(document["leaks"]) == {LEAK: 1}
    assert "2.jpg" in document["leaks"][LEAK]["examples"][0]


def test_a_split_without_boxes_cannot_be_trained_on(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "", "b": ""})
    report = check(tmp_path)
    assert not report.usable
    assert counts(report.document()["splits"]["train"]["problems"]) == {NO_BOXES: 1}


def test_boxes_that_are_no_pixel_large_cannot_be_trained_on(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 0.5 0.5 0.02 0.02\n1 0.2 0.2 0.01 0.01"})
    report = check(tmp_path)
    assert not report.usable
    assert counts(report.document()["splits"]["val"]["problems"]) == {SPECKS: 1}
    with pytest.raises(MaenasError, match="smaller than a pixel"):
        open_dataset(tmp_path, "train")


def test_all_splits_of_a_folder_are_looked_at(tmp_path: Path) -> None:
    seen = []
    report = check(write_voc(tmp_path), on_image=lambda: seen.append(1))
    assert list(report.splits) == ["train", "val"]
    assert len(seen) == 3


def test_bccd_leaks_nothing(bccd: Path) -> None:
    report = check(bccd)
    assert report.usable
    assert list(report.splits) == ["train", "val", "test"]
    assert report.leaks == ()


def test_a_file_is_checked_as_the_training_split(tmp_path: Path) -> None:
    write_coco(tmp_path)
    assert list(check(tmp_path / "annotations" / "instances_train.json").splits) == ["train"]
    with pytest.raises(MaenasError, match="no such file"):
        check(tmp_path / "nothing")


@pytest.mark.parametrize(("images", "columns"), [(1, 1), (3, 3), (16, 3)])
def test_the_sheet_shows_images_with_their_boxes(images: int, columns: int, tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path), "train")
    tallest = max(round(TILE * sample.height / max(sample.height, sample.width)) for sample in dataset.samples)
    size = columns * (TILE + GAP) + GAP, tallest + CAPTION + 2 * GAP
    with Image.open(io.BytesIO(contact_sheet(dataset, images=images))) as sheet:
        assert sheet.size == size
        pixels = np.asarray(sheet)
    colour = np.array(class_colour(1))
    assert (np.abs(pixels.astype(int) - colour).max(axis=2) == 0).sum() > 100


def test_the_command_prints_counts_and_exits_with_1_where_training_is_impossible(tmp_path: Path) -> None:
    write_both(tmp_path / "good")
    write_yolo(tmp_path / "bad", {"a": "7 0.5 0.5 0.1 0.1"})
    runner = CliRunner()
    result = runner.invoke(data_app, ["check", str(tmp_path / "good"), "--json", "--sheet", str(tmp_path / "s.png")])
    assert result.exit_code == 0
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["command"] == "data check"
    assert document["usable"]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    result = runner.invoke(data_app, ["check", str(tmp_path / "bad")])
    assert result.exit_code == 1
    assert "1 x annotation of a class that is not listed" in result.stdout
    assert "cannot be trained on" in result.stdout


def test_data_without_validation_images_cannot_be_trained_on_and_the_command_says_what_to_do(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "my data")
    result = CliRunner().invoke(data_app, ["check", str(data)])
    assert result.exit_code == 1
    assert "val    none\ntest   none\nTo cut what is there into training and validation images: " in result.stdout
    assert f"maenas data split '{data}' NEW" in result.stdout
    assert check(data / "annotations" / "instances_train.json").usable


def test_faults_of_the_validation_images_count_as_those_of_the_training_images(tmp_path: Path) -> None:
    data = write_both(tmp_path / "data")
    file = data / "annotations" / "instances_val.json"
    good = json.loads(file.read_text())
    for fault in ({"category_id": 99}, {"category_id": 8}):
        bad = {**good, "annotations": [{**good["annotations"][0], **fault}, *good["annotations"][1:]]}
        bad["categories"] = [*good["categories"], {"id": 8, "name": "unseen"}]
        file.write_text(json.dumps(bad))
        assert not check(data).usable
        with pytest.raises(MaenasError):
            align_names(open_dataset(data, "val"), open_dataset(data, "train").names)
    file.write_text("[")
    with pytest.raises(MaenasError, match="not valid JSON"):
        check(data)


def test_a_test_split_that_is_not_there_or_cannot_be_read_is_told_and_no_hindrance(tmp_path: Path) -> None:
    data = write_yolo(tmp_path / "data")
    file = data / "data.yaml"
    assert check(data).absent == {"test": "none"}
    file.write_text(file.read_text() + "\ntest: test/images\n")
    report = check(data)
    assert report.usable
    assert list(report.splits) == ["train", "val"]
    assert report.document()["absent"]["test"].startswith(f"cannot be read: {file}: test leads to {data}/test/images")
    result = CliRunner().invoke(data_app, ["check", str(data)])
    assert result.exit_code == 0
    assert f"\ntest   cannot be read: {file}: test leads to" in result.stdout


def test_the_command_writes_shapes(tmp_path: Path) -> None:
    arguments = ["shapes", str(tmp_path / "new"), "--images", "10", "--size", "64", "--seed", "5"]
    result = CliRunner().invoke(data_app, arguments)
    assert result.exit_code == 0, result.output
    assert len(open_dataset(tmp_path / "new", "train")) == 8
    assert isinstance(CliRunner().invoke(data_app, arguments).exception, MaenasError)
    assert CliRunner().invoke(data_app, [*arguments[:-1], "-1"]).exit_code == 2


def test_images_whose_names_are_not_text_are_checked_read_and_kept_in_the_cache(tmp_path: Path) -> None:
    odd = os.fsdecode(b"odd\xff")
    try:
        write_yolo(tmp_path / "set", {odd: "0 0.5 0.5 0.5 0.5", "b": "1 0.5 0.5 0.5 0.5"})
    except OSError:
        pytest.skip("this file system takes names that are text only")
    report = check(tmp_path / "set")
    assert report.usable
    assert report.document()["splits"]["train"]["problems"] == {}
    json.dumps(report.document())
    assert contact_sheet(open_dataset(tmp_path / "set", "train"), images=2)
    for _ in range(2):  # parsed, then from the cache
        dataset = open_dataset(tmp_path / "set", "train")
        assert {sample.path.name for sample in dataset.samples} == {f"{odd}.jpg", "b.jpg"}
        assert sum(len(sample.boxes) for sample in dataset.samples) == 2


def test_images_that_are_used_with_a_fault_are_told(tmp_path: Path) -> None:
    image = write_both(tmp_path) / "images" / "0.jpg"
    image.write_bytes(image.read_bytes()[:-2])
    (found,) = check(tmp_path).document()["splits"]["train"]["problems"].items()
    assert found == (
        "image with a fault (used)",
        {"count": 1, "examples": [f"image {image}: the end of the file is missing; the rest of the image is used"]},
    )
