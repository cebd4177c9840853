import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maenas.errors import MaenasError
from maenas.palette import class_colour, hex_colour
from maenas.reports.blocks import Download, Note, Picture, Plot, Section, Table
from maenas.reports.evaluation import class_table, evaluation_section
from maenas.reports.training import detections_section, training_sections
from maenas.run_files import ClassResult, Confusion, Curves, Evaluation, OverConfidence, read_evaluation

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
    assert curves.figure["data"][0]["line"]["color"] == hex_colour(class_colour(0))
    assert curves.figure["data"][1]["y"] == [1.0, 0.5, 0.0]  # the mean
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
        ("evaluation/metrics.json", json.dumps(METRICS).replace("[1.0, 0.5, 0.0]", "[1.0, 1e308, 0.0]"), "from 0 to 1"),
        (
            "evaluation/metrics.json",
            json.dumps(METRICS).replace("[1.0, 0.5, 0.0]", "[1.0, 0.5]"),
            "one for each recall",
        ),
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


def many(classes: int) -> Evaluation:
    """An evaluation of that many classes: class i has AP i / classes, and the first is taken for the second."""
    matrix = np.eye(classes + 1, dtype=int) * 5
    matrix[0, 1] = 7
    return Evaluation(
        images=2,
        summary={"AP": 0.5},
        per_class=tuple(ClassResult(f"c{i}", 5, i / classes, i / classes) for i in range(classes)),
        confusion=Confusion(0.25, 0.5, tuple(map(tuple, matrix.tolist()))),
        precision_at_iou50=Curves((0.0, 1.0), {f"c{i}": (1.0, i / classes) for i in range(classes)}),
        over_confidence=OverConfidence((0.0, 0.5, 1.0), (0.2, 0.6, 1.0), (1.0, 0.6, 0.0), (0.33, 0.6, 0.0)),
    )


def test_of_many_classes_the_worst_and_the_best_are_drawn_and_all_are_in_a_table_file() -> None:
    section = evaluation_section(many(300))
    _, worst, best = (block for block in section.blocks if isinstance(block, Table))
    assert [row[0] for row in worst.rows] == [f"c{i}" for i in range(50)]
    assert [row[0] for row in best.rows] == [f"c{i}" for i in range(299, 249, -1)]
    (file,) = (block for block in section.blocks if isinstance(block, Download))
    assert len(file.content.splitlines()) == 301
    confidence, precision, confusion = plots(section)
    assert "F1 0.600 at confidence 0.50" in confidence.title
    assert len(precision.figure["data"]) == 21
    assert len(confusion.figure["data"][0]["z"]) == 42
    assert confusion.table is not None
    assert confusion.table.rows == [["c0", "c1", "7"]]


def test_a_table_file_holds_no_formula() -> None:
    row = class_table([ClassResult("=1+1", 1, None, None)]).splitlines()[1]
    assert row == "'=1+1,1,,"


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(many(7).text(), encoding="utf-8")
    assert read_evaluation(path) == many(7)


def test_the_learning_rate_is_that_of_the_log(run: Path) -> None:
    rows = [f"{step},1,{0.1 / step:.8g},1" for step in range(1, 2001)]
    (run / "steps.csv").write_text("\n".join(["step,epoch,lr,total", *rows, "2001,1,0."]), encoding="utf-8")
    rate = plots(training_sections(run)[0])[-1]
    assert rate.title == "Learning rate"
    trace = rate.figure["data"][0]
    assert len(trace["x"]) <= 402
    assert (trace["x"][0], trace["x"][-1], trace["y"][0]) == (1, 2000, 0.1)
    (run / "steps.csv").write_text("step,epoch,lr\n1,1,fast\n", encoding="utf-8")
    with pytest.raises(MaenasError, match=r"steps\.csv, line 2"):
        training_sections(run)


def test_the_axis_of_ap_follows_the_values(run: Path) -> None:
    precision = plots(training_sections(run)[0])[1]
    assert precision.figure["layout"]["yaxis"]["rangemode"] == "tozero"
    assert "range" not in precision.figure["layout"]["yaxis"]


def test_the_pictures_of_a_run_are_shown(run: Path) -> None:
    (run / "labels.png").write_bytes(b"a")
    (run / "evaluation" / "truth_and_predictions.jpg").write_bytes(b"b")
    pictures = training_sections(run)[-1].blocks
    assert [block.uri[:15] for block in pictures if isinstance(block, Picture)] == [
        "data:image/jpeg",
        "data:image/png;",
    ]
