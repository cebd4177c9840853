"""What single forms of annotation tools have of their own: Label Studio, VIA, Hugging Face's hub and KITTI."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.dataset import open_dataset, open_unsplit
from detector.data.jsonl import jsonl_objects
from detector.data.kitti import kitti_objects
from detector.data.label_studio import studio_shapes
from detector.data.sample import BAD_LINE, UNLABELLED_AREA, Listed, Problem
from detector.data.via import via_regions
from maenas.errors import MaenasError
from tests.detector.data.conftest import write_image

Reader = Callable[[Path, list[Problem]], Iterator[Listed]]


def read(reader: Reader, path: Path, text: str) -> tuple[list[Listed], list[str]]:
    """What a file with this text holds, and the kinds of its problems."""
    path.write_text(text)
    problems: list[Problem] = []
    return list(reader(path, problems)), [problem.kind for problem in problems]


def corners_of(entries: list[Listed]) -> list:
    return [pytest.approx(entry.box.xyxy, abs=1e-6) for entry in entries if entry.box is not None]


# Label Studio -------------------------------------------------------------------------------------------------------


def minimal(*shapes: dict[str, Any], image: str = "/data/local-files/?d=photos/a%20b.jpg") -> str:
    """The export without anything but the shapes, of an image of 200x100 pixels."""
    shapes = tuple({"original_width": 200, "original_height": 100, **shape} for shape in shapes)
    return json.dumps([{"image": image, "id": 1, "annotator": 2, "annotation_id": 3, "label": list(shapes)}])


@given(
    angle=st.floats(-180, 360),
    x=st.floats(0, 100),
    y=st.floats(0, 100),
    w=st.floats(0.1, 100),
    h=st.floats(0.1, 100),
)
def test_a_turned_rectangle_turns_about_its_first_corner_and_an_ellipse_about_its_centre(
    tmp_path_factory: pytest.TempPathFactory, angle: float, x: float, y: float, w: float, h: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "turned.json"
    box = {"x": x, "y": y, "width": w, "height": h, "rotation": angle, "rectanglelabels": ["cat"]}
    ellipse = {"x": x, "y": y, "radiusX": w, "radiusY": h, "rotation": angle, "ellipselabels": ["cat"]}
    found, problems = read(studio_shapes, path, minimal(box, ellipse))
    assert not problems
    turn = np.exp(1j * np.deg2rad(angle))  # across, and down times i
    first = x * 2 + y * 1j
    points = first + np.array([0, w * 2, w * 2 + h * 1j, h * 1j]) * turn
    steps = np.linspace(0, 2 * np.pi, 20_001)
    around = first + (w * 2 * np.cos(steps) + h * np.sin(steps) * 1j) * turn
    for entry, wanted in zip(found, (points, around), strict=True):
        assert entry.box is not None
        sides = wanted.real.min(), wanted.imag.min(), wanted.real.max(), wanted.imag.max()
        assert entry.box.xyxy == pytest.approx(sides, abs=1e-4)


def test_label_studio_names_images_by_address_and_shapes_by_several_labels(tmp_path: Path) -> None:
    polygon = {"points": [[10, 10], [20, 50], [5, 30]], "polygonlabels": ["cat", "pet"]}
    answer = {"choices": ["clear"]}
    mask = {"format": "rle", "rle": [1, 2], "brushlabels": ["cat"]}
    found, problems = read(studio_shapes, tmp_path / "a.json", minimal(polygon, answer, mask))
    assert [(entry.image, entry.box and entry.box.name) for entry in found] == [
        ("photos/a b.jpg", "cat"),
        ("photos/a b.jpg", "pet"),
    ]
    assert corners_of(found) == [(10, 10, 40, 50)] * 2
    assert problems == [BAD_LINE]
    (empty,), _ = read(studio_shapes, tmp_path / "b.json", minimal(image="https://host/x/c.png?token=1"))
    assert (empty.image, empty.box) == ("https://host/x/c.png", None)


def test_a_task_that_nobody_has_done_is_no_empty_image(tmp_path: Path) -> None:
    tasks = [
        {"data": {"image": "a.jpg"}, "annotations": []},
        {"data": {"image": "b.jpg"}, "annotations": [{"completed_by": 1, "was_cancelled": True, "result": []}]},
        {"data": {"image": "c.jpg"}, "annotations": [{"completed_by": 1, "result": []}]},
    ]
    found, _ = read(studio_shapes, tmp_path / "a.json", json.dumps(tasks))
    assert [entry.image for entry in found] == ["c.jpg"]


# VIA ----------------------------------------------------------------------------------------------------------------


def test_regions_of_via_have_the_box_around_them(tmp_path: Path) -> None:
    shapes = [
        {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 20},
        {"name": "polygon", "all_points_x": [5, 30, 7], "all_points_y": [4, 9, 20]},
        {"name": "circle", "cx": 20, "cy": 10, "r": 5},
        {"name": "ellipse", "cx": 20, "cy": 10, "rx": 5, "ry": 2, "theta": np.pi / 2},
        {"name": "point", "cx": 20, "cy": 10},
    ]
    regions = {str(number): {"shape_attributes": shape, "region_attributes": {}} for number, shape in enumerate(shapes)}
    document = {"a.jpg9": {"filename": "a.jpg", "size": 9, "regions": regions}}
    found, problems = read(via_regions, tmp_path / "a.json", json.dumps(document))
    assert corners_of(found) == [(1, 2, 11, 22), (5, 4, 30, 20), (15, 5, 25, 15), (18, 5, 22, 15)]
    assert {entry.box.name for entry in found if entry.box} == {"object"}
    assert problems == [BAD_LINE]


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"Type": "cat", "size": "big"}, "cat"),
        ({"animal": " cat "}, "cat"),
        ({"label": {"dog": False, "cat": True}}, "cat"),
        ({"label": ""}, None),
        ({"label": {}}, None),
        ({"label": 3}, None),
    ],
)
def test_the_class_of_a_region_is_its_attribute(attributes: dict, name: str | None, tmp_path: Path) -> None:
    rect = {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 20}
    region = {"shape_attributes": rect, "region_attributes": attributes}
    text = json.dumps({"a": {"filename": "a.jpg", "size": 9, "regions": [region]}})
    found, problems = read(via_regions, tmp_path / "a.json", text)
    assert [entry.box and entry.box.name for entry in found] == ([name] if name else [])
    assert problems == ([] if name else [BAD_LINE])


# Hugging Face -------------------------------------------------------------------------------------------------------


def test_lines_of_metadata_have_objects_by_columns_or_by_rows(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.jpg", "objects": {"bbox": [[1, 2, 10, 20]], "category": [3], "area": [200]}},
        {"file_name": "b.jpg", "objects": [{"bbox": [1, 2, 10, 20], "label": "cat"}, {"bbox": [1, 2], "label": "cat"}]},
        {"file_name": "c.jpg", "objects": {"bbox": [], "categories": []}},
        {"file_name": "d.jpg", "objects": {"bbox": [[1, 2, 10, 20]], "categories": []}},
        {"file_name": "e.jpg", "objects": {"bbox": [[1, 2, 10, 20]], "categories": [None]}},
        {"file_name": "f.jpg"},
    ]
    found, problems = read(jsonl_objects, tmp_path / "metadata.jsonl", "\n\n".join(map(json.dumps, rows)))
    assert [(entry.image, entry.box and entry.box.name) for entry in found] == [
        ("a.jpg", "3"),
        ("b.jpg", "cat"),
        ("c.jpg", None),
        ("f.jpg", None),
    ]
    assert corners_of(found) == [(1, 2, 11, 22)] * 2
    assert problems == [BAD_LINE] * 3
    with pytest.raises(MaenasError, match=r"metadata\.jsonl:1: not valid JSON"):
        read(jsonl_objects, tmp_path / "metadata.jsonl", '{"file_name"\n')
    with pytest.raises(MaenasError, match=r"metadata\.jsonl:1: has no `file_name`"):
        read(jsonl_objects, tmp_path / "metadata.jsonl", "3\n")


# KITTI --------------------------------------------------------------------------------------------------------------

CAR = "Car 0.00 0 1.85 1.00 2.50 11.00 22.00 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"
DONT_CARE = "DontCare -1 -1 -10 3.00 3.00 9.00 9.00 -1 -1 -1 -1000 -1000 -1000 -10"


def write_kitti(root: Path, images: str, labels: str) -> Path:
    """An image without objects first, one with two lines, and one without a file of labels."""
    for number, text in enumerate(("", f"{CAR}\n{DONT_CARE}\nCar 1 2\n", None)):
        write_image(root / images / f"00000{number}.png", seed=number + len(images) * 10)
        (root / labels).mkdir(parents=True, exist_ok=True)
        if text is not None:
            (root / labels / f"00000{number}.txt").write_text(text)
    return root


def test_kitti_is_read_with_its_splits_or_without(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "one", "training/image_2", "training/label_2")
    found = open_dataset(root, "train")
    assert found.names == ("Car",)
    assert [sample.boxes.tolist() for sample in found.samples] == [[], [[1, 2.5, 11, 22]]]
    assert {BAD_LINE, UNLABELLED_AREA} < {problem.kind for problem in found.problems}
    loose = open_unsplit(write_kitti(tmp_path / "two", "images", "labels"))
    assert [sample.boxes.tolist() for sample in loose.samples] == [[], [[1, 2.5, 11, 22]]]
    for split in ("train", "val"):
        write_kitti(tmp_path / "three", f"{split}/images", f"{split}/labels")
    assert len(open_dataset(tmp_path / "three", "val")) == 2


@pytest.mark.parametrize("text", ["0 0.5 0.5 0.5 0.5", "a picture of a cat", CAR.replace("1.00", "one"), f"7{CAR[3:]}"])
def test_other_texts_beside_images_are_not_of_kitti(text: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(MaenasError, match="nothing names their classes"):
        open_unsplit(tmp_path)


@given(text=st.text(max_size=80) | st.lists(st.sampled_from([CAR, DONT_CARE, "Car", "1", "nan"])).map(" ".join))
def test_any_text_is_read_as_kitti_or_a_problem(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text)
    problems: list[Problem] = []
    lines = [line for line in path.read_text().splitlines() if line.split()]
    assert len(list(kitti_objects(path, problems))) + len(problems) == len(lines)


KEYS = ["data", "image", "annotations", "result", "value", "rectanglelabels", "x", "y", "width", "height", "filename"]
KEYS += ["regions", "shape_attributes", "region_attributes", "name", "file_name", "objects", "bbox", "categories"]
KEYS += ["original_width", "original_height", "points", "rotation", "id"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=4) | st.just("a.jpg"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("reader", [studio_shapes, via_regions, jsonl_objects])
@given(document=st.lists(json_values, max_size=3) | json_values)
def test_any_json_is_read_or_refused(
    reader: Reader, tmp_path_factory: pytest.TempPathFactory, document: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(document))
    entries: list[Listed] = []
    with suppress(MaenasError):
        entries = list(reader(path, []))
    assert all(isinstance(entry.image, str) and (entry.box is None or entry.box.name) for entry in entries)
