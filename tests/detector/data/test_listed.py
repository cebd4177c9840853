"""Lists of boxes in many images: CSV tables and the files of annotation tools."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detector.data.check import check
from detector.data.dataset import open_dataset, open_unsplit
from detector.data.listed import is_list
from detector.data.sample import BAD_LINE, MISSING_IMAGE, UNANNOTATED
from maenas.errors import MaenasError, NoSplitError
from tests.detector.data.conftest import write_coco, write_image

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"
Entry = tuple[str, str, tuple[float, float, float, float]]  # image, class, corners
ENTRIES: dict[str, list[Entry]] = {
    "train": [("a.jpg", "cat", (1, 2, 11, 22)), ("b.jpg", "dog", (5, 5, 9, 15)), ("a.jpg", "dog", (0, 0, 4, 4))],
    "valid": [("a.jpg", "fox", (3, 3, 13, 9))],  # an image of the same name as one of the training's
}


def csv_of(entries: list[Entry]) -> str:
    return "\n".join([HEADER, *(f"{i},40,30,{label},{','.join(map(str, box))}" for i, label, box in entries)]) + "\n"


def createml_of(entries: list[Entry]) -> str:
    images: dict[str, list[dict]] = {}
    for image, label, (x1, y1, x2, y2) in entries:
        box = {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1}
        images.setdefault(image, []).append({"label": label, "coordinates": box})
    return json.dumps([{"image": image, "annotations": found} for image, found in images.items()])


def cvat_of(entries: list[Entry]) -> str:
    images: dict[str, str] = {}
    for image, label, corners in entries:
        sides = " ".join(f'{key}="{value}"' for key, value in zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True))
        images[image] = f'{images.get(image, "")}<box label="{label}" occluded="0" {sides}></box>'
    rows = "".join(
        f'<image id="0" name="{name}" width="40" height="30">{boxes}</image>' for name, boxes in images.items()
    )
    return f'<?xml version="1.0"?>\n<annotations>\n<version>1.1</version>\n{rows}</annotations>'


def studio_of(entries: list[Entry]) -> str:
    """Tasks whose images were uploaded, and are called now as they were before."""
    images: dict[str, list[dict]] = {}
    for image, label, (x1, y1, x2, y2) in entries:
        box = {"x": x1 / 40 * 100, "y": y1 / 30 * 100, "width": (x2 - x1) / 40 * 100, "height": (y2 - y1) / 30 * 100}
        value = {**box, "rotation": 0, "rectanglelabels": [label]}
        shape = {"original_width": 40, "original_height": 30, "type": "rectanglelabels", "value": value}
        images.setdefault(image, []).append(shape)
    old = {"id": 1, "completed_by": 1, "result": [], "was_cancelled": False}
    tasks = [
        {
            "id": number,
            "annotations": [{**old, "id": 7, "result": shapes}, old, {**old, "id": 9, "was_cancelled": True}],
            "data": {"text": "of the task", "image": f"/data/upload/3/0a1b2c3d-{image}"},
        }
        for number, (image, shapes) in enumerate(images.items())
    ]
    return json.dumps(tasks)


def via_of(entries: list[Entry]) -> str:
    images: dict[str, dict] = {}
    for image, label, (x1, y1, x2, y2) in entries:
        shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        region = {"shape_attributes": shape, "region_attributes": {"quality": "good", "Class": label}}
        images.setdefault(f"{image}123", {"filename": image, "size": 123, "regions": [], "file_attributes": {}})
        images[f"{image}123"]["regions"].append(region)
    return json.dumps({"_via_settings": {"ui": {}}, "_via_img_metadata": images, "_via_attributes": {}})


def jsonl_of(entries: list[Entry]) -> str:
    rows: dict[str, dict] = {}
    for image, label, (x1, y1, x2, y2) in entries:
        objects = rows.setdefault(image, {"bbox": [], "categories": []})
        objects["bbox"].append([x1, y1, x2 - x1, y2 - y1])
        objects["categories"].append(label)
    return "\n".join(json.dumps({"file_name": image, "objects": objects}) for image, objects in rows.items())


FORMS = [
    ("_annotations.csv", csv_of),
    ("_annotations.createml.json", createml_of),
    ("annotations.xml", cvat_of),
    ("project-3-at-2026-01-01.json", studio_of),
    ("via_region_data.json", via_of),
    ("metadata.jsonl", jsonl_of),
]


def write_splits(root: Path, list_name: str, text_of: Callable[[list[Entry]], str]) -> Path:
    """A folder for each split, with its images and its list."""
    for number, (split, entries) in enumerate(ENTRIES.items()):
        for at, name in enumerate(dict.fromkeys(image for image, _, _ in entries)):
            write_image(root / split / name, seed=10 * number + at)
        (root / split / list_name).write_text(text_of(entries))
    return root


@pytest.mark.parametrize(("name", "text_of"), FORMS)
def test_each_split_has_the_boxes_of_its_list_and_the_classes_of_all(name, text_of, tmp_path: Path) -> None:
    write_splits(tmp_path, name, text_of)
    found = open_dataset(tmp_path, "train")
    assert (found.names, len(found), found.source) == (("cat", "dog", "fox"), 2, f"{tmp_path} (train)")
    first, second = found.samples
    assert first.path == tmp_path / "train" / "a.jpg"
    assert [(box.tolist(), int(label)) for box, label in zip(first.boxes, first.labels, strict=True)] == [
        ([1, 2, 11, 22], 0),
        ([0, 0, 4, 4], 1),
    ]
    assert second.boxes.tolist() == [[5, 5, 9, 15]]
    (rated,) = open_dataset(tmp_path, "val").samples
    assert (rated.path, rated.boxes.tolist(), rated.labels.tolist()) == (
        tmp_path / "valid" / "a.jpg",
        [[3, 3, 13, 9]],
        [2],
    )
    assert check(tmp_path).splits.keys() == {"train", "val"}
    with pytest.raises(NoSplitError, match="no list of boxes is of the test split"):
        open_dataset(tmp_path, "test")


@pytest.mark.parametrize(("name", "text_of"), FORMS)
def test_a_list_may_be_given_itself(name, text_of, tmp_path: Path) -> None:
    write_splits(tmp_path, name, text_of)
    assert [sample.path.name for sample in open_unsplit(tmp_path / "train" / name).samples] == ["a.jpg", "b.jpg"]
    with pytest.raises(MaenasError, match=r"expected|COCO"):
        open_dataset(tmp_path / "train" / name, "train")


def test_lists_may_be_called_like_splits_and_share_a_folder_of_images(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.jpg", seed=number)
    (tmp_path / "data").mkdir()
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        rows = [(f"{number}.jpg", "cat", (1, 1, 9, 9)) for number in numbers]
        (tmp_path / "data" / f"{split}_labels.csv").write_text(csv_of(rows))
    assert [s.path.name for s in open_dataset(tmp_path, "train").samples] == ["0.jpg", "1.jpg"]
    assert [s.path.name for s in open_dataset(tmp_path, "test").samples] == ["2.jpg"]
    assert open_dataset(tmp_path, "train").problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffimage;label;x1;y1;x2;y2\nphotos/a.jpg;a, or b;1;2;11.5;22\n",
        'Path\tclass\tXMin\tYMin\tXMax\tYMax\nphotos\\a.jpg\t"a, or b"\t1\t2\t11.5\t22\n',
        'filename, class, xmin, ymin, xmax, ymax\n/home/me/a.jpg, "a, or b", 1, 2, 11.5, 22\n',
    ],
)
def test_a_list_without_splits_can_be_cut_however_its_columns_are_written(text: str, tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.jpg")
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
    with pytest.raises(NoSplitError, match="maenas data split"):
        open_dataset(tmp_path, "train")
    (sample,) = open_unsplit(tmp_path).samples
    assert sample.boxes.tolist() == [[1, 2, 11.5, 22]]
    assert open_unsplit(tmp_path).names == ("a, or b",)


def test_what_is_wrong_with_a_list_is_named_and_the_rest_is_used(tmp_path: Path) -> None:
    for number, name in enumerate(("a.jpg", "empty.jpg", "unlisted.jpg")):
        write_image(tmp_path / name, seed=number)
    rows = ["a.jpg,40,30,cat,1,2,11,22", "gone.jpg,40,30,cat,1,2,3,4", "a.jpg,40,30,cat,1,two,3,4", "a.jpg,,,,1,2,3,4"]
    rows += ["empty.jpg,40,30,,,,,", "a.jpg,40,30,cat,nan,2,11,22", "a.jpg,40,30"]
    (tmp_path / "boxes.csv").write_text("\n".join([HEADER, *rows]))
    found = open_unsplit(tmp_path)
    assert [(s.path.name, len(s.boxes)) for s in found.samples] == [("a.jpg", 1), ("empty.jpg", 0)]
    kinds = [problem.kind for problem in found.problems]
    assert kinds.count(MISSING_IMAGE) == 1
    assert (UNANNOTATED, str(tmp_path / "unlisted.jpg")) in {(one.kind, one.where) for one in found.problems}
    assert {problem.where for problem in found.problems if problem.kind == BAD_LINE} >= {
        f"{tmp_path / 'boxes.csv'}:{line}" for line in (4, 5, 8)
    }
    assert np.isfinite(found.samples[0].boxes).all()


def test_an_image_name_that_two_images_have_is_an_error(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / str(number) / "a.jpg", seed=number)
    (tmp_path / "boxes.csv").write_text(csv_of([("a.jpg", "cat", (1, 2, 11, 22))]))
    with pytest.raises(MaenasError, match=r"'a\.jpg' may be .*give paths from the list's folder"):
        open_unsplit(tmp_path)
    (tmp_path / "boxes.csv").write_text(csv_of([("1/a.jpg", "cat", (1, 2, 11, 22))]))
    assert [sample.path for sample in open_unsplit(tmp_path).samples] == [tmp_path / "1" / "a.jpg"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.csv", "epoch,loss\n1,2\n"),
        ("boxes.csv", "filename,class,xmin,ymin\na.jpg,cat,1,2\n"),
        ("boxes.json", '{"image": "a.jpg"}'),
        ("boxes.csv", ""),
    ],
)
def test_other_tables_and_documents_are_no_lists_of_boxes(name: str, text: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    (tmp_path / name).write_text(text)
    with pytest.raises(MaenasError):
        open_unsplit(tmp_path)


def test_of_a_heap_only_tables_and_documents_are_opened_and_no_pipe_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("[")
    (tmp_path / "binary.csv").write_bytes(b"\0\xff" * 99)
    os.mkfifo(tmp_path / "boxes.csv")
    assert not any(is_list(path) for path in (*tmp_path.iterdir(), tmp_path / "gone.json"))


def test_what_was_detected_in_the_images_of_a_coco_file_does_not_hide_it(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances_train.json").rename(tmp_path / "all.json")
    (tmp_path / "found").mkdir()
    result = {"image_id": 10, "category_id": 7, "bbox": [1, 2, 10, 20], "score": 0.5}
    (tmp_path / "found" / "detections.json").write_text(json.dumps([result], indent=1))
    assert open_unsplit(tmp_path).names == ("dog", "cat")


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[1]",
        '[{"annotations": []}]',
        "[" * 10_000,
        '[{"completed_by": 1, "data": {"image": 1}}]',
        '{"_via_settings": {}, "a.jpg": [1]}',
        '{"_via_settings"',
    ],
)
def test_a_broken_list_is_one_message_with_its_path(text: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(MaenasError, match=r"boxes\.json"):
        open_unsplit(tmp_path)
