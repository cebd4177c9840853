"""Weights files: what is written is read, what is damaged, foreign or dangerous is refused with a clear message."""

import dataclasses
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.model.coco import COCO_NAMES
from detector.model.net import DetectorNet
from detector.model.published import BINS, published_names
from detector.model.weights import LoadReport, Weights, load_into, load_net, read_published, read_weights, write_weights
from maenas.errors import MaenasError
from maenas.spec import DetectorSpec, HeadSpec, InputSpec, published_specs

PUBLISHED = published_specs()
NANO = PUBLISHED["damo-yolo-nano-s"]
TINY = PUBLISHED["damo-yolo-t"]


def with_classes(spec: DetectorSpec, count: int) -> DetectorSpec:
    return dataclasses.replace(spec, head=HeadSpec(count, spec.head.reg_max, spec.head.kernel))


def state_of(spec: DetectorSpec, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return DetectorNet(spec).state_dict()


def released(state: dict[str, Tensor], spec: DetectorSpec) -> dict[str, Tensor]:
    """`state` as a released file has it."""
    renamed = {theirs: state[name] for name, theirs in published_names(spec).items()}
    return {**renamed, BINS: torch.arange(spec.head.reg_max + 1.0)}


def same(found: Any, expected: Any) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return state_of(NANO)


@pytest.fixture(scope="module")
def whole_file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_weights(path, state, NANO, COCO_NAMES, {"epoch": "3"})
    return path.read_bytes()


# Our files ------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(state: dict[str, Tensor], whole_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(whole_file)
    weights = read_weights(path)
    assert (weights.spec, weights.names, weights.metadata) == (NANO, COCO_NAMES, {"epoch": "3"})
    assert same(weights.state, state)
    net, again = load_net(path)
    assert not net.training
    assert same(net.state_dict(), state)
    assert again.spec == net.spec == NANO


def test_the_folder_of_a_run_stands_for_its_weights(whole_file: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(whole_file)
    assert same(read_weights(tmp_path).state, read_weights(tmp_path / "weights.safetensors").state)


def test_equal_weights_give_equal_bytes(whole_file: bytes, tmp_path: Path) -> None:
    net = DetectorNet(NANO).to(memory_format=torch.channels_last)
    net.load_state_dict(state_of(NANO))
    write_weights(tmp_path / "w.safetensors", net, NANO, COCO_NAMES, {"epoch": "3"})
    assert (tmp_path / "w.safetensors").read_bytes() == whole_file


def test_a_refused_write_leaves_the_old_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(MaenasError, match="80 classes"):
        write_weights(path, state, NANO, ("a", "b"))
    with pytest.raises(MaenasError, match=r"another network.*backbone\.stem\.conv\.conv\.weight"):
        write_weights(path, {**state, "backbone.stem.conv.conv.weight": torch.zeros(3)}, NANO, COCO_NAMES)
    with pytest.raises(MaenasError, match=r"missing head\.scale2"):
        write_weights(path, {name: t for name, t in state.items() if name != "head.scale2"}, NANO, COCO_NAMES)
    with pytest.raises(MaenasError, match=r"not finite.*head\.scale1"):
        write_weights(path, {**state, "head.scale1": torch.tensor(float("nan"))}, NANO, COCO_NAMES)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["w.safetensors"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_off_anywhere_is_refused(whole_file: bytes, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole_file[: data.draw(st.integers(0, 20_000) | st.integers(0, len(whole_file) - 1))])
    with pytest.raises(MaenasError, match=r"cut\.safetensors: not a whole safetensors file"):
        read_weights(path)


@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", pickle.dumps(3, protocol=4)], ids=["empty", "text", "pickle"]
)
def test_a_file_of_another_format_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(MaenasError, match="not a whole safetensors file"):
        read_weights(tmp_path / "w")
    with pytest.raises(MaenasError, match="not a whole checkpoint"):
        read_published(tmp_path / "w", NANO)


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(MaenasError, match=f"{path.name}: cannot be read"):
            read_published(path, NANO)
    with pytest.raises(MaenasError, match="nothing: cannot be read"):
        read_weights(tmp_path / "nothing")
    with pytest.raises(MaenasError, match=f"{tmp_path.name}: there is no weights.safetensors in this folder; name"):
        read_weights(tmp_path)
    (tmp_path / "winner.safetensors").touch()  # as a race leaves it
    with pytest.raises(MaenasError, match=r"in this folder, but winner\.safetensors; name"):
        read_weights(tmp_path)


def header(spec: DetectorSpec = NANO, **changes: Any) -> dict[str, Any]:
    document = {"schema": "maenas/weights@1", "names": list(COCO_NAMES), "metadata": {}}
    return {**document, "detector": dataclasses.asdict(spec), **changes}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "not written by maenas"),
        (header(schema="maenas/weights@9"), "schema is 'maenas/weights@9'"),
        (header(names=["cat"]), "1 class names for a detector of 80"),
        (header(extra=1), "extra: unknown key"),
        (header(with_classes(NANO, 79), names=["x"] * 79), "of another network"),
        (header(TINY), "not the state of its detector"),
    ],
)
def test_a_document_that_is_not_that_of_the_tensors_is_refused(
    document: Any, message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    metadata = None if document is None else {"maenas": json.dumps(document)}
    (tmp_path / "w").write_bytes(safetensors.torch.save(state, metadata))
    with pytest.raises(MaenasError, match=message):
        read_weights(tmp_path / "w")


def test_weights_that_are_not_finite_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    broken = {**state, "head.scale0": torch.tensor(float("inf"))}
    (tmp_path / "w").write_bytes(safetensors.torch.save(broken, {"maenas": json.dumps(header())}))
    with pytest.raises(MaenasError, match=r"not finite.*head\.scale0"):
        read_weights(tmp_path / "w")
    torch.save(released(broken, NANO), tmp_path / "w.pth")
    with pytest.raises(MaenasError, match=r"not finite.*head\.scale0"):
        read_published(tmp_path / "w.pth", NANO)


# Released files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("entry", ["model", "state_dict", None])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_layout_of_a_checkpoint_is_read(
    state: dict[str, Tensor], tmp_path: Path, prefix: str, entry: str | None, zipped: bool
) -> None:
    tensors = OrderedDict((prefix + name, tensor) for name, tensor in released(state, NANO).items())
    content = tensors if entry is None else {entry: tensors, "epoch": 300, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    weights = read_published(tmp_path / "net.pth", NANO)
    assert same(weights.state, state)
    assert (weights.spec, weights.names) == (NANO, COCO_NAMES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_of_every_published_detector_has_a_released_name_of_its_own(name: str) -> None:
    with torch.device("meta"):
        state = DetectorNet(PUBLISHED[name]).state_dict()
    names = published_names(PUBLISHED[name])
    assert list(names) == list(state)
    assert len(set(names.values())) == len(names)
    assert all(theirs.rpartition(".")[2] in (ours.rpartition(".")[2], "scale") for ours, theirs in names.items())


def test_a_backbone_that_was_never_released_has_no_released_names() -> None:
    stages = tuple(dataclasses.replace(stage, block="k1kxk1") for stage in TINY.backbone.stages)
    spec = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, stages=stages))
    with pytest.raises(MaenasError, match="no released checkpoints of a backbone of k1kxk1 blocks"):
        published_names(spec)


