"""Whatever runs a detector finds the same objects."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from detector.choices import RuntimeName
from detector.export.metadata import KEY, NmsSettings, from_properties
from detector.export.onnx import ExportSettings, to_onnx
from detector.export.parity import natural_images
from detector.images import normalise, prepare, stack
from detector.model.deploy import deploy
from detector.model.weights import read_weights, write_weights
from detector.predict import Detector, Result
from detector.runtime.interface import Runtime, scores_and_boxes
from detector.runtime.load import load_runtime
from maenas.deploy import openvino
from maenas.errors import MaenasError
from maenas.spec import HeadSpec, InputSpec, published_specs

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

LIBRARIES: dict[RuntimeName, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

NAMES = tuple(f"class {number}" for number in range(5))
SPEC = published_specs(96)["damo-yolo-nano-s"]
SPEC = replace(SPEC, head=HeadSpec(len(NAMES), SPEC.head.reg_max, SPEC.head.kernel))
NMS = NmsSettings(conf=0.05, iou=0.7, max_det=100, candidates=1500)
EXPORTS = {
    "one": ExportSettings(),
    "two": ExportSettings(batch=2),
    "open": ExportSettings(batch=None),
    "nms": ExportSettings(batch=None, nms=NMS),
    "half": ExportSettings(batch=None, precision="fp16"),
}
# Images of several sizes, like photographs.
IMAGES = [natural_images(3, InputSpec(*size))[number] for number, size in enumerate([(96, 96), (192, 128), (64, 160)])]


@pytest.fixture(scope="module")
def files(lively, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same detector as weights and as ONNX files."""
    folder = tmp_path_factory.mktemp("files")
    net = lively(SPEC)
    paths = {"weights": folder / "net.safetensors"}
    write_weights(paths["weights"], net, SPEC, NAMES)
    for name, settings in EXPORTS.items():
        paths[name] = folder / f"{name}.onnx"
        paths[name].write_bytes(to_onnx(deploy(net), NAMES, settings).SerializeToString())
    return paths


def found(path: Path, runtime: RuntimeName | None = None, **settings) -> list[Result]:
    return Detector.load(path, "cpu", runtime=runtime).predict(IMAGES, max_det=60, **settings)


def require_same(results: list[Result], wanted: list[Result], *, pixels: float, scores: float) -> None:
    for one, two in zip(results, wanted, strict=True):
        assert one.names == two.names
        torch.testing.assert_close(one.scores, two.scores, atol=scores, rtol=0)
        torch.testing.assert_close(one.boxes, two.boxes, atol=pixels, rtol=0)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["weights", "one", "two", "open", "nms"])
def test_an_onnx_file_finds_what_its_weights_find(files: dict[str, Path], name: str, library: RuntimeName) -> None:
    wanted = found(files["weights"])
    assert sum(len(result.names) for result in wanted) > 50
    require_same(found(files[name], library), wanted, pixels=1e-2, scores=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_half_precision_finds_nearly_the_same(files: dict[str, Path], library: RuntimeName) -> None:
    wanted = load_runtime(files["weights"], "cpu")
    half = load_runtime(files["half"], "cpu", runtime=library)
    images = normalise(stack([prepare(image, SPEC.input)[0] for image in IMAGES]), SPEC.input)
    with torch.inference_mode():
        (scores, boxes), (other_scores, other_boxes) = wanted.network(images), half.network(images)
    assert other_scores.dtype == torch.float32
    torch.testing.assert_close(other_scores, scores, atol=1e-2, rtol=0)
    torch.testing.assert_close(other_boxes, boxes, atol=0.5, rtol=0)


def test_a_runtime_says_what_it_is(files: dict[str, Path]) -> None:
    runtimes = {name: load_runtime(path, "cpu", threads=1) for name, path in files.items()}
    assert {runtime.spec for runtime in runtimes.values()} == {SPEC}
    assert {runtime.names for runtime in runtimes.values()} == {NAMES}
    assert {name: runtime.batch for name, runtime in runtimes.items()} == {
        "weights": None,
        "one": 1,
        "two": 2,
        "open": None,
        "nms": None,
        "half": None,
    }
    assert [runtimes[name].precision for name in ("weights", "one", "half")] == ["fp32", "fp32", "fp16"]
    assert runtimes["nms"].nms == NMS
    assert runtimes["weights"].library.startswith("torch ")
    assert runtimes["one"].library.startswith("onnxruntime-cpu ")
    for name, path in files.items():
        other = load_runtime(path, "cpu", threads=1, runtime="openvino")
        assert other.library.startswith("openvino-cpu 20")
        assert other.precision == "fp32", "what it computes a file in fp16 in"
        own = runtimes[name]
        assert replace(other, network=own.network, library=own.library, precision=own.precision) == own


def test_openvino_computes_in_bf16_where_that_is_asked_for(files: dict[str, Path]) -> None:
    """Weights and files alike, near fp32."""
    if not openvino.has_bf16(openvino.import_openvino()):
        pytest.skip("this CPU has no bf16 instructions")
    runtimes = [load_runtime(files[name], "cpu", runtime="openvino-bf16") for name in ("weights", "one")]
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    (scores, boxes), (again, _) = (runtime.network(images) for runtime in runtimes)
    assert [runtime.precision for runtime in runtimes] == ["bf16", "bf16"]
    wanted, places = load_runtime(files["one"], "cpu", runtime="openvino").network(images)
    assert torch.equal(scores, again)
    assert 1e-6 < (scores - wanted).abs().max() < 0.05
    assert (boxes - places).abs().max() < 3


def test_bf16_on_a_cpu_that_has_none_is_refused_at_once(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = openvino._core(openvino.import_openvino())
    without = SimpleNamespace(read_model=core.read_model, get_property=lambda *_: ["FP32", "INT8"])
    monkeypatch.setattr(openvino, "_core", lambda _: without)
    with pytest.raises(MaenasError, match=r"one\.onnx: this CPU has no bf16 instructions .* choose fp32 or int8"):
        load_runtime(files["one"], "cpu", runtime="openvino-bf16")


def test_suppression_in_the_file_cannot_be_undone(files: dict[str, Path]) -> None:
    detector = Detector.load(files["nms"], "cpu")
    require_same(detector.predict(IMAGES, conf=0.4), found(files["weights"], conf=0.4), pixels=1e-2, scores=1e-4)
    for settings in ({"conf": 0.01}, {"iou": 0.6}, {"iou": 0.8}):
        with pytest.raises(MaenasError, match=r"suppression is in the file, with conf 0\.05 and iou 0\.7"):
            detector.predict(IMAGES, **settings)


def test_detections_become_rows_of_scores() -> None:
    outputs = {
        "num": torch.tensor([2, 0], dtype=torch.int32),
        "scores": torch.tensor([[0.9, 0.4, 0], [0, 0, 0]]),
        "boxes": torch.arange(24.0).reshape(2, 3, 4),
        "labels": torch.tensor([[1, 0, 1], [0, 0, 0]]),
    }
    scores, boxes = scores_and_boxes(outputs, num_classes=2)
    assert scores.tolist()[0] == [[0, pytest.approx(0.9)], [pytest.approx(0.4), 0], [0, 0]]
    assert not scores[1].any()
    assert boxes is outputs["boxes"] or torch.equal(boxes, outputs["boxes"])


def foreign_model() -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 96, 96]) for name in ("image", "scores")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["scores"])], "other", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    return model


