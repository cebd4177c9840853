import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.data.dataset import align_names, open_dataset, read_dataset, summarise
from detector.data.pictures import load_image
from detector.data.sample import (
    BAD_LINE,
    BROKEN_IMAGE,
    CLIPPED_BOX,
    DEGENERATE_BOX,
    DUPLICATE_ANNOTATION,
    MISSING_IMAGE,
    OUTSIDE_BOX,
    UNANNOTATED,
    UNKNOWN_IMAGE,
    UNUSED_CLASS,
    Box,
    Sample,
    make_sample,
    path_inside,
)
from maenas.errors import MaenasError
from tests.detector.data.conftest import VOC_OBJECT, coco_document, write_coco, write_image, write_voc, write_yolo


def kinds(problems: Any) -> Counter[str]:
    return Counter(problem.kind for problem in problems)


# COCO ---------------------------------------------------------------------------------------------------------------


def test_bccd_is_read_from_its_folder(bccd: Path) -> None:
    train, val, test = (open_dataset(bccd, split) for split in ("train", "val", "test"))
    assert [len(train), len(val), len(test)] == [205, 87, 72]
    assert train.names == ("Platelets", "RBC", "WBC")
    assert sum(len(sample.labels) for sample in train.samples) == 2804
    assert train.problems == ()
    first = train.samples[0]
    assert (first.width, first.height) == (640, 480)
    assert first.boxes[0].tolist() == [68, 315, 286, 480]
    assert first.labels[0] == 2


def test_coco_classes_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path), "train")
    assert dataset.names == ("dog", "cat")
    assert [sample.id for sample in dataset.samples] == [10, 11, 12]
    assert dataset.samples[0].labels.tolist() == [1, 0]
    assert dataset.samples[0].areas.tolist() == [150, 600]
    assert dataset.samples[0].boxes.dtype == np.float32
    assert dataset.samples[2].boxes.shape == (0, 4)


def test_whole_numbers_may_be_written_as_floats_and_sizes_may_be_null(tmp_path: Path) -> None:
    file = write_coco(tmp_path) / "annotations" / "instances_train.json"
    expected, document = read_dataset(tmp_path, "train"), json.loads(file.read_text())
    for image in document["images"]:
        image |= {"id": float(image["id"]), "width": None, "height": None}
    for annotation in document["annotations"]:
        annotation |= {key: float(annotation[key]) for key in ("image_id", "category_id")}
    file.write_text(json.dumps(document))
    found = read_dataset(tmp_path, "train")
    assert list(map(repr, found.samples)) == list(map(repr, expected.samples))


def test_crowds_are_set_apart(tmp_path: Path) -> None:
    sample = open_dataset(write_coco(tmp_path), "train").samples[1]
    assert sample.labels.tolist() == [1]
    assert sample.crowd_boxes.tolist() == [[0, 0, 40, 30]]
    assert sample.crowd_labels.tolist() == [0]


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train.json", "images/train"),
        ("annotations/my_train_set.json", "images"),
        ("train/_annotations.coco.json", "train"),
        ("annotations/instances_train.json", "."),
    ],
)
def test_usual_coco_layouts_are_found(annotations: str, images: str, tmp_path: Path) -> None:
    root = tmp_path / "with space, Ünïcode 数据"
    (root / annotations).parent.mkdir(parents=True)
    (root / annotations).write_text(json.dumps(coco_document()))
    for number in range(3):
        write_image(root / images / f"{number}.jpg", seed=number)
    assert len(open_dataset(root, "train")) == 3
    assert len(open_dataset(root / annotations, "train")) == 3


def test_a_relative_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("here", "train")) == 3
    monkeypatch.chdir(tmp_path / "here")
    assert len(open_dataset(".", "train")) == 3
    monkeypatch.chdir(tmp_path / "here" / "annotations")
    assert len(open_dataset("instances_train.json", "train")) == 3
    assert len(open_dataset("..", "train")) == 3


def test_roboflow_calls_the_validation_split_valid(tmp_path: Path) -> None:
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "_annotations.coco.json").write_text(json.dumps(coco_document()))
    write_image(tmp_path / "valid" / "0.jpg")
    assert len(open_dataset(tmp_path, "val")) == 1
    with pytest.raises(MaenasError, match="no COCO annotations for the train split"):
        open_dataset(tmp_path, "train")


