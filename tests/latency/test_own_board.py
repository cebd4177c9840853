"""Latencies of ONNX files on a board that no catalogue has."""

import json
import math
from pathlib import Path

import pytest

from maenas.deploy.onnx_writer import write_onnx
from maenas.deploy.program import network
from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.latency.predictor import load_predictor, predict
from maenas.latency.published import read_published
from maenas.latency.table import calibrate_all, table_name, write_table
from maenas.lowering import lower
from maenas.spec import published_spec

SETUP = {
    **{"setup": "desk", "runtime": "TensorRT 10", "precision": "fp16", "batch": 1, "nms_included": False},
    **{"conditions": "input 640x640", "source": "measured here"},
}


def seconds(spec: str, device: str) -> float:
    return predict(lower(published_spec(spec)), load_predictor(device)).seconds


def write_board(path: Path) -> None:
    """A device file whose figures are those of the T4."""
    catalogue = (data_dir("latency_tables") / "devices.yaml").read_text(encoding="utf-8")
    start = catalogue.index("  - id: t4")
    entry = catalogue[start : catalogue.index("\n\n", start)].replace("id: t4", "id: my-board")
    path.write_text(f"schema: maenas/devices@1\ndevices:\n{entry}\n", encoding="utf-8")


def test_it_is_calibrated_and_predicts_other_networks(tmp_path: Path) -> None:
    """Three networks take twice what they take on a T4."""
    names = ("damo-yolo-t", "damo-yolo-s", "damo-yolo-nano-s")
    write_board(tmp_path / "boards.yaml")
    for name in names:
        model = write_onnx(network(lower(published_spec(name))))
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    document = {
        "schema": "maenas/published-latencies@1",
        "setups": [SETUP | {"device": f"{tmp_path / 'boards.yaml'}#my-board"}],
        "networks": [{"name": name, "kernels": f"{name}.onnx"} for name in names],
        "measurements": [{"setup": "desk", "network": name, "latency_ms": 2e3 * seconds(name, "t4")} for name in names],
    }
    (tmp_path / "mine.json").write_text(json.dumps(document), encoding="utf-8")

    (table,) = calibrate_all(read_published(tmp_path / "mine.json"))
    assert table_name(table) == "my-board-desk-fp16-b1"
    assert table.calibration.mean_error_fit < 0.02 < table.calibration.mean_error_left_out
    assert [row.family for row in table.calibration.residuals] == list(names)
    write_table(tmp_path / "table.json", table)
    for other in ("damo-yolo-m", "damo-yolo-nano-l"):
        truth = 2 * seconds(other, "t4")
        fitted, shared = (
            abs(math.log(seconds(other, str(tmp_path / name)) / truth)) for name in ("table.json", "boards.yaml")
        )
        assert fitted < 0.15 < shared

    (tmp_path / "damo-yolo-s.onnx").unlink()
    with pytest.raises(MaenasError, match=r"damo-yolo-s\.onnx"):
        read_published(tmp_path / "mine.json")
