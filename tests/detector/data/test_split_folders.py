"""Splits that are folders, and nothing else that says which images are to be trained on."""

import json
import re
from pathlib import Path

import pytest

from detector.data.check import check
from detector.data.dataset import open_dataset, open_unsplit
from detector.data.sample import UNANNOTATED
from maenas.errors import MaenasError, NoSplitError
from tests.detector.data.conftest import VOC_OBJECT, coco_document, write_image, write_voc, write_yolo

COUNTS = {"train": 4, "valid": 2, "test": 1}


def write_split_voc(root: Path, images: str, annotations: str) -> Path:
    """Files of the same names in every split; only the second split has dogs."""
    for split, count in COUNTS.items():
        for number in range(count):
            write_image(root / images.format(split) / f"{number}.jpg", seed=number + 10 * count)
            text = VOC_OBJECT.format("dog" if split == "valid" else "cat", 1, 1, 10 + number, 30)
            path = root / annotations.format(split) / f"{number}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"<annotation>{text}</annotation>")
    return root


def write_split_yolo(root: Path, images: str) -> Path:
    for split, count in COUNTS.items():
        for number in range(count):
            image = root / images.format(split) / f"{number}.jpg"
            write_image(image, seed=number + 10 * count)
            labels = Path(str(image).replace("images", "labels")).with_suffix(".txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(f"{number % 2} 0.5 0.5 0.5 0.{number + 1}\n")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


@pytest.mark.parametrize(
    ("images", "annotations"),
    [("{}", "{}"), ("{}/images", "{}/annotations"), ("images/{}", "xml/{}"), ("{}", None), ("images/{}", None)],
)
def test_every_split_is_read_from_its_folder(images: str, annotations: str | None, tmp_path: Path) -> None:
    if annotations is None:
        write_split_yolo(tmp_path, images)
    else:
        write_split_voc(tmp_path, images, annotations)
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        found = open_dataset(tmp_path, split)
        assert (len(found), found.names, found.source) == (count, ("cat", "dog"), f"{tmp_path} ({split})")
        assert [sample.path.name for sample in found.samples] == [f"{number}.jpg" for number in range(count)]
        sizes = [tuple((sample.boxes[0, 2:] - sample.boxes[0, :2]).round(3)) for sample in found.samples]
        wanted = [(20, 3 * (n + 1)) if annotations is None else (10 + n, 30) for n in range(count)]
        assert sizes == wanted
    assert check(tmp_path).splits.keys() == {"train", "val", "test"}
    with pytest.raises(MaenasError, match="there are 2 validation images already"):
        open_unsplit(tmp_path)


def test_a_split_without_a_folder_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    root = write_split_voc(tmp_path / "data", "{}", "{}")
    (root / "valid").rename(root / "more")
    with pytest.raises(NoSplitError, match=r"no folder called val or valid or validation .*\(found train, test\)"):
        open_dataset(root, "val")
    assert len(open_unsplit(root)) == COUNTS["train"]


def test_an_image_that_nobody_annotated_is_left_out_of_its_split_only(tmp_path: Path) -> None:
    root = write_split_voc(tmp_path, "{}", "{}")
    write_image(root / "train" / "new.jpg", seed=99)
    found = open_dataset(root, "train")
    assert len(found) == COUNTS["train"]
    assert (UNANNOTATED, str(root / "train" / "new.jpg")) in {(one.kind, one.where) for one in found.problems}
    assert UNANNOTATED not in {problem.kind for problem in open_dataset(root, "val").problems}


@pytest.mark.parametrize("write", [write_yolo, write_voc])
def test_data_one_folder_further_down_are_named(write, tmp_path: Path) -> None:
    write(tmp_path / "given" / "inner")
    with pytest.raises(MaenasError, match=re.escape(f"give {tmp_path / 'given' / 'inner'}")):
        open_dataset(tmp_path / "given", "train")


@pytest.mark.parametrize("path", ["../datasets/animals", "/home/somebody/animals"])
def test_a_yaml_from_another_machine_finds_what_lies_beside_it(path: str, tmp_path: Path) -> None:
    file = write_yolo(tmp_path) / "data.yaml"
    text = file.read_text()
    file.write_text(f"path: {path}\n{text}")
    assert len(open_dataset(file, "val")) == 2
    file.write_text(f"path: {path}\n{text.replace('val: images/val', 'val: elsewhere/val')}")
    with pytest.raises(MaenasError, match=r"path leads to .* which is no folder"):
        open_dataset(file, "train")


@pytest.mark.parametrize("there", ["/content/animals", "C:\\Users\\somebody\\animals"])
def test_a_yaml_without_a_path_finds_folders_by_the_ends_of_their_paths(there: str, tmp_path: Path) -> None:
    file = write_yolo(tmp_path) / "data.yaml"
    file.write_text(file.read_text().replace(": images/", f": {there}/images/"))
    assert {sample.path.parent for sample in open_dataset(file, "val").samples} == {tmp_path / "images" / "val"}


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("{}/labels.json", "{}/data"),
        ("{}/annotations.json", "{}"),
        ("{}/annotations/instances_default.json", "{}/images/default"),
        ("annotations/{}/instances.json", "images/{}"),
        ("labels/{}.json", "images/{}"),
        ("{}.json", "images"),
        ("coco_{}.json", "photos/{}/deep"),
        ("inner/instances_{}2017.json", "inner/{}2017"),
    ],
)
def test_coco_annotations_of_any_name_are_of_the_split_that_name_or_folder_tells(
    annotations: str, images: str, tmp_path: Path
) -> None:
    for number, split in enumerate(("train", "val")):
        document = coco_document(5 - number)
        for place, image in enumerate(document["images"]):
            # The folder of another machine, and names that both splits have where these have folders of their own.
            name = f"{split if '{}' not in images else ''}{place}.jpg"
            image["file_name"] = f"/home/somebody/{images.format(split)}/{name}" if number else name
            write_image(tmp_path / images.format(split) / name, seed=place + 10 * number)
        path = tmp_path / annotations.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    for number, split in enumerate(("train", "val")):
        found = open_dataset(tmp_path, split)
        assert (len(found), found.problems, found.names) == (5 - number, (), ("dog", "cat"))
        assert {sample.path.parent for sample in found.samples} == {tmp_path / images.format(split)}
    with pytest.raises(NoSplitError, match="test split"):
        open_dataset(tmp_path, "test")


