"""Open Images and MOT, as their benchmarks hand them out."""

from pathlib import Path

import pytest

from detector.data.dataset import open_dataset, read_dataset
from detector.data.sample import BAD_LINE, UNANNOTATED, UNLABELLED_AREA
from maenas.errors import MaenasError, NoSplitError
from tests.detector.data.conftest import write_image

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
ROWS = (
    "00a1,xclick,/m/cat,1,0.25,0.75,0.1,0.5,0,0,0,0,0",
    "00a1,xclick,/m/dog,1,0,1,0,1,0,0,1,0,0",
    "00a1,xclick,/m/cat,1,nan,1,0,1,0,0,1,0,0",
    "00a2,xclick,/m/fox,1,0,0.5,0,0.5,0,0,0,0,0",
    "00a2,xclick",
)


@pytest.mark.parametrize(
    ("rows", "images", "names"),
    [
        ("{}-annotations-bbox.csv", "{}", "class-descriptions-boxable.csv"),
        ("oidv6-{}-annotations-bbox.csv", "images/{}", None),
        ("{}/labels/detections.csv", "{}/data", "{}/metadata/classes.csv"),
    ],
)
def test_boxes_of_open_images_are_parts_of_the_sides(rows: str, images: str, names: str | None, tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "validation")):
        for number in (1, 2, 3):
            write_image(tmp_path / images.format(split) / f"00a{number}.jpg", seed=10 * seed + number)
        texts = "\n".join([HEADER, *ROWS]), "LabelName,DisplayName\n/m/cat,Cat\n/m/dog,Dog"
        for name, text in zip((rows, names), texts, strict=True):
            if name is not None:
                (tmp_path / name.format(split)).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name.format(split)).write_text(f"\ufeff{text}\n".replace("\n", "\r\n"))
    for split in ("train", "val"):
        found = read_dataset(tmp_path, split)  # type: ignore[arg-type]
        assert found.names == (("/m/cat", "/m/dog", "/m/fox") if names is None else ("/m/fox", "Cat", "Dog"))
        one, two = found.samples
        assert one.boxes.tolist() == [pytest.approx([10, 3, 30, 15])]
        assert one.crowd_boxes.tolist() == [[0, 0, 40, 30]]
        assert two.boxes.tolist() == [[0, 0, 20, 15]]
        assert [problem.kind for problem in found.problems] == [BAD_LINE, BAD_LINE, UNANNOTATED]


def write_mot(root: Path, rows: tuple[str, ...], *, folder: str = "img1", digits: int = 6) -> Path:
    for seed, name in enumerate(("train/S-02", "train/S-04", "val/S-05")):
        for frame in (1, 2):
            write_image(root / name / folder / f"{frame:0{digits}}.jpg", seed=10 * seed + frame)
        (root / name / "gt").mkdir()
        (root / name / "gt" / "gt.txt").write_text("\n".join(rows))
        (root / name / "det").mkdir()
        (root / name / "det" / "det.txt").write_text("1,-1,3.5,4.5,20,10,0.9,-1,-1,-1\n")
        (root / name / "seqinfo.ini").write_text(f"[Sequence]\nname={name}\nimDir={folder}\nimExt=.jpg\n")
    return root


def test_objects_of_every_sequence_of_mot_are_read_but_those_that_do_not_count(tmp_path: Path) -> None:
    rows = ("1,1,3,4,20,10,1,1,0.5", "1,2,1,1,5,5,1,3,1", "1,3,1,1,9,9,0,8,1", "1,4,1,1,9,9,1,13,1", "", "1,x")
    root = write_mot(tmp_path, rows, folder="pictures", digits=8)
    found = open_dataset(root, "train")
    assert found.names == ("car", "pedestrian")
    assert [sample.path.relative_to(root).as_posix() for sample in found.samples] == [
        f"train/S-0{number}/pictures/0000000{frame}.jpg" for number in (2, 4) for frame in (1, 2)
    ]
    assert found.samples[0].boxes.tolist() == [[2, 3, 22, 13], [0, 0, 5, 5]]
    assert [len(sample.boxes) for sample in found.samples] == [2, 0, 2, 0]
    assert [problem.kind for problem in found.problems] == [UNLABELLED_AREA, BAD_LINE, BAD_LINE] * 2
    assert len(open_dataset(root, "val")) == 2
    with pytest.raises(NoSplitError):
        open_dataset(root, "test")


def test_mot_without_classes_has_pedestrians_or_those_of_a_list_beside_it(tmp_path: Path) -> None:
    first = write_mot(tmp_path / "first", ("1,1,3,4,20,10,1,-1,-1,-1",))
    assert open_dataset(first, "train").names == ("pedestrian",)
    named = write_mot(tmp_path / "named", ("1,1,3,4,20,10,1,2,1.0",))
    for path in named.glob("*/*/gt"):
        (path / "labels.txt").write_text("cat\ndog\n")
    assert open_dataset(named, "train").names == ("dog",)


@pytest.mark.parametrize("text", ["imDir=x", "[Sequence]\nimDir=/etc", "[Sequence]\nimDir=../../../x"])
def test_a_broken_description_of_a_sequence_is_one_message(text: str, tmp_path: Path) -> None:
    root = write_mot(tmp_path, ("1,1,3,4,20,10,1,1,1",))
    (root / "train" / "S-02" / "seqinfo.ini").write_text(text)
    with pytest.raises(MaenasError, match=r"cannot be read|leads out of the data folder|is no folder; see imDir"):
        open_dataset(root, "train")