def test_the_class_count_is_that_of_the_file(tmp_path: Path) -> None:
    three = with_classes(NANO, 3)
    torch.save({"model": released(state_of(three), three)}, tmp_path / "net.pth")
    weights = read_published(tmp_path / "net.pth", NANO)
    assert weights.spec == three
    assert weights.names == ("class 0", "class 1", "class 2")
    assert read_published(tmp_path / "net.pth", NANO, ("a", "b", "c")).names == ("a", "b", "c")
    with pytest.raises(MaenasError, match="2 class names for a detector of 3 classes"):
        read_published(tmp_path / "net.pth", NANO, ("a", "b"))


@pytest.mark.parametrize(
    ("file", "spec"), [("nano-s", "t"), ("nano-s", "nano-m"), ("t", "s"), ("t", "nano-s"), ("t", "m")]
)
def test_a_checkpoint_of_another_detector_is_refused(file: str, spec: str, tmp_path: Path) -> None:
    own, other = PUBLISHED[f"damo-yolo-{file}"], PUBLISHED[f"damo-yolo-{spec}"]
    torch.save({"model": released(state_of(own), own)}, tmp_path / "net.pth")
    with pytest.raises(MaenasError, match=r"net\.pth: the tensors are of another network: .* is \["):
        read_published(tmp_path / "net.pth", other)


