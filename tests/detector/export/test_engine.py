"""Engines are built in the precision asked for and never leave their description. Nothing here runs one: that needs a
GPU."""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from detector.export.engine import SCHEMA, EngineCard, build_engine, card_path, read_engine, write_engine
from detector.export.metadata import NmsSettings, exported
from detector.export.onnx import ExportSettings, to_onnx
from detector.export.parity import natural_images, require_same
from detector.export.quantize import quantize_all
from detector.images import normalise, stack
from detector.model.deploy import DeployedNet, deploy
from detector.runtime.load import load_runtime
from detector.runtime.onnx import OnnxSession
from maenas.deploy.engine import EngineBuilder
from maenas.errors import MaenasError
from maenas.headers import FilePrecision
from maenas.spec import HeadSpec, published_specs

pytest.importorskip("onnxruntime")

NAMES = ("cat", "dog", "car")
SPEC = published_specs(64)["damo-yolo-nano-s"]
SPEC = replace(SPEC, head=HeadSpec(len(NAMES), SPEC.head.reg_max, SPEC.head.kernel))
PICTURES = natural_images(2, SPEC.input)


@pytest.fixture(scope="module")
def net(lively) -> DeployedNet:
    return deploy(lively(SPEC))


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> EngineBuilder:
    """TensorRT for RTX: the same parser and builder, which need no GPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13")
    monkeypatch.setenv("MAENAS_TRT", "tensorrt_rtx")
    return EngineBuilder(workspace_bytes=1 << 28)


def model_of(net: DeployedNet, precision: str) -> onnx.ModelProto:
    if precision != "int8":
        return to_onnx(net, NAMES, ExportSettings(precision=precision))  # type: ignore[arg-type]
    images = [normalise(stack([image]), SPEC.input) for image in natural_images(2, SPEC.input)]
    found = quantize_all(to_onnx(net, NAMES, ExportSettings()), images, "minmax")
    keep = ("head.cls0.conv", "head.reg0.conv")
    return replace(found, keep=keep).apply(to_onnx(net, NAMES, ExportSettings(precision="fp16")))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_carries_what_it_is(net: DeployedNet, builder: EngineBuilder, precision: str, tmp_path: Path) -> None:
    plan, card = build_engine(model_of(net, precision), builder, PICTURES)
    assert (card.export.precision, card.export.detector, card.export.names) == (precision, SPEC, NAMES)
    assert (card.batch, card.runtime, card.conditions["workspace"]) == (1, builder.runtime, "256 MiB")
    if not torch.cuda.is_available():
        assert (card.gpu, card.precision_read_from) == (None, "network")
    path = tmp_path / "net.engine"
    write_engine(path, plan, card)
    assert read_engine(path) == (plan, card)


def test_suppression_is_part_of_an_engine(net: DeployedNet, builder: EngineBuilder) -> None:
    settings = ExportSettings(batch=2, precision="fp16", nms=NmsSettings(0.05, 0.7, 20, 100))
    plan, card = build_engine(to_onnx(net, NAMES, settings), builder, PICTURES)
    assert len(plan) > 1000
    assert (card.batch, card.export.nms) == (2, settings.nms)


def test_another_precision_than_promised_is_refused(net: DeployedNet, builder: EngineBuilder) -> None:
    for is_, said, reason in (("fp32", "fp16", "in fp32, not in fp16"), ("fp16", "int8", "no convolution in int8")):
        model, other = model_of(net, is_), model_of(net, said)
        properties = {entry.key: entry.value for entry in other.metadata_props}
        onnx.helper.set_model_props(model, properties)
        with pytest.raises(MaenasError, match=reason):
            build_engine(model, builder, PICTURES)


def test_an_open_batch_is_refused(net: DeployedNet, builder: EngineBuilder) -> None:
    with pytest.raises(MaenasError, match="one batch size"):
        build_engine(to_onnx(net, NAMES, ExportSettings(batch=None)), builder, PICTURES)


def engine_of(model: onnx.ModelProto, factor: float = 1.0) -> Callable[[Tensor], dict[str, Tensor]]:
    """ONNX Runtime in the place of an engine, with scores times `factor`."""
    run = OnnxSession(model.SerializeToString(), torch.device("cpu"), where="model")

    def engine(images: Tensor) -> dict[str, Tensor]:
        return {name: tensor * factor if name == "scores" else tensor for name, tensor in run(images).items()}

    return engine


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_that_computes_something_else_is_refused(net: DeployedNet, precision: FilePrecision) -> None:
    model = model_of(net, precision)
    require_same(model, engine_of(model), PICTURES, SPEC.input, precision=precision)
    for factor in (0.3, float("nan")):
        with pytest.raises(MaenasError, match="the engine computes something else"):
            require_same(model, engine_of(model, factor), PICTURES, SPEC.input, precision=precision)


def test_an_engine_with_suppression_is_judged_by_its_highest_score(net: DeployedNet) -> None:
    model = to_onnx(net, NAMES, ExportSettings(nms=NmsSettings(0.05, 0.7, 20, 100)))
    require_same(model, engine_of(model), PICTURES, SPEC.input, precision="fp32")
    with pytest.raises(MaenasError, match="the engine computes something else"):
        require_same(model, engine_of(model, 0.3), PICTURES, SPEC.input, precision="fp32")


def made_up(plan: bytes) -> EngineCard:
    export = exported(SPEC, NAMES, precision="fp16", nms=None)
    digest = hashlib.sha256(plan).hexdigest()
    return EngineCard(SCHEMA, "tensorrt 11.4.0", "NVIDIA H100", "engine", 4, digest, {"opt_level": "3"}, export)


def test_an_engine_and_its_description_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    with pytest.raises(MaenasError, match="cannot be read: no such file"):
        read_engine(path)
    path.write_bytes(b"plan")
    with pytest.raises(MaenasError, match=r"net\.engine\.json, which says what it is, is not beside it"):
        read_engine(path)
    write_engine(path, b"plan", made_up(b"plan"))
    assert read_engine(path) == (b"plan", made_up(b"plan"))
    path.write_bytes(b"plam")
    with pytest.raises(MaenasError, match="another SHA-256"):
        read_engine(path)
    text = card_path(path).read_text()
    for old, new, reason in (("engine@1", "engine@7", "schema is"), ('"gpu"', '"gpus"', "gpus"), ("{", "", "JSON")):
        card_path(path).write_text(text.replace(old, new, 1))
        with pytest.raises(MaenasError, match=reason):
            read_engine(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_engine_does_not_run_on_a_cpu(tmp_path: Path) -> None:
    write_engine(tmp_path / "net.engine", b"plan", made_up(b"plan"))
    for device in ("auto", "cpu"):
        with pytest.raises(MaenasError, match="runs on NVIDIA GPUs only"):
            load_runtime(tmp_path / "net.engine", device)
