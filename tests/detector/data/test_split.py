"""Cutting data without splits: nothing is lost, every class is on both sides, and what belongs together stays so."""

import contextlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data.dataset import class_counts, open_dataset, open_unsplit
from detector.data.labelme import json_objects
from detector.data.sample import MISSING_IMAGE, UNANNOTATED
from detector.data.split import split_data, stratified
from detector.data.unsplit import Heap, single_pairs
from detector.job import leak_text, make_job
from maenas.errors import MaenasError, NoSplitError
from tests.detector.data.conftest import VOC_OBJECT, coco_document, write_coco, write_image, write_voc, write_yolo


def write_loose_voc(root: Path, count: int = 10, images: str = "images") -> Path:
    """`annots/*.xml` and `images/*.jpg`, as annotation tools write them: no list says which are to be trained on."""
    for number in range(count):
        write_image(root / images / f"{number}.jpg", seed=number)
        text = f"<annotation>{VOC_OBJECT.format('cat' if number % 3 else 'dog', 1, 1, 20, 30)}</annotation>"
        path = root / "annots" / f"{number}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


def write_loose_yolo(root: Path, labels: str) -> Path:
    """Images in `images/`, their label files and `classes.txt` in `labels`."""
    for number in range(6):
        write_image(root / "images" / f"{number}.jpg", seed=number)
        path = root / labels / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number % 2} 0.5 0.5 0.5 0.5\n")
    (root / labels / "classes.txt").write_text("cat\ndog\n\n")
    (root / "notes.json").write_text('{"info": "of the tool"}')
    return root


def labelme_text(*shapes: tuple[str, str, list[list[float]]]) -> str:
    """The file of an image with shapes (label, kind, points)."""
    rows = [{"label": label, "shape_type": kind, "points": points, "group_id": None} for label, kind, points in shapes]
    return json.dumps({"version": "5.8", "flags": {}, "shapes": rows, "imagePath": "x.jpg", "imageData": None})


def write_labelme(root: Path, images: str = ".") -> Path:
    """A file for each image, and one that annotates none."""
    for number in range(6):
        write_image(root / images / f"{number}.jpg", seed=number)
        (root / f"{number}.json").write_text(
            labelme_text(("cat" if number % 2 else "dog", "rectangle", [[9, 8], [1, 2]]))
        )
    (root / "notes.json").write_text('{"info": "of the tool"}')
    return root


def write_one_coco(root: Path, folder: str = ".") -> Path:
    """All annotations in one file of a name of its own."""
    write_coco(root, coco_document(8))
    (root / "annotations" / "instances_train.json").rename(root / folder / "result.json")
    return root


@pytest.mark.parametrize(
    "form", ["voc", "voc-beside", "yolo", "yolo-beside", "labelme", "labelme-beside", "coco", "coco-top"]
)
def test_every_form_of_unsplit_data_becomes_splits_that_hold_all_of_it(tmp_path: Path, form: str) -> None:
    root = tmp_path / "data"
    match form:
        case "voc":
            write_loose_voc(root)
        case "voc-beside":
            write_loose_voc(root, images="annots")
        case "labelme":
            write_labelme(root, images="images")
        case "labelme-beside":
            write_labelme(root)
        case "yolo":
            write_loose_yolo(root, "labels")
        case "yolo-beside":
            write_loose_yolo(root, "images")
        case "coco":
            write_one_coco(root, "annotations")
        case _:
            write_one_coco(root)
    whole = open_unsplit(root)
    assert not whole.problems
    with pytest.raises(NoSplitError, match=re.escape(f"maenas data split {root} NEW")):
        open_dataset(root, "train")
    split_data(root, tmp_path / "new", val=0.3, seed=1)
    parts = [open_dataset(tmp_path / "new", split) for split in ("train", "val")]
    assert [part.names for part in parts] == [whole.names] * 2
    found = {sample.path.name: sample for part in parts for sample in part.samples}
    assert len(found) == len(parts[0]) + len(parts[1]) == len(whole)
    for sample in whole.samples:
        copy = found[sample.path.name]
        assert copy.path.read_bytes() == sample.path.read_bytes()
        assert (copy.width, copy.height) == (sample.width, sample.height)
        np.testing.assert_allclose(copy.boxes, sample.boxes, atol=1e-4)
        np.testing.assert_allclose(copy.crowd_boxes, sample.crowd_boxes, atol=1e-4)
        np.testing.assert_allclose(copy.areas, sample.areas)
        assert (copy.labels == sample.labels).all()
        assert (copy.crowd_labels == sample.crowd_labels).all()