def test_bad_annotations_are_left_out_with_their_labels(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"] = [
        {"id": 1, "image_id": 10, "category_id": 7, "bbox": [1, 2, 0, 20]},
        {"id": 2, "image_id": 10, "category_id": 3, "bbox": [50, 5, 30, 20]},
        {"id": 2, "image_id": 10, "category_id": 7, "bbox": [30, 20, 30, 30]},
        {"id": 3, "image_id": 10, "category_id": 3, "bbox": [3, 4, 5, 6]},
        {"id": 4, "image_id": 10, "category_id": 7, "bbox": [3, 4, 5]},
        {"id": 5, "image_id": 10, "category_id": 7, "bbox": [3, 4, 5, "6"]},
        {"id": 6, "image_id": 99, "category_id": 7, "bbox": [3, 4, 5, 6]},
    ]
    write_coco(tmp_path, document)
    (tmp_path / "images" / "2.jpg").unlink()
    dataset = open_dataset(tmp_path, "train")
    assert kinds(dataset.problems) == {
        DEGENERATE_BOX: 3,
        OUTSIDE_BOX: 1,
        CLIPPED_BOX: 1,
        DUPLICATE_ANNOTATION: 1,
        UNKNOWN_IMAGE: 1,
        MISSING_IMAGE: 1,
    }
    assert dataset.samples[0].boxes.tolist() == [[30, 20, 40, 30], [3, 4, 8, 10]]
    assert dataset.samples[0].labels.tolist() == [1, 0]
    assert len(dataset) == 2
    assert summarise(dataset.problems)[0].startswith("3 x box without area: annotations[")


ELL = np.zeros((30, 40), np.uint8)  # a mask as COCO counts it: down the columns
ELL[5:9, 3:20] = ELL[20, 7] = 1


def runs_of(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return np.diff(np.concatenate([[0], edges])).tolist()


@pytest.mark.parametrize(
    ("outline", "box"),
    [
        ([[1, 2, 11, 2, 11, 22]], [1, 2, 11, 22]),
        ([[1, 2, 11, 2, 11, 22], [20, 1, 30, 1, 30, 9.5]], [1, 1, 30, 22]),
        ({"size": [30, 40], "counts": runs_of(ELL)}, [3, 5, 20, 21]),
        ({"size": [30, 40], "counts": [0, 30, 1170]}, [0, 0, 1, 30]),
        ({"size": [30, 40], "counts": [65, 50, 1085]}, [2, 0, 4, 30]),
        ({"size": [30, 40], "counts": "Q2b1V2OPl0"}, [2, 0, 8, 30]),  # 65, 50, 70, 49, 966, packed by hand
        ([[]], None),
        ([[1, 2, 3]], None),
        ({"size": [30, 40], "counts": [1, 2000]}, None),
        ({"counts": 5}, None),
        ("polygon", None),
    ],
)
def test_an_annotation_without_a_box_has_that_around_its_outline(outline: Any, box: Any, tmp_path: Path) -> None:
    document = coco_document()
    for bbox in ({}, {"bbox": None}, {"bbox": []}):
        document["annotations"][0] = {"id": 1, "image_id": 10, "category_id": 7, "segmentation": outline, **bbox}
        found = open_dataset(write_coco(tmp_path, document), "train")
        assert found.samples[0].boxes.tolist() == ([] if box is None else [box]) + [[5, 5, 35, 25]]
        assert kinds(found.problems) == ({DEGENERATE_BOX: 1} if box is None else {})


def wrong(**changes: Any) -> dict[str, Any]:
    return {**coco_document(), **changes}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "an object is expected"),
        ({}, '"images" is missing'),
        (wrong(categories=[]), "categories is empty"),
        (wrong(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "appears twice"),
        (wrong(categories=[{"id": "1", "name": "a"}]), r'categories\[0\]: "id" must be an integer'),
        (wrong(images=[{"id": 1}]), r'images\[0\]: "file_name" must be a string'),
        (wrong(images=[{"id": 10, "file_name": "../x.jpg", "width": 4, "height": 4}]), "leads out of the data folder"),
        (
            wrong(images=[{"id": 10, "file_name": "/etc/hosts", "width": 4, "height": 4}]),
            "leads out of the data folder",
        ),
        (wrong(images=[{"id": 10, "file_name": "0.jpg", "width": 0, "height": 4}]), "at least 1"),
        (wrong(images=[{"id": 10, "file_name": "0.jpg", "width": 4, "height": 4}] * 2), "image id used twice"),
        (wrong(images=[]), "no usable image"),
        (wrong(annotations=[]), "none of the 3 images has a box"),
        (
            wrong(annotations=[{"id": 1, "image_id": 10, "category_id": 8, "bbox": [0, 0, 4, 4]}]),
            "class that is not listed",
        ),
    ],
)
def test_wrong_coco_is_refused_before_training(document: Any, message: str, tmp_path: Path) -> None:
    write_coco(tmp_path, coco_document())
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    with pytest.raises(MaenasError, match=message):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize("text", ["", "{", '{"images": [}', "[" * 100_000, "\x00"])
def test_text_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(MaenasError, match=r"a\.json"):
        open_dataset(path, "train")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations").chmod(0)
    with pytest.raises(MaenasError, match="permission"):
        open_dataset(tmp_path, "train")