def test_an_image_of_another_split_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "boxes.json").write_text(json.dumps(coco_document()))
    for number in range(3):
        write_image(tmp_path / "val" / "photos" / f"{number}.jpg", seed=number)
    assert len(open_dataset(tmp_path, "val")) == 3
    with pytest.raises(MaenasError, match="no usable image: 3 x missing image"):
        open_dataset(tmp_path, "train")


def test_coco_of_label_studio_finds_images_as_they_were_before_the_upload(tmp_path: Path) -> None:
    document = coco_document()
    for number, image in enumerate(document["images"]):
        write_image(tmp_path / "photos" / image["file_name"], seed=number)
        image["file_name"] = f"images\\3\\0a1b2c3d-{image['file_name']}"
    (tmp_path / "result.json").write_text(json.dumps(document))
    assert [sample.path.name for sample in open_unsplit(tmp_path).samples] == ["0.jpg", "1.jpg", "2.jpg"]


def test_two_annotation_files_of_a_split_are_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / f"{name}.json").write_text(json.dumps(coco_document()))
    with pytest.raises(MaenasError, match=r"several .* train split \(train/one\.json, train/two\.json\)"):
        open_dataset(tmp_path, "train")


def test_a_list_may_name_what_no_disk_holds_and_folders_that_are_not_there(tmp_path: Path) -> None:
    """The images that are there are read; where none is, the message says so and not to make a folder."""
    root = write_yolo(tmp_path)
    (root / "list.txt").write_text(f"images/train/a.jpg\nimages/{'f' * 5000}/b.jpg\nimages/{'f' * 5000}\n")
    (root / "data.yaml").write_text("train: list.txt\nval: images/val\nnames: [cat, dog]\n")
    assert [sample.path.name for sample in open_dataset(root, "train").samples] == ["a.jpg"]
    (root / "images" / "train").rename(tmp_path / "away")
    (root / "list.txt").write_text("images/train/c.jpg\n")
    with pytest.raises(MaenasError, match=r"there is no usable image: 1 x missing image"):
        open_dataset(root, "train")