def test_a_shape_of_labelme_becomes_the_box_around_it(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    shapes = [
        ("box", "rectangle", [[30, 20], [10, 5]]),
        ("box", "polygon", [[1, 2], [9, 3], [4, 12]]),
        ("disc", "circle", [[20, 15], [23, 19]]),
        ("disc", "point", [[3, 3]]),
        ("disc", "line", [[3, 3], [9, 9]]),
        (" ", "rectangle", [[30, 20], [10, 5]]),
    ]
    (tmp_path / "a.json").write_text(labelme_text(*shapes))
    dataset = open_unsplit(tmp_path)
    (sample,) = dataset.samples
    assert dataset.names == ("box", "disc")
    assert sample.labels.tolist() == [0, 0, 1]
    assert sample.boxes.tolist() == [[10, 5, 30, 20], [1, 2, 9, 12], [15, 10, 25, 20]]
    assert [problem.where[-7:] for problem in dataset.problems] == ["shape 3", "shape 4", "shape 5"]


def test_a_file_of_labelme_that_is_no_text_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"shapes": ["\xff"]}')
    with pytest.raises(MaenasError, match=r"a\.json.*UTF-8") as caught:
        list(json_objects(tmp_path / "a.json", []))
    assert "JSON" not in str(caught.value)


KEYS = ["shapes", "objects", "label", "points", "shape_type"]


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
        max_leaves=12,
    )
)
def test_any_json_is_read_as_an_annotation_or_refused(
    tmp_path_factory: pytest.TempPathFactory, document: object
) -> None:
    path = tmp_path_factory.mktemp("labelme") / "a.json"
    for text in (json.dumps(document), json.dumps({"shapes": [document, {"label": "x", "points": document}]})):
        path.write_text(text, encoding="utf-8")
        with contextlib.suppress(MaenasError):
            list(json_objects(path, []))