def test_tensors_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "net.pth")
    with pytest.raises(MaenasError, match="no tensor in it is of this detector"):
        read_published(tmp_path / "net.pth", NANO)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {}}, {"epoch": 3}, {"model": {"a": 1}}, {3: torch.zeros(1)}])
def test_a_checkpoint_without_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(MaenasError, match=r"no named tensors|not a tensor"):
        read_published(tmp_path / "net.pth", NANO)


class Trap:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(state: dict[str, Tensor], tmp_path: Path, zipped: bool) -> None:
    content = {"model": released(state, NANO), "epoch": Trap(str(tmp_path / "ran"))}
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(MaenasError, match="refused, because it holds code"):
        read_published(tmp_path / "net.pth", NANO)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(content["epoch"], protocol=2))
    with pytest.raises(MaenasError, match="refused, because it holds code"):
        read_published(tmp_path / "plain.pkl", NANO)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cut_off_anywhere_is_refused(state: dict[str, Tensor], tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "net.pth"
    torch.save({"model": released(state, NANO)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for part in range(20):
        path.write_bytes(content[: len(content) * part // 20 + part])
        with pytest.raises(MaenasError, match=r"net\.pth: not a whole checkpoint"):
            read_published(path, NANO)


# Into a network -------------------------------------------------------------------------------------------------------


def test_another_class_count_keeps_everything_but_the_class_convolutions(state: dict[str, Tensor]) -> None:
    spec = dataclasses.replace(with_classes(NANO, 3), input=InputSpec(320, 320))
    net = DetectorNet(spec)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    report = load_into(net, Weights(NANO, COCO_NAMES, state, {}))
    classes = {f"head.cls{level}.{leaf}" for level in range(3) for leaf in ("weight", "bias")}
    assert (set(report.reinitialised), report.missing, report.unexpected) == (classes, (), ())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name] if name in classes else state[name])


def test_the_same_class_count_keeps_everything(state: dict[str, Tensor]) -> None:
    net = DetectorNet(NANO)
    assert load_into(net, Weights(NANO, COCO_NAMES, state, {})) == LoadReport((), (), ())
    assert same(net.state_dict(), state)


def test_missing_and_unknown_tensors_are_reported(state: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = released(state, NANO)
    for name in published_names(NANO).values():
        if name.startswith(("neck.", "head.")):
            del tensors[name]
    torch.save({"model": {**tensors, "classifier.weight": torch.zeros(10)}}, tmp_path / "net.pth")
    net = DetectorNet(NANO)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    report = load_into(net, read_published(tmp_path / "net.pth", NANO))
    assert report.missing == tuple(name for name in state if not name.startswith("backbone."))
    assert (report.unexpected, report.reinitialised) == (("classifier.weight",), ())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name] if name.startswith("backbone.") else before[name])


@pytest.mark.parametrize("part", ["backbone", "neck", "head"])
def test_weights_of_another_architecture_are_refused_even_where_the_shapes_agree(
    part: str, state: dict[str, Tensor]
) -> None:
    change = {"num_classes": 80, "reg_max": 9} if part == "head" else {"act": "relu"}
    spec = dataclasses.replace(NANO, **{part: dataclasses.replace(getattr(NANO, part), **change)})
    with pytest.raises(MaenasError, match=f"another detector.*: {part} differ"):
        load_into(DetectorNet(spec), Weights(NANO, COCO_NAMES, state, {}))
