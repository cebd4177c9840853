"""`maenas export`, `benchmark`, and detectors of every kind of file, from the outside."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from maenas.spec import BackboneSpec, DetectorSpec, HeadSpec, InputSpec, NeckSpec, StageSpec, StemSpec, write_spec
from tests.conftest import Maenas

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from detector.data.shapes import write_shapes
from detector.model.net import DetectorNet
from detector.model.weights import write_weights

NAMES = ("circle", "square", "triangle", "cross")
STAGES = tuple(StageSpec("k1kx", a, b, 8, 3, 2, 1) for a, b in ((8, 8), (8, 16), (16, 16), (16, 16)))
SPEC = DetectorSpec(
    InputSpec(64, 64),
    BackboneSpec(StemSpec("focus", 8), STAGES, "relu", (2, 3, 4)),
    NeckSpec((16, 16, 16), 1, 1.0, "basic", "relu"),
    HeadSpec(len(NAMES), 7, 3),
)
STAGES_TIMED = {"preprocessing", "network", "postprocessing", "total"}


@pytest.fixture
def maenas(maenas: Maenas, files: Path, monkeypatch: pytest.MonkeyPatch) -> Maenas:
    """Run the entry point in this process, in the folder of the files."""
    monkeypatch.chdir(files)
    return maenas


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights, their spec, and a small data set, `data`."""
    folder = tmp_path_factory.mktemp("files")
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DetectorNet(SPEC).eval()
    write_weights(folder / "net.safetensors", net, SPEC, NAMES)
    write_spec(folder / "spec.json", SPEC, "small")
    write_shapes(folder / "data", images=20, size=96, seed=0)
    return folder


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        (("--batch", "dynamic"), "fp32"),
        (("--precision", "fp16", "--nms", "in-graph", "--conf", "0.001"), "fp16"),
    ],
)
def test_eval_and_detect_take_onnx_files(maenas: Maenas, files: Path, options: tuple[str, ...], precision: str) -> None:
    assert maenas("export", "net.safetensors", *options, "--out", "file.onnx").code == 0
    found = {}
    for file in ("net.safetensors", "file.onnx"):
        outcome = maenas("eval", file, "--data", "data", "--conf", "0.001", "--device", "cpu", "--json")
        assert outcome.code == 0, outcome.err
        found[file] = json.loads(outcome.out)["summary"]
        outcome = maenas("detect", "data", "-w", file, "--conf", "0.001", "--device", "cpu", "--save-json")
        assert outcome.code == 0, outcome.err
        assert outcome.out.startswith("20 images: ")
        assert json.loads((files / "detections" / "detections.json").read_text())
    if precision == "fp32":
        assert found["file.onnx"] == pytest.approx(found["net.safetensors"], abs=1e-6)


def test_int8_is_calibrated_measured_and_reported(maenas: Maenas, files: Path) -> None:
    options = ("--precision", "int8", "--data", "data", "--calibration", "minmax", "--calibration-images", "3")
    outcome = maenas("export", "net.safetensors", *options, "--rest", "fp32", "--out", "small.onnx")
    assert outcome.code == 0, outcome.err
    assert "ranges by minmax of 3 images" in outcome.out
    report = json.loads((files / "small.onnx.quantization.json").read_text())
    assert report["calibration_images"] == 3
    assert report["kept_in_higher_precision"] == []
    assert (
        report["ap_before"]
        == json.loads(maenas("eval", "net.safetensors", "--data", "data", "--device", "cpu", "--json").out)["summary"][
            "AP"
        ]
    )
    assert maenas("eval", "small.onnx", "--data", "data").code == 0


@pytest.mark.slow
def test_int8_within_an_ap_drop(maenas: Maenas, files: Path) -> None:
    options = ("--precision", "int8", "--data", "data", "--calibration-images", "2", "--max-drop", "0")
    outcome = maenas("export", "net.safetensors", *options, "--out", "partial.onnx")
    assert outcome.code == 0, outcome.err
    assert "most sensitive" in outcome.out
    report = json.loads((files / "partial.onnx.quantization.json").read_text())
    assert len(report["sensitivities"]) > 20
    kept = {trade["kept"]: trade["ap"] for trade in report["trade"]}
    assert kept[len(report["kept_in_higher_precision"])] >= report["ap_before"]


def test_int8_calibrates_on_a_folder_of_images(maenas: Maenas) -> None:
    outcome = maenas("export", "net.safetensors", "--precision", "int8", "--images", "data")
    assert outcome.code == 0, outcome.err
    assert "ranges by percentile of 20 images" in outcome.out