def test_data_with_training_images_only_are_cut_whatever_their_form(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo")
    (tmp_path / "yolo" / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")
    write_coco(tmp_path / "coco", coco_document(8))
    write_voc(tmp_path / "voc")
    (tmp_path / "voc" / "ImageSets" / "Main" / "val.txt").unlink()
    for form, images in (("yolo", 2), ("coco", 8), ("voc", 2)):
        for path in (tmp_path / form, tmp_path / "yolo" / "data.yaml"):
            with pytest.raises(NoSplitError, match=re.escape(f"maenas data split {path} NEW")):
                open_dataset(path, "val")
        cut = split_data(tmp_path / form, tmp_path / f"{form}-new", val=0.4)
        assert sum(map(len, cut.splits.values())) == images


def test_data_that_have_validation_images_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match="there are 2 validation images already"):
        split_data(write_yolo(tmp_path / "data"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_without_a_partner_is_named_and_left_out(tmp_path: Path) -> None:
    root = write_loose_voc(tmp_path / "data")
    (root / "annots" / "3.xml").unlink()
    (root / "images" / "4.jpg").unlink()
    (root / "annots" / "._5.xml").write_bytes(b"\0\5\26\7")  # what an archive of a Mac holds
    found = open_unsplit(root)
    assert len(found) == 8
    kinds = {(problem.kind, Path(problem.where.split()[-1]).name) for problem in found.problems}
    assert kinds == {(UNANNOTATED, "3.jpg"), (MISSING_IMAGE, "4.xml")}


def test_a_class_listed_twice_is_refused(tmp_path: Path) -> None:
    root = write_loose_yolo(tmp_path / "data", "labels")
    (root / "labels" / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(MaenasError, match="the class 'cat' appears twice"):
        open_unsplit(root)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    """Photographs often lie on another disk."""
    root = write_loose_voc(tmp_path / "data")
    (root / "images").rename(tmp_path / "far")
    (root / "images").symlink_to(tmp_path / "far")
    (root / "loop").symlink_to(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "back").symlink_to(tmp_path / "empty")
    (tmp_path / "far" / ".thumbnails").symlink_to(root)
    cut = split_data(root, tmp_path / "new")
    assert sum(map(len, cut.splits.values())) == 10


@pytest.mark.parametrize(("image", "file"), [("{}/a.jpg", "{}/a.xml"), ("{}/img/a.jpg", "{}/ann/a.xml")])
def test_images_of_one_name_go_with_the_annotations_of_their_folders(image: str, file: str, tmp_path: Path) -> None:
    for number, folder in enumerate(("one", "two", "three")):
        write_image(tmp_path / image.format(folder), seed=number)
        if folder != "three":
            path = tmp_path / file.format(folder)
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"<annotation>{VOC_OBJECT.format(folder, 1, 1, 10, 10)}</annotation>")
    found = open_unsplit(tmp_path)
    names = {sample.path.relative_to(tmp_path).parts[0]: found.names[sample.labels[0]] for sample in found.samples}
    assert names == {"one": "one", "two": "two"}
    assert [problem.where for problem in found.problems] == [str(tmp_path / image.format("three"))]


def test_images_of_one_name_go_with_the_files_beside_them_in_nested_folders_and_in_thousands(tmp_path: Path) -> None:
    folders = [tmp_path, tmp_path / "inner", *(tmp_path / "inner" / str(number) for number in range(5000))]
    images, files = [folder / "a.jpg" for folder in folders], [folder / "a.xml" for folder in folders]
    began = time.process_time()
    assert single_pairs(Heap(images, files, [], [], [])) == list(zip(images, files, strict=True))
    assert time.process_time() - began < 20  # comparing each with each took 100 s


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    root = write_loose_voc(tmp_path / "data")
    write_image(root / "more" / "3.jpg")
    with pytest.raises(MaenasError, match=r"images/3\.jpg and .*more/3\.jpg have the same name"):
        open_unsplit(root)


@given(data=st.data(), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_classes_are_shared_out_in_proportion(data: st.DataObject, seed: int) -> None:
    """Single images of one class each: every split is within one image of its share of every class."""
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=12, max_size=80)))
    shares = [0.7, 0.2, 0.1] if len(labels) % 2 else [0.75, 0.25]
    counts = np.column_stack([np.ones(len(labels), int), labels[:, None] == np.arange(4)]).astype(int)
    owners = stratified(list(counts), shares, seed=seed)
    assert set(owners) == set(range(len(shares)))  # none empty
    for label in range(4):
        has = np.bincount(owners[labels == label], minlength=len(shares))
        # One more for the rule that no split stays empty.
        assert (np.abs(has - np.array(shares) * (labels == label).sum()) <= 2).all()


def test_a_rare_class_is_on_both_sides() -> None:
    """Two of a hundred images have it: a draw by images alone would leave the validation without it mostly."""
    counts = np.zeros((100, 3), int)
    counts[:, 0] = counts[:, 1] = 1
    counts[[10, 20], 2] = 1
    for seed in range(20):
        owners = stratified(list(counts), [0.8, 0.2], seed=seed)
        assert set(owners[[10, 20]]) == {0, 1}
        assert (owners == 1).sum() == 20


def test_equal_images_and_groups_stay_together(tmp_path: Path) -> None:
    root = write_loose_voc(tmp_path / "data", count=24)
    for number in range(24):
        (root / "images" / f"{number}.jpg").rename(root / "images" / f"video{number % 6}_{number}.jpg")
        (root / "annots" / f"{number}.xml").rename(root / "annots" / f"video{number % 6}_{number}.xml")
    twin = root / "images" / "video0_0.jpg"
    (root / "images" / "video1_1.jpg").write_bytes(twin.read_bytes())  # joins the first two videos
    for seed in range(5):
        cut = split_data(root, tmp_path / str(seed), val=0.4, seed=seed, group=r"video(\d)")
        videos = [{sample.path.name[5] for sample in part.samples} for part in cut.splits.values()]
        assert not videos[0] & videos[1]
        assert {"0", "1"} in (videos[0] & {"0", "1"}, videos[1] & {"0", "1"})


def test_the_seed_decides(tmp_path: Path) -> None:
    root = write_loose_voc(tmp_path / "data", count=20)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        split_data(root, tmp_path / name, test=0.2, seed=seed)
    texts = [(tmp_path / name / "annotations" / "instances_test.json").read_text() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]


def test_images_need_no_second_place_on_the_disk(tmp_path: Path) -> None:
    root = write_loose_voc(tmp_path / "data")
    split_data(root, tmp_path / "new")
    for image in (root / "images").iterdir():
        assert image.samefile(tmp_path / "new" / "images" / image.name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": 0.0}, "share of the images"),
        ({"val": 0.8, "test": 0.2}, "at most 0.9 together"),
        ({"group": "("}, "no regular expression"),
        ({"group": "jpg"}, "1 groups of images cannot make 2 splits"),
    ],
)
def test_a_split_without_sense_is_refused_and_nothing_is_left(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    root = write_loose_voc(tmp_path / "data")
    with pytest.raises(MaenasError, match=re.escape(message)):
        split_data(root, tmp_path / "new", **changes)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_one_file_is_not_trained_on_and_rated_with(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data", coco_document(8))
    with pytest.raises(MaenasError, match="one file is one split"):
        make_job("damo-yolo-t", root / "annotations" / "instances_train.json")


def test_a_val_that_is_train_is_said(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "data")
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    job = make_job("damo-yolo-t", root)
    assert leak_text(job) == "2 validation images are trained on, too: AP says little about new images"
    assert leak_text(make_job("damo-yolo-t", write_yolo(tmp_path / "other"))) == ""
    parts = split_data(root, tmp_path / "new", val=0.5).splits
    document = json.loads((tmp_path / "new" / "annotations" / "instances_val.json").read_text())
    assert len(document["images"]) == len(parts["val"]) == 1
    assert class_counts(open_dataset(tmp_path / "new", "train")).sum() + len(document["annotations"]) == 2