def test_a_read_only_folder_is_enough(tmp_path: Path) -> None:
    write_coco(tmp_path)
    for folder in (tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())):
        folder.chmod(0o555)
    try:
        assert len(open_dataset(tmp_path, "train")) == 3
    finally:
        for folder in (tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())):
            folder.chmod(0o755)


# YOLO ---------------------------------------------------------------------------------------------------------------


def test_yolo_boxes_are_centre_and_size_in_parts_of_the_image(tmp_path: Path) -> None:
    dataset = open_dataset(write_yolo(tmp_path), "train")
    assert dataset.names == ("cat", "dog")
    assert dataset.samples[0].boxes.round(4).tolist() == [[10, 7.5, 30, 22.5], [8, 4.5, 12, 10.5]]
    assert dataset.samples[0].labels.tolist() == [0, 1]
    assert len(dataset.samples[1].labels) == 0
    assert [sample.id for sample in dataset.samples] == [1, 2]


def test_yolo_polygons_become_boxes(tmp_path: Path) -> None:
    dataset = open_dataset(write_yolo(tmp_path, {"a": "1 0.1 0.2 0.5 0.2 0.3 0.8"}), "val")
    np.testing.assert_allclose(dataset.samples[0].boxes, [[4, 6, 20, 24]], rtol=1e-6)


