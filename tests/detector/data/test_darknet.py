"""Darknet's folders, as CVAT exports YOLO 1.1."""

import re
from pathlib import Path

import pytest

from detector.data.check import check
from detector.data.dataset import open_dataset, open_unsplit
from maenas.errors import MaenasError, NoSplitError
from tests.detector.data.conftest import write_coco, write_image

SPLITS = ("train", "valid")


def write_darknet(root: Path, splits: tuple[str, ...] = SPLITS, *, inner: str = "") -> Path:
    """`inner` is the folder that lists and lines are written with beside the root."""
    lines = ["classes = 2", *(f"{split} = data/{split}.txt" for split in splits), "names = data/obj.names"]
    root.mkdir(parents=True, exist_ok=True)
    (root / "obj.data").write_text("\n".join([*lines, "backup = backup/"]))
    folder = root / inner
    folder.mkdir(exist_ok=True)
    (folder / "obj.names").write_text("cat\ndog\n")
    for number, split in enumerate(splits):
        images = [f"obj_{split}_data/{name}.jpg" for name in ("a", "b")]
        for seed, image in enumerate(images):
            write_image(folder / image, seed=10 * number + seed)
            (folder / image).with_suffix(".txt").write_text("1 0.5 0.5 0.5 0.2\n")
        (folder / f"{split}.txt").write_text("".join(f"data/{image}\n" for image in images))
    return root


@pytest.mark.parametrize("inner", ["", "data"])
def test_each_split_has_the_images_of_its_list(inner: str, tmp_path: Path) -> None:
    root = write_darknet(tmp_path / "set", inner=inner)
    for split, name in (("train", "train"), ("val", "valid")):
        found = open_dataset(root, split)  # type: ignore[arg-type]
        assert (found.names, found.source) == (("cat", "dog"), f"{root / 'obj.data'} ({split})")
        folder = root / inner / f"obj_{name}_data"
        assert [sample.path for sample in found.samples] == [folder / "a.jpg", folder / "b.jpg"]
        assert found.samples[0].boxes.tolist() == [[10, 12, 30, 18]]
        assert found.samples[0].labels.tolist() == [1]
    assert check(root).usable


def test_other_files_of_that_ending_are_not_looked_at(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set")
    for number, content in enumerate((b"\xff\x00" * 100, b"a = b", b"x" * (1 << 21))):
        (root / f"{number}.data").write_bytes(content)
        assert len(open_dataset(root, "train")) == 3
        (root / f"{number}.data").unlink()


def test_one_list_is_cut(tmp_path: Path) -> None:
    root = write_darknet(tmp_path / "set", ("train",))
    with pytest.raises(NoSplitError, match=r"no val split \(it has train\)\. .*maenas data split"):
        open_dataset(root, "val")
    assert len(open_unsplit(root)) == 2


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train.txt", "../../secret.jpg\n", "leads out of the data folder"),
        ("obj.data", "train = ../train.txt\nnames = obj.names", "leads out of the data folder"),
        ("obj.data", "train = none.txt\nnames = obj.names", r"obj\.data: none\.txt is not there"),
        ("obj.names", "cat\ncat\n", "the class 'cat' appears twice"),
    ],
)
def test_what_cannot_be_read_is_one_message(file: str, text: str, message: str, tmp_path: Path) -> None:
    root = write_darknet(tmp_path / "set")
    (root / file).write_text(text)
    with pytest.raises(MaenasError, match=message):
        open_dataset(root, "train")


def test_paths_of_another_machine_are_found_by_name(tmp_path: Path) -> None:
    root = write_darknet(tmp_path / "set")
    for path in (root / "train.txt", root / "valid.txt"):
        path.write_text(path.read_text().replace("data/obj", "/home/somebody/darknet/data/obj"))
    (root / "valid.txt").write_text(f"{(root / 'valid.txt').read_text()}/home/somebody/lost.jpg\n")
    assert len(open_dataset(root, "train")) == 2
    found = open_dataset(root, "val")
    assert {sample.path.parent for sample in found.samples} == {root / "obj_valid_data"}
    assert [problem.kind for problem in found.problems] == ["missing image", "class without a box"]


@pytest.mark.parametrize("there", ["/home/somebody/darknet/data/", "C:\\darknet\\data\\"])
@pytest.mark.parametrize("inner", ["", "data"])
def test_lists_of_another_machine_are_found_by_the_end_of_their_paths(inner: str, there: str, tmp_path: Path) -> None:
    root = write_darknet(tmp_path / "set", inner=inner)
    for path in (root / "obj.data", root / inner / "valid.txt"):
        path.write_text(re.sub(r"\bdata/", there.replace("\\", "\\\\"), path.read_text()))
    (sample, _) = open_dataset(root, "val").samples
    assert sample.path == root / inner / "obj_valid_data" / "a.jpg"