def test_an_engine_comes_with_its_description(maenas: Maenas, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13")
    monkeypatch.setenv("MAENAS_TRT", "tensorrt_rtx")
    for precision in ("fp16", "int8"):
        options = ("--format", "engine", "--precision", precision, "--images", "data", "--workspace", "1GiB")
        outcome = maenas("export", "net.safetensors", *options, "--out", "net.engine")
        assert outcome.code == 0, outcome.err
        assert f"convolutions are {precision}, read from the " in outcome.out
        card = json.loads((files / "net.engine.json").read_text())
        assert card["export"]["precision"] == precision
        assert card["conditions"]["workspace"] == "1024 MiB"


def test_export_refuses(maenas: Maenas, files: Path) -> None:
    for options, reason in (
        (("--precision", "int4"), "'int4' is not one of"),
        (("--precision", "int8"), "give --data or --images"),
        (("--precision", "int8", "--images", "data", "--max-drop", "0.1"), "give --data"),
        (("--max-drop", "0.1"), "--max-drop is for --precision int8"),
        (("--precision", "int8", "--data", "data", "--sensitivity", "ap"), "--sensitivity chooses layers for"),
        (("--precision", "int8", "--data", "data", "--calibration", "max"), "'max' is not one of"),
        (("--precision", "int8", "--data", "data", "--calibration-images", "0"), "or equal to 1"),
        (("--format", "engine", "--batch", "dynamic"), "for an engine"),
        (("--format", "engine", "--rest", "fp32"), "--rest is 'fp32'; an engine takes fp16 only"),
    ):
        outcome = maenas("export", "net.safetensors", *options, "--out", "refused.onnx")
        assert outcome.code == 2
        assert reason in outcome.err
    assert not (files / "refused.onnx").exists()


def test_benchmark_times_every_stage_of_every_file(maenas: Maenas, files: Path) -> None:
    assert maenas("export", "net.safetensors", "--batch", "dynamic", "--out", "bench.onnx").code == 0
    options = ("--batch", "1,2", "--threads", "1", "--rounds", "3", "--device", "cpu", "--conf", "0.005")
    outcome = maenas("benchmark", "net.safetensors", "bench.onnx", "spec.json", *options, "--json", "--out", "b.json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document == json.loads((files / "b.json").read_text())
    rows = document["rows"]
    setups = [(row["name"], row["runtime"].partition(" ")[0], row["batch"]) for row in rows]
    assert setups == [
        (name, runtime, batch)
        for name, runtime in (("net.safetensors", "torch"), ("bench.onnx", "onnxruntime-cpu"), ("spec.json", "torch"))
        for batch in (1, 2)
    ]
    for row in rows:
        assert set(row["stages"]) == STAGES_TIMED
        assert all(stage["ms"] > 0 and stage["samples"] == 3 for stage in row["stages"].values())
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["stages"]["total"]["ms"] * 1e3)
    assert rows[0]["detections_per_image"] == pytest.approx(rows[2]["detections_per_image"], abs=1)
    assert document["conditions"]["images"] == "4 synthetic, 640x480"


@pytest.mark.parametrize(("table", "nms"), [("t4", "NMS not included"), ("orin-nx", "NMS included")])
def test_benchmark_prints_a_table_with_predictions(maenas: Maenas, table: str, nms: str) -> None:
    options = ("--rounds", "3", "--threads", "1", "--device", "cpu", "--images", "data")
    outcome = maenas("benchmark", "spec.json", "--runtime", "onnxruntime", *options, "--table", table)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].endswith("predicted ms")
    assert lines[1].startswith("spec.json  onnxruntime-cpu ")
    (predicted,) = [line for line in lines if line.startswith(f"predicted: modelled ({table}, ")]
    assert predicted.endswith(nms)


def test_benchmark_leaves_a_damaged_image_out(maenas: Maenas, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(next(Path("data/images").glob("*.png")).read_bytes())
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    options = ("--rounds", "3", "--threads", "1", "--device", "cpu", "--images", str(tmp_path))
    outcome = maenas("benchmark", "spec.json", *options)
    assert outcome.code == 0, outcome.err
    assert f"images: 1 of {tmp_path}" in outcome.out
    assert "left out: image" in outcome.err
    (tmp_path / "b.png").write_bytes(b"")
    assert "none of the 2 images can be read" in maenas("benchmark", "spec.json", *options).err


def test_benchmark_refuses(maenas: Maenas) -> None:
    assert maenas("export", "net.safetensors", "--out", "one.onnx").code == 0
    for arguments, reason in (
        (("none.onnx",), "none.onnx: cannot be read"),
        (("one.onnx", "--batch", "2"), "takes batches of 1, not 2"),
        (("spec.json", "--batch", "0"), "--batch is '0'"),
        (("spec.json", "--threads", "1,x"), "--threads is '1,x'"),
        (("spec.json", "--rounds", "2"), "or equal to 3"),
        (("spec.json", "--runtime", "onnx"), "'onnx' is not one of"),
        (("spec.json", "--rounds", "3", "--table", "t5"), "t5"),
    ):
        outcome = maenas("benchmark", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert reason in outcome.err


def test_a_prediction_of_another_setup_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from maenas.api import benchmark as module

    conditions = {"kind": "measured", "runtime": "onnxruntime-cpu 1.32.0", "measured_threads": "2"}
    table = SimpleNamespace(conditions=conditions, device=SimpleNamespace(id="cpu"), precision="fp32", batch=1)
    prediction = SimpleNamespace(seconds=0.002, low=0.001, high=0.003)
    monkeypatch.setattr(module, "load_predictor", lambda *_, **__: table)
    monkeypatch.setattr(module, "predict", lambda *_: prediction)

    def row(library: str, threads: int) -> Any:
        runtime = SimpleNamespace(library=library, precision="fp32", spec=SPEC)
        return SimpleNamespace(subject=SimpleNamespace(runtime=runtime, batch=1, threads=threads))

    shown = module.prediction(row("onnxruntime-cpu 1.32.0", 2), "cpu")
    assert shown is not None
    assert (shown.ms, shown.kind) == (2.0, "predicted from measured kernels")
    assert module.prediction(row("onnxruntime-cpu 1.32.0", 1), "cpu") is None
    assert module.prediction(row("torch 2.14.1", 2), "cpu") is None