@pytest.mark.parametrize("name", ["a.jpg.txt", "c.txt", "a.TXT"])
def test_label_files_that_are_named_after_no_image_are_told(name: str, tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5", "b": "1 0.5 0.5 0.5 0.5"})
    labels = root / "labels" / "train"
    (labels / "a.txt").rename(labels / name)
    (labels / "classes.txt").write_text("cat\ndog\n")
    if (labels / "a.txt").exists():
        pytest.skip("this file system takes a.TXT for a.txt")
    (root / "some.txt").write_text("images/train/b.jpg\n")  # no label of an image that is not listed is told
    for images, sizes in (("images/train", [0, 1]), ("some.txt", [1])):
        (root / "data.yaml").write_text(f"train: {images}\nval: images/val\nnames: [cat, dog]\n")
        found = read_dataset(root, "train")
        assert [len(sample.boxes) for sample in found.samples] == sizes
        assert [tuple(problem) for problem in found.problems] == [(MISSING_IMAGE, f"that of {labels / name}")]
    assert read_dataset(root, "val").problems == ()


def test_without_any_yolo_label_file_it_is_told_where_they_should_be(tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    (root / "labels").rename(root / "annotations")
    images, labels = root / "images" / "train", root / "labels" / "train"
    wheres = [f"{images / name}.jpg (there is no {labels / name}.txt)" for name in "ab"]
    assert read_dataset(root, "train").problems == tuple((UNANNOTATED, where) for where in wheres)


@pytest.mark.parametrize("folder", ["/home/somebody/set/images", "D:\\set\\images", "elsewhere"])
def test_lists_of_yolo_images_from_another_machine_find_them_by_name(folder: str, tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    slash = "\\" if "\\" in folder else "/"
    for split in ("train", "val"):  # whose images have equal names
        names = [slash.join((folder, split, name)) for name in ("a.jpg", "b.jpg", "lost.jpg")]
        (root / f"{split}.txt").write_text("\n".join(names))
    (root / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
    for split in ("train", "val"):
        found = read_dataset(root, split)
        assert [sample.path for sample in found.samples] == [root / "images" / split / f"{name}.jpg" for name in "ab"]
        assert kinds(found.problems) == {MISSING_IMAGE: 1}


@pytest.mark.parametrize(
    ("shape", "points"), [("[4, 3]", "0.1 0.1 2 0.9 0.9 2 0 0 0 0.3 0.4 1"), ("[1, 2]", "0.9 0.9")]
)
def test_key_points_behind_a_yolo_box_are_no_polygon(shape: str, points: str, tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"a": f"1 0.5 0.5 0.5 0.5 {points}\n0 0.1 0.1 0.3 0.1 0.2 0.4"})
    file = root / "data.yaml"
    file.write_text(f"{file.read_text()}kpt_shape: {shape}\n")
    assert open_dataset(root, "train").samples[0].boxes[0].tolist() == [10, 7.5, 30, 22.5]
    file.write_text(f"{file.read_text()}\n".replace(shape, "17"))
    with pytest.raises(MaenasError, match="kpt_shape is 17; it must be"):
        open_dataset(root, "train")


def test_bad_yolo_lines_are_left_out(tmp_path: Path) -> None:
    lines = (
        "0 0.5 0.5 0.5\n0 x 0.5 0.5 0.5\n0 nan 0.5 0.5 0.5\n0.5 0.5 0.5 0.5 0.5\n0 320 240 100 90\n\n1 0.5 0.5 0.2 0.2"
    )
    dataset = open_dataset(write_yolo(tmp_path, {"a": lines}), "train")
    assert kinds(dataset.problems) == {BAD_LINE: 5, UNUSED_CLASS: 1}
    assert dataset.samples[0].labels.tolist() == [1]


def test_broken_yolo_images_are_left_out(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5", "b": "1 0.5 0.5 0.5 0.5", "c": ""})
    (tmp_path / "images" / "train" / "b.jpg").write_bytes(b"not an image")
    dataset = open_dataset(tmp_path, "train")
    assert kinds(dataset.problems) == {BROKEN_IMAGE: 1, UNUSED_CLASS: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nval: images/val\nnames: [yes, no]", r"names\[0\] is read as True; put it in quotes"),
        ("train: images/train\nnames: [a, a]", "the class 'a' appears twice"),
        ("train: images/train\nnames: [a, b]\nnc: 3", "nc is 3, but names has 2"),
        ("train: images/train\nnc: 0", "names must be a list"),
        ("train: images/train\nnc: two", "names must be a list"),
        ("train: images/train\nnames: {0: a, 2: b}", "keys of names must be 0, 1"),
        ("val: images/val\nnames: [a, b]", "no train split .it has val."),
        ("train: images/none\nnames: [a, b]", "neither a folder nor"),
        ("train: ../../etc\nnames: [a, b]", "leads out of the data folder"),
        ("path: nowhere\ntrain: elsewhere\nnames: [a, b]", "is no folder"),
        ("train: [\nnames: [a, b]", "not valid YAML"),
        ("just text", "a mapping"),
        ("train: images/train\nnames: [a]", "class that is not listed"),
    ],
)
def test_wrong_yolo_is_refused_before_training(text: str, message: str, tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(MaenasError, match=message):
        open_dataset(tmp_path, "train")


def test_yolo_lists_dictionaries_and_odd_exports_are_read(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "list.txt").write_text("./images/train/a.jpg\nimages/train/b.jpg\n")
    (tmp_path / "data.yaml").write_text(
        "train: list.txt\nval: ../images/val\nnames: {1: dog, 0: cat}\nroboflow: {a: 1}\n"
    )
    assert len(open_dataset(tmp_path, "train")) == 2
    assert open_dataset(tmp_path / "data.yaml", "val").names == ("cat", "dog")
    (tmp_path / "data.yaml").write_text("train: list.txt\nval: images/val\nnames: {'1': dog, '0': cat}\n")
    assert open_dataset(tmp_path, "train").names == ("cat", "dog")
    (tmp_path / "data.yaml").write_text("train: list.txt\nval: images/val\nnc: 3\n")
    assert open_dataset(tmp_path, "train").names == ("class_0", "class_1", "class_2")
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(MaenasError, match=r"nothing names their classes; write a data\.yaml"):
        open_dataset(tmp_path, "train")


# Pascal VOC ---------------------------------------------------------------------------------------------------------


def test_voc_classes_are_those_of_all_annotations_sorted(tmp_path: Path) -> None:
    train, val = (open_dataset(write_voc(tmp_path), split) for split in ("train", "val"))
    assert train.names == val.names == ("ant", "zebra")
    assert (len(train), len(val)) == (2, 1)
    assert train.samples[0].boxes.tolist() == [[0, 0, 40, 30], [2, 3, 9, 8]]
    assert train.samples[0].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("<annotation>", "not valid XML"), ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "entities are not read")],
)
def test_wrong_voc_is_refused(text: str, message: str, tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "x1.xml").write_text(text)
    with pytest.raises(MaenasError, match=message):
        open_dataset(tmp_path, "train")


def test_objects_of_labelmes_xml_are_the_boxes_around_their_polygons(tmp_path: Path) -> None:
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((3, 4), (20.5, 6), (9, 25)))
    kept, gone = (
        f"<object><name>cat</name><deleted>{deleted}</deleted><polygon>{points}</polygon></object>"
        for deleted in (0, 1)
    )
    for split in ("train", "val"):
        write_image(tmp_path / "Images" / split / f"{split}.jpg")
        (tmp_path / "Annotations" / split).mkdir(parents=True)
        (tmp_path / "Annotations" / split / f"{split}.xml").write_text(f"<annotation>{kept}{gone}</annotation>")
    assert open_dataset(tmp_path, "train").samples[0].boxes.tolist() == [[3, 4, 20.5, 25]]


