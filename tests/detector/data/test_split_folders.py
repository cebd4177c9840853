"""Splits that are folders, and nothing else that says which images are to be trained on."""

import re
from pathlib import Path

import pytest

from detector.data.check import check
from detector.data.dataset import open_dataset, open_unsplit
from detector.data.sample import UNANNOTATED
from maenas.errors import MaenasError, NoSplitError
from tests.detector.data.conftest import VOC_OBJECT, write_image, write_voc, write_yolo

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
