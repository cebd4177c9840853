"""`maenas predict` on ONNX files: any network gives a prediction or one message."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maenas.cli import main as cli

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["maenas", "predict", *map(str, arguments)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A convolution of 5x5 with ReLU and an unknown operator; batch, height and width are symbolic."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[2, 2, 2, 2], kernel_shape=[5, 5]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("CumSum", ["b", "axis"], ["y"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, "h", "w"])
        for name, channels in (("x", 16), ("y", 32))
    ]
    constants = [
        numpy_helper.from_array(np.zeros((32, 16, 5, 5), np.float32), "w"),
        numpy_helper.from_array(np.array(1, np.int64), "axis"),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_a_prediction_says_what_it_covers(predict, network: Path) -> None:
    code, out, err = predict(network, "--input", 64, "--device", "t4", "--layers")
    assert (code, err) == (0, "")
    assert re.search(r"^latency .* modelled on NVIDIA T4 \(90 % interval", out, re.MULTILINE)
    assert re.search(r"^not modelled +1 CumSum: about \d+\.\d% of the time", out, re.MULTILINE)
    assert re.search(r"^not timed +nothing$", out, re.MULTILINE)
    assert re.search(r"^first +conv +16 +32 +5 +1 +64x64", out, re.MULTILINE)
    document = json.loads(predict(network, "--input", 64, "--json")[1])
    (row,) = document["predictions"]
    assert row["unmodelled"][0]["op"] == "CumSum"
    assert row["interval_90_ms"][0] < row["ms"] < row["interval_90_ms"][1]


def test_a_batch_takes_longer(predict, network: Path) -> None:
    times = []
    for batch in (1, 64):
        out = predict(network, "--input", 256, "--batch", batch, "--json")[1]
        times.append(json.loads(out)["predictions"][0]["ms"])
    assert times[1] > 20 * times[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.onnx",), "input 'x' has the shape [batch, 16, h, w], which is not fixed: give its side, or height x"),
        (
            ("net.onnx", "--input", "4 8"),
            "'4 8': an input is one side, 640, or height x width, 480x640; 1 to 8192 pixels",
        ),
        (("net.onnx", "--input", "0x64"), "'0x64': an input is one side, 640, or height x width, 480x640"),
        (("damo-yolo-t", "--input", 64), "--input is for ONNX files"),
        (("none.onnx",), "cannot read none.onnx"),
        (("junk.onnx",), "junk.onnx is not a valid ONNX file"),
    ],
)
def test_what_cannot_be_predicted_is_one_message(predict, network: Path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(network.parent)
    Path("junk.onnx").write_bytes(b"junk")
    code, out, err = predict(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