@pytest.mark.parametrize(("annotated", "shape"), [((40, 30), (30, 40)), ((30, 40), (40, 30)), ((0, 0), (40, 30))])
def test_a_turned_voc_image_lies_as_it_was_annotated(annotated: Any, shape: Any, tmp_path: Path) -> None:
    sample = load_sized(tmp_path, *annotated)
    assert load_image(sample).shape[:2] == shape


def test_a_voc_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match="is 30x40, but annotated as 80x60"):
        load_image(load_sized(tmp_path, 80, 60))


def load_sized(root: Path, width: int, height: int) -> Sample:
    """A sample whose image is 40x30, is shown standing, and was annotated with this size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(write_voc(root) / "JPEGImages" / "x1.jpg", exif=exif)
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    text = f"<annotation>{size}{VOC_OBJECT.format('cat', 1, 1, 20, 20)}</annotation>"
    (root / "Annotations" / "x1.xml").write_text(text)
    return read_dataset(root, "train").samples[0]


def test_a_voc_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match=r"no test\.txt .* \(found train\.txt, val\.txt\)"):
        open_dataset(write_voc(tmp_path), "test")


# All formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("train/cells.tfrecord", "export the data as COCO"),
        ("voc.tfrecord-00000-of-00002", "export the data as COCO"),
        ("data/train-00000.parquet", "export the data as COCO"),
        ("images.zip", "unpack it"),
    ],
)
def test_data_in_files_that_are_not_read_are_told_with_what_to_do(name: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(MaenasError, match=f"{Path(name).name} is not read; {advice}"):
        open_dataset(tmp_path, "train")


def test_what_is_no_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match="no such file or folder"):
        open_dataset(tmp_path / "none", "train")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(MaenasError, match=r"no known layout .found a\.txt."):
        open_dataset(tmp_path, "train")
    with pytest.raises(MaenasError, match=r"a COCO \.json, a YOLO data\.yaml or a folder"):
        open_dataset(tmp_path / "a.txt", "train")


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    train = open_dataset(write_coco(tmp_path), "train")
    val = open_dataset(write_yolo(tmp_path / "other"), "val")
    assert (train.names, val.names) == (("dog", "cat"), ("cat", "dog"))
    aligned = align_names(val, train.names)
    assert aligned.names == train.names
    assert aligned.samples[0].labels.tolist() == [1, 0]
    assert align_names(train, train.names) is train


def test_an_unknown_class_of_the_validation_split_is_refused(tmp_path: Path) -> None:
    val = open_dataset(write_yolo(tmp_path), "val")
    with pytest.raises(MaenasError, match="the classes dog have boxes here"):
        align_names(val, ("cat", "bird"))


def test_a_class_that_the_validation_split_lacks_is_a_warning(tmp_path: Path) -> None:
    val = open_dataset(write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5"}), "val")
    assert kinds(val.problems) == {UNUSED_CLASS: 1}
    assert align_names(val, ("dog", "cat")).samples[0].labels.tolist() == [1]


finite = st.floats(-1e4, 1e4)


@given(st.lists(st.tuples(finite, finite, finite, finite), max_size=8), st.integers(1, 500), st.integers(1, 500))
@settings(max_examples=200)
def test_boxes_and_labels_are_filtered_together(corners: list, width: int, height: int) -> None:
    boxes = [Box(xyxy, label, "here") for label, xyxy in enumerate(corners)]
    sample = make_sample(Path("x"), 1, width, height, boxes, [])
    assert len(sample.boxes) == len(sample.labels) == len(sample.areas)
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= [width, height, width, height]).all()
    for box, label in zip(sample.boxes, sample.labels, strict=True):
        expected = np.clip(corners[label], 0, [width, height, width, height])
        np.testing.assert_allclose(box, expected, rtol=1e-6, atol=1e-4)


@given(st.text(alphabet="ab./\\ü ", max_size=12))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    root = Path("/data/set")
    try:
        path = path_inside(root, name, where="here")
    except MaenasError:
        return
    assert path == root or root in path.parents
    assert ".." not in path.parts


def test_reading_keeps_going_where_opening_refuses(tmp_path: Path) -> None:
    dataset = read_dataset(write_coco(tmp_path, wrong(annotations=[])), "train")
    assert len(dataset) == 3
