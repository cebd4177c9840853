"""What single forms have of their own: Label Studio, VIA, Supervisely, Hugging Face's hub and WIDER FACE."""

import base64
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.data.dataset import open_dataset
from detector.data.jsonl import jsonl_objects
from detector.data.label_studio import studio_shapes
from detector.data.labelme import json_objects
from detector.data.sample import BAD_LINE, UNLABELLED_AREA, Listed, Problem
from detector.data.via import via_regions
from detector.data.wider import wider_faces
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


# WIDER FACE ---------------------------------------------------------------------------------------------------------

FACES = """0--Parade/a.jpg
2
1 2 10 20 0 0 0 0 0 0
3 4 5 6 2 0 0 1 0 0
0--Parade/b.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Riot/c.jpg
1
5 6 7 8
"""


def test_wider_face_lists_the_faces_of_each_image(tmp_path: Path) -> None:
    found, problems = read(wider_faces, tmp_path / "a.txt", FACES)
    assert [(entry.image, entry.box and entry.box.xyxy) for entry in found] == [
        ("0--Parade/a.jpg", (1, 2, 11, 22)),
        ("0--Parade/b.jpg", None),
        ("1--Riot/c.jpg", (5, 6, 12, 14)),
    ]
    assert problems == [UNLABELLED_AREA]
    with pytest.raises(MaenasError, match=r"a\.txt:1: the number of faces of '0--.*' is not in the next line"):
        read(wider_faces, tmp_path / "a.txt", "0--Parade/a.jpg\n")


def test_wider_face_is_found_in_the_folders_that_it_comes_in(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for image in ("0--Parade/a.jpg", "0--Parade/b.jpg", "1--Riot/c.jpg"):
            write_image(tmp_path / f"WIDER_{split}" / "images" / image, seed=len(split + image))
        (tmp_path / "wider_face_split").mkdir(exist_ok=True)
        (tmp_path / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt").write_text(FACES)
    for split in ("train", "val"):
        found = open_dataset(tmp_path, split)
        assert found.names == ("face",)
        assert {sample.path.parts[-4] for sample in found.samples} == {f"WIDER_{split}"}


# Supervisely --------------------------------------------------------------------------------------------------------


def mask_of(width: int, height: int) -> str:
    """A mask as Supervisely packs it: a PNG, packed once more, as text."""
    file = BytesIO()
    Image.new("L", (width, height), 255).save(file, "PNG")
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


def test_supervisely_names_files_by_the_whole_name_of_the_image(tmp_path: Path) -> None:
    shapes = [
        ("rectangle", {"points": {"exterior": [[11, 22], [1, 2]], "interior": []}}),
        ("polygon", {"points": {"exterior": [[5, 4], [30, 9], [7, 20]], "interior": [[[8, 8], [9, 9], [8, 9]]]}}),
        ("bitmap", {"bitmap": {"origin": [3, 4], "data": mask_of(10, 20)}}),
        ("bitmap", {"bitmap": {"origin": [3, 4], "data": "AAAA"}}),
        ("point", {"points": {"exterior": [[5, 4]], "interior": []}}),
        ("line", {"points": {"exterior": [[5, 4], [6, 7]], "interior": []}}),
    ]
    objects = [{"classTitle": "cat", "geometryType": kind, **shape} for kind, shape in shapes]
    for split in ("train", "val"):
        write_image(tmp_path / split / "img" / "a.jpg", seed=len(split))
        (tmp_path / split / "ann").mkdir()
        document = {"description": "", "tags": [], "size": {"height": 48, "width": 64}, "objects": objects}
        (tmp_path / split / "ann" / "a.jpg.json").write_text(json.dumps(document))
    (tmp_path / "meta.json").write_text(json.dumps({"classes": [{"title": "cat", "shape": "any"}], "tags": []}))
    found = open_dataset(tmp_path, "train")
    assert found.names == ("cat",)
    assert found.samples[0].boxes.tolist() == [[1, 2, 11, 22], [5, 4, 30, 20], [3, 4, 13, 24]]
    assert [problem.kind for problem in found.problems] == [BAD_LINE] * 3


@given(
    entry=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["classTitle", "geometryType", "points", "exterior", "bitmap", "origin", "data"]), inner
            )
        ),
        max_leaves=8,
    )
)
def test_any_object_of_supervisely_is_read_or_a_problem(
    tmp_path_factory: pytest.TempPathFactory, entry: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({"objects": [entry]}))
    problems: list[Problem] = []
    assert len(list(json_objects(path, problems))) + len(problems) == 1


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
