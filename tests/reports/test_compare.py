import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from maenas.cli.report import compare_command, report_command
from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.latency.predictor import load_predictor, predict
from maenas.lowering import lower
from maenas.spec import load_spec

NAMES = ["damo-yolo-t", "damo-yolo-s"]
DEVICES = ["--device", "t4", "--device", "h100"]

app = typer.Typer()
app.command("compare")(compare_command)
app.command("report")(report_command)


def test_the_document_states_what_the_predictors_give() -> None:
    result = CliRunner().invoke(app, ["compare", *NAMES, *DEVICES, "--json"])
    document = json.loads(result.stdout)
    assert [row["name"] for row in document["networks"]] == NAMES
    for row in document["networks"]:
        kernels = lower(load_spec(row["name"]).detector)
        assert (row["params"], row["flops"]) == (total_cost(kernels).params, total_cost(kernels).flops)
        for stated in row["latency"]:
            prediction = predict(kernels, load_predictor(stated["device"]))
            assert stated["kind"] == "modelled"
            assert stated["ms"] == prediction.seconds * 1e3
            assert stated["interval_90_ms"] == [prediction.low * 1e3, prediction.high * 1e3]
    assert document["conditions"]["h100"]["calibrated"] is False


def test_what_a_setup_is_not_for_is_said_of_the_network(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, tensor = onnx.helper, [1, 16, 64, 64]
    weights = helper.make_tensor("w", onnx.TensorProto.FLOAT, [16, 16, 1, 1], [0.0] * 256)
    nodes = [helper.make_node("Conv", ["x", "w"], ["t0"])]
    nodes += [helper.make_node("Softmax", [f"t{number}"], [f"t{number + 1}"]) for number in range(8)]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, tensor) for name in ("x", "t8")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights])
    file = tmp_path / "attentive.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), file)
    words = ["compare", str(file), "damo-yolo-t", "--device", "t4"]
    said = CliRunner().invoke(app, words).stdout.splitlines()
    (line,) = (line for line in said if line.startswith("attentive on t4: "))
    assert "NOT for a network that spends" in line
    assert not any(line.startswith("damo-yolo-t on t4: ") for line in said)
    stated = json.loads(
        CliRunner().invoke(app, ["compare", str(file), "damo-yolo-t", "--device", "t4", "--json"]).stdout
    )
    assert [row["latency"][0]["calibrated"] for row in stated["networks"]] == [False, True]


def test_the_table_has_a_line_a_network_and_says_what_the_numbers_are_worth() -> None:
    lines = CliRunner().invoke(app, ["compare", *NAMES, *DEVICES]).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == NAMES
    assert "2.286" in lines[1]
    assert lines[4].startswith("t4: modelled: NVIDIA T4")
    assert "NOT calibrated" in lines[5]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_plot_is_written(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plot.{ending}"
    assert CliRunner().invoke(app, ["compare", *NAMES, "--plot", str(path)]).exit_code == 0
    assert path.stat().st_size > 5000


def test_another_kind_of_plot_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compare", *NAMES, "--plot", str(tmp_path / "plot.gif")])
    assert isinstance(result.exception, MaenasError)


def test_a_report_takes_device_and_precision_from_the_search(searched: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    out = tmp_path / "new" / "page.html"
    result = CliRunner().invoke(app, ["report", str(searched), "--from", "1.79ms", "--to", "1.8ms", "--out", str(out)])
    assert result.exit_code == 0, result.exception
    text = out.read_text(encoding="utf-8")
    assert "modelled: NVIDIA T4, TensorRT 10, fp16, batch 1" in text
    assert "small &lt;b&gt;" in text
