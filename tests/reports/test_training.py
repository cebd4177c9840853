import json
from pathlib import Path
from typing import Any

import pytest

from maenas.errors import MaenasError
from maenas.reports.blocks import Note, Picture, Plot, Section, Table
from maenas.reports.training import detections_section, training_sections

EPOCHS = [
    {"epoch": 1, "step": 4, "seconds": 1.0, "losses": {"total": 2.0, "cls": 1.5, "distill": 0.0}},
    {
        "epoch": 2,
        "step": 8,
        "seconds": 1.0,
        "losses": {"total": 1.0, "cls": 0.5, "distill": 0.0},
        "metrics": {"AP": 0.25},
    },
]
METRICS: dict[str, Any] = {
    "images": 3,
    "listed_images": 3,
    "summary": {"AP": 0.25, "AP50": 0.5, "APl": None},
    "per_class": [{"name": "<cell>", "boxes": 4, "ap": 0.25, "ap50": 0.5}],
    "confusion": {"score": 0.25, "iou": 0.5, "matrix": [[3, 1], [2, 0]]},
    "precision_at_iou50": {"recalls": [0.0, 0.5, 1.0], "classes": {"<cell>": [1.0, 0.5, 0.0]}},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EPOCHS), encoding="utf-8")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(METRICS), encoding="utf-8")
    return tmp_path


def plots(section: Section) -> list[Plot]:
    return [block for block in section.blocks if isinstance(block, Plot)]


def test_losses_and_ap_are_those_of_the_log(run: Path) -> None:
    training, _ = training_sections(run)
    losses, precision = plots(training)
    assert {trace["name"]: trace["y"] for trace in losses.figure["data"]} == {"total": [2.0, 1.0], "cls": [1.5, 0.5]}
    assert losses.table is not None
    assert losses.table.rows[-1] == ["2", "1.0000", "0.5000", "0.2500", ""]
    assert precision.figure["data"][0]["x"] == [2]
    assert "0.2500 after epoch 2" in precision.text


def test_the_evaluation_is_that_of_the_file(run: Path) -> None:
    _, evaluation = training_sections(run)
    summary, classes = (block for block in evaluation.blocks if isinstance(block, Table))
    assert summary.rows == [["3", "0.2500", "0.5000", "none"]]
    assert classes.rows == [["<cell>", "4", "0.2500", "0.5000"]]
    curves, confusion = plots(evaluation)
    assert curves.figure["data"][0]["name"] == "&lt;cell&gt;"
    assert confusion.figure["data"][0]["z"] == [[0.75, 0.25], [1.0, 0.0]]
    assert confusion.table is not None
    assert confusion.table.rows == [["<cell>", "3", "1"], ["background", "2", "0"]]


def test_a_log_that_was_cut_off_is_read_up_to_there(run: Path) -> None:
    with (run / "epochs.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"epoch": 3, "los')
    assert "2 epochs" in plots(training_sections(run)[0])[0].text


def test_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    (section,) = training_sections(tmp_path)
    assert isinstance(section.blocks[0], Note)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("epochs.jsonl", "", "is empty"),
        ("epochs.jsonl", "{}\n", "line 1.*epoch"),
        ("evaluation/metrics.json", "[]", "top level"),
        ("evaluation/metrics.json", json.dumps({**METRICS, "per_class": []}), "confusion matrix"),
    ],
)
def test_a_broken_file_is_named(run: Path, name: str, content: str, message: str) -> None:
    (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(MaenasError, match=message) as error:
        training_sections(run)
    assert Path(name).name in str(error.value)


def test_pictures_are_inside_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "labels.txt").write_bytes(b"text")
    note, *pictures = detections_section(tmp_path).blocks
    assert note == Note("1 of 1 pictures.")
    assert pictures == [Picture("a.png", "data:image/png;base64,cGljdHVyZQ==")]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match="maenas detect"):
        detections_section(tmp_path)
    with pytest.raises(MaenasError, match="cannot be read"):
        detections_section(tmp_path / "missing")
