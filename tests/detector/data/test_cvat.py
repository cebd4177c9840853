"""Shapes of CVAT, each as the box around it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.cvat import cvat_shapes
from detector.data.dataset import open_dataset, open_unsplit
from detector.data.sample import BAD_LINE, Listed, NamedBox
from maenas.errors import MaenasError, NoSplitError
from tests.detector.data.conftest import write_image

numbers = st.floats(-50, 50).map(lambda value: round(value, 2))
sizes = st.floats(0.5, 50).map(lambda value: round(value, 2))


def written(path: Path, *shapes: str) -> Path:
    images = f'<image id="0" name="a.jpg" width="40" height="30">{"".join(shapes)}</image>'
    path.write_text(f"<annotations><version>1.1</version>{images}</annotations>")
    return path


def box_of(path: Path) -> NamedBox:
    problems: list = []
    ((name, box),) = cvat_shapes(path, problems)
    assert name == "a.jpg"
    assert box is not None
    assert not problems
    return box


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points about the origin, turned by degrees."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return points @ np.array([[c, s], [-s, c]])


@given(x=numbers, y=numbers, w=sizes, h=sizes, angle=st.floats(0, 359))
def test_what_is_turned_has_the_box_around_its_points(tmp_path_factory, x, y, w, h, angle) -> None:
    path = tmp_path_factory.getbasetemp() / "shapes.xml"
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    around = turned(corners, angle) + np.array([x, y])
    box = f'xtl="{x - w / 2}" ytl="{y - h / 2}" xbr="{x + w / 2}" ybr="{y + h / 2}"'
    found = box_of(written(path, f'<box label="cat" rotation="{angle}" {box}/>'))
    assert found.xyxy == pytest.approx((*around.min(axis=0), *around.max(axis=0)), abs=1e-6)
    turns = np.linspace(0, 2 * np.pi, 3601)
    around = turned(np.stack([w * np.cos(turns), h * np.sin(turns)], axis=1), angle) + np.array([x, y])
    found = box_of(written(path, f'<ellipse label="cat" cx="{x}" cy="{y}" rx="{w}" ry="{h}" rotation="{angle}"/>'))
    assert found.xyxy == pytest.approx((*around.min(axis=0), *around.max(axis=0)), abs=1e-3)


def test_polygons_and_masks_have_the_box_around_them(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    assert box_of(written(path, '<polygon label="cat" points="1,2;30.5,4;7,20"/>')).xyxy == (1, 2, 30.5, 20)
    assert box_of(written(path, '<mask label="cat" rle="1" left="3" top="4" width="10" height="6"/>')).xyxy == (
        3,
        4,
        13,
        10,
    )


def test_what_has_no_area_is_none_and_what_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    shapes = ('<points label="cat" points="1,2"/>', '<polyline label="cat" points="1,2;3,4"/>', '<tag label="cat"/>')
    problems: list = []
    assert list(cvat_shapes(written(tmp_path / "a.xml", *shapes), problems)) == [Listed("a.jpg", None)]
    assert problems == []
    bad = (
        '<box label="cat" xtl="1"/>',
        '<polygon label="cat" points="1,2;3"/>',
        '<box xtl="1" ytl="1" xbr="2" ybr="2"/>',
    )
    assert list(cvat_shapes(written(tmp_path / "a.xml", *bad), problems)) == []
    assert [problem.kind for problem in problems] == [BAD_LINE] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><track/></annotations>", "no image is in it; export the task again as `CVAT for images`"),
        ("<annotations>", r":1: not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "entities are not read"),
    ],
)
def test_a_file_of_another_kind_is_one_message(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(MaenasError, match=message):
        list(cvat_shapes(path, []))


def test_one_file_of_a_task_is_cut_and_one_of_each_split_is_read(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / "images" / "a.jpg")
        written(tmp_path / split / f"{split}.xml", '<box label="cat" xtl="1" ytl="2" xbr="11" ybr="22"/>')
        (tmp_path / split / f"{split}.xml").rename(tmp_path / split / "annotations.xml")
        assert open_dataset(tmp_path, "train").samples[0].boxes.tolist() == [[1, 2, 11, 22]]
    assert open_dataset(tmp_path, "val").samples[0].path == tmp_path / "val" / "images" / "a.jpg"
    with pytest.raises(NoSplitError, match="maenas data split"):
        open_dataset(tmp_path / "train", "train")
    assert len(open_unsplit(tmp_path / "train")) == 1
