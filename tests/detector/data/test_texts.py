"""Label files that are texts, one for each image: KITTI, DOTA and VisDrone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.dataset import open_dataset, open_unsplit
from detector.data.sample import BAD_LINE, UNLABELLED_AREA, Problem
from detector.data.texts import text_objects
from maenas.errors import MaenasError
from tests.detector.data.conftest import write_image

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


QUAD = "1.0 2.0 11.0 2.5 10.0 22.0 2.0 21.0"


@pytest.mark.parametrize(
    "text",
    [
        *("0 0.5 0.5 0.5 0.5", "a picture of a cat", CAR.replace("1.00", "one"), f"7{CAR[3:]}"),
        *(f"0 {QUAD}", QUAD, "1,2,30,40,5,6,7,8", "1,2,10,20,1,12,0,0", "1,2,10,20,1,4,0,3"),
    ],
)
def test_other_texts_beside_images_are_of_no_form(text: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(MaenasError, match="nothing names their classes"):
        open_unsplit(tmp_path)


@given(
    text=st.text(max_size=80)
    | st.lists(st.sampled_from([CAR, DONT_CARE, QUAD, "Car", "1", "nan"])).map(" ".join)
    | st.lists(st.integers(-1, 12), min_size=7, max_size=9).map(lambda numbers: ",".join(map(str, numbers)))
)
def test_any_text_is_read_or_a_problem(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text)
    problems: list[Problem] = []
    lines = [line for line in path.read_text().splitlines() if line.split()]
    assert len(list(text_objects(path, problems))) + len(problems) == len(lines)


# DOTA and VisDrone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["plane", "plane 0", "plane 1"])
def test_an_object_of_dota_is_the_box_around_its_corners(label: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / "images" / "P0001.png", seed=len(split))
        (tmp_path / split / "labelTxt").mkdir()
        text = f"imagesource:GoogleEarth\ngsd:0.14\n{QUAD} {label}\n"
        (tmp_path / split / "labelTxt" / "P0001.txt").write_text(text)
    found = open_dataset(tmp_path, "train")
    assert found.names == ("plane",)
    assert [sample.boxes.tolist() for sample in found.samples] == [[[1, 2, 11, 22]]]


def test_visdrone_numbers_its_classes_and_leaves_areas_out(tmp_path: Path) -> None:
    for split in ("train", "val"):
        root = tmp_path / f"VisDrone2019-DET-{split}"
        write_image(root / "images" / "a.jpg", seed=len(split))
        (root / "annotations").mkdir()
        (root / "annotations" / "a.txt").write_text("1,2,10,20,1,4,0,0\n3,4,5,6,1,10,1,2,\n0,0,9,9,0,0,0,0\n")
    found = open_dataset(tmp_path, "val")
    (sample,) = found.samples
    assert [(found.names[label], box) for label, box in zip(sample.labels, sample.boxes.tolist(), strict=True)] == [
        ("car", [1, 2, 11, 22]),
        ("motor", [3, 4, 8, 10]),
    ]
    assert [problem.kind for problem in found.problems if problem.kind == UNLABELLED_AREA] == [UNLABELLED_AREA]