def refusal(path: Path, library: RuntimeName | None = None) -> str:
    with pytest.raises(MaenasError) as caught:
        load_runtime(path, "cpu", runtime=library)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("library", "name"), LIBRARIES.items())
def test_other_onnx_files_are_refused(files: dict[str, Path], tmp_path: Path, library: RuntimeName, name: str) -> None:
    path = tmp_path / "net.onnx"
    assert "cannot be read: no such file" in refusal(path, library)
    for content, reason in (
        (b"", "has 0 bytes"),
        (b"not a model", f"{name} cannot load it"),
        (files["one"].read_bytes()[:-1000], f"{name} cannot load it"),
        (foreign_model().SerializeToString(), "nothing in it says which detector it is"),
    ):
        path.write_bytes(content)
        assert reason in refusal(path, library)


def test_a_library_runs_only_its_own_files(files: dict[str, Path], tmp_path: Path) -> None:
    assert "runs in onnxruntime or openvino, not in torch" in refusal(files["one"], "torch")
    assert "runs in TensorRT only" in refusal(tmp_path / "net.engine", "openvino")
    with pytest.raises(MaenasError, match=r"cuda|the CPU here"):
        load_runtime(files["one"], "cuda", runtime="openvino")


def test_a_missing_openvino_is_told(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MaenasError, match=r"pip install 'maenas\[openvino\]'"):
        load_runtime(files["one"], "cpu", runtime="openvino")


@pytest.mark.parametrize("library", LIBRARIES)
def test_metadata_that_do_not_fit_are_refused(files: dict[str, Path], tmp_path: Path, library: RuntimeName) -> None:
    path = tmp_path / "net.onnx"
    stored = {entry.key: entry.value for entry in onnx.load(files["one"]).metadata_props}
    model = foreign_model()
    helper.set_model_props(model, stored)
    path.write_bytes(model.SerializeToString())
    assert "the file was changed" in refusal(path, library)
    for old, new, reason in (
        ("maenas/export@1", "maenas/export@9", "schema is 'maenas/export@9'"),
        ('"class 4"', '"class 4", "class 5"', "6 class names for a detector of 5 classes"),
        ('"detector"', '"detectors"', "detectors"),
        ("{", "", "valid JSON|JSON"),
    ):
        changed = {**stored, KEY: stored[KEY].replace(old, new, 1)}
        with pytest.raises(MaenasError, match=reason):
            from_properties(changed, where="it")


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for name in ("net.pth", "net", "net.json"):
        assert "a detector is a file .safetensors, .onnx or .engine" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "hint"), [("net.json", "maenas train"), ("last.pt", "weights.safetensors"), ("net.pth", "weights convert")]
)
def test_a_file_without_weights_to_use_is_answered_with_where_they_are(name: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}", encoding="utf-8")
    assert hint in refusal(tmp_path / name)
    with pytest.raises(MaenasError, match=hint):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images_passes_a_fixed_batch(files: dict[str, Path], count: int, library: RuntimeName) -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((count, 3, 96, 96), np.float32)) * 255
    wanted, fixed = (load_runtime(files[name], "cpu", runtime=library) for name in ("open", "two"))
    for one, two in zip(wanted.network(images), fixed.network(images), strict=True):
        assert len(one) == count
        torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_said(files: dict[str, Path]) -> None:
    runtime: Runtime = load_runtime(files["one"], "auto")
    assert runtime.device == torch.device("cpu")
    for name in ("weights", "one"):
        with pytest.raises(MaenasError, match="cuda"):
            load_runtime(files[name], "cuda")
