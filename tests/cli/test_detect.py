"""`maenas detect`, `export`, `show` and `weights convert` from the outside."""

import json
import os
from pathlib import Path

import pytest

from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.lowering import lower
from maenas.spec import published_specs
from tests.conftest import Maenas

NAMES = tuple(f"class {number}" for number in range(80))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of the smallest published detector, at 64 x 64."""
    pytest.importorskip("torch")
    from detector.model.net import DetectorNet
    from detector.model.weights import write_weights

    spec = published_specs(64)["damo-yolo-nano-s"]
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    write_weights(path, DetectorNet(spec), spec, NAMES)
    return path


def image(path: Path, side: int = 40) -> Path:
    import numpy as np
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-m", "damo-yolo-nano-s"])
def test_show_prints_every_layer(maenas: Maenas, name: str) -> None:
    outcome = maenas("show", name)
    spec = published_specs()[name]
    kernels = lower(spec)
    lines = outcome.out.splitlines()
    assert outcome.code == 0
    assert all(any(line.startswith(f"{kernel.name} ") for line in lines) for kernel in kernels)
    shares = [
        float(line.split()[-1].removesuffix("%")) for line in lines if line.split(" ")[0] in {k.name for k in kernels}
    ]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    assert spec.id in lines[0]
    assert "modelled" in outcome.out


def test_show_as_json_adds_up(maenas: Maenas) -> None:
    outcome = maenas("show", "damo-yolo-s", "--json", "--device", "a100")
    document = json.loads(outcome.out)
    cost = total_cost(lower(published_specs()["damo-yolo-s"]))
    assert document["command"] == "show"
    assert sum(layer["params"] for layer in document["layers"]) == cost.params
    assert sum(layer["flops"] for layer in document["layers"]) == cost.flops
    assert {layer["part"] for layer in document["layers"]} == {
        "stem",
        *(f"stage{n}" for n in range(1, 6)),
        "neck",
        "head",
    }


def test_show_reads_weights(maenas: Maenas, weights: Path) -> None:
    outcome = maenas("show", weights)
    assert outcome.out.startswith("nano (id ")
    assert "64x64, 80 classes" in outcome.out


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_show_draws(maenas: Maenas, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert maenas("show", "damo-yolo-t", "--plot", f"net.{suffix}").out.endswith(f"wrote net.{suffix}\n")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert (tmp_path / f"net.{suffix}").read_bytes().startswith(start)


def test_show_refuses_what_it_cannot_draw_or_read(maenas: Maenas) -> None:
    pytest.importorskip("matplotlib")
    for arguments, reason in (
        (("damo-yolo-t", "--plot", "net.doc"), r"must end in .png, .svg, .pdf"),
        (("damo-yolo-x",), "unknown network"),
        (("damo-yolo-t", "--device", "t5"), "unknown device"),
    ):
        outcome = maenas("show", *arguments)
        assert outcome.code == 2
        assert reason in outcome.err


def test_detect_writes_what_it_says(maenas: Maenas, weights: Path, tmp_path: Path) -> None:
    image(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.jpg").touch()
    options = ("--conf", "0.005", "--save-txt", "--save-json", "--device", "cpu", "--out", "found")
    outcome = maenas("detect", "photos", "-w", weights, *options)
    assert outcome.code == 0
    assert outcome.out.startswith("1 image: ")
    assert "skipped: image photos/b.jpg: the file is empty" in outcome.err
    rows = json.loads((tmp_path / "found" / "detections.json").read_text())
    lines = (tmp_path / "found" / "labels" / "a.txt").read_text().splitlines()
    assert len(rows) == len(lines) > 0
    assert {row["file_name"] for row in rows} == {"a.png"}
    assert (tmp_path / "found" / "a.jpg").is_file()


def test_files_of_a_folder_whose_names_are_not_text_are_detected_in(
    maenas: Maenas, weights: Path, tmp_path: Path
) -> None:
    odd = os.fsdecode(b"odd\xff.png")
    try:
        image(tmp_path / "photos" / odd)
    except OSError:
        pytest.skip("this file system takes names that are text only")
    options = ("--conf", "0.005", "--save-txt", "--save-json", "--device", "cpu", "--out", "found")
    outcome = maenas("detect", "photos", "-w", weights, *options)
    assert outcome.code == 0
    assert outcome.out.startswith("1 image: ")
    rows = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert {row["file_name"] for row in rows} == {odd}
    assert (tmp_path / "found" / "labels" / odd).with_suffix(".txt").is_file()
    assert (tmp_path / "found" / odd).with_suffix(".jpg").is_file()


def test_detect_refuses(maenas: Maenas, weights: Path, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:5000])
    for arguments, reason in (
        (("none.jpg", "-w", weights), "none.jpg: there is no such file"),
        (("a.png", "-w", "none.safetensors"), "none.safetensors"),
        (("a.png", "-w", "cut.safetensors"), "not a whole safetensors file"),
        (("a.png", "-w", weights, "--conf", "2"), "or equal to 1"),
        (("a.png", "-w", weights, "--device", "gpu"), "device 'gpu'"),
        (("a.png", "-w", weights, "--classes", "class 81"), "did you mean class"),
        (("empty.jpg", "-w", weights), "no image could be read"),
    ):
        outcome = maenas("detect", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert reason in outcome.err


def test_classes_by_name_and_number() -> None:
    pytest.importorskip("torch")
    from detector.detect import class_labels

    assert class_labels("dog, 0,dog", ("cat", "dog")) == (1, 0)
    assert class_labels(None, ("cat",)) is None
    assert class_labels("truck, small,1", ("truck", "truck, small", "small")) == (1,)
    assert class_labels("small,truck, small", ("truck", "truck, small", "small")) == (2, 1)
    assert class_labels("small,truck", ("truck", "truck, small", "small")) == (2, 0)
    for wrong in ("2", "-1", "", "bird"):
        with pytest.raises(MaenasError, match="--classes"):
            class_labels(wrong, ("cat", "dog"))


@pytest.mark.parametrize(
    "options", [(), ("--precision", "fp16", "--batch", "2"), ("--nms", "in-graph", "--batch", "dynamic")]
)
def test_export_writes_a_checked_file(maenas: Maenas, weights: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    outcome = maenas("export", weights, *options, "--out", "out/net.onnx")
    assert outcome.code == 0, outcome.err
    assert "checked against torch on 4 images (fp" in outcome.out
    model = onnx.load(tmp_path / "out" / "net.onnx")
    assert f"{len(model.graph.node)} nodes" in outcome.out
    batch = "1" if not options else "2" if "fp16" in options else "batch"
    assert f"image float{'16' if 'fp16' in options else ''} {batch}x3x64x64 -> " in outcome.out
    assert {entry.key for entry in model.metadata_props} >= {"maenas", "names", "spec_id", "resize", "value_range"}


def test_export_refuses_and_leaves_no_file(maenas: Maenas, weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for options, reason in (
        (("--format", "plan"), "'plan' is not one of"),
        (("--nms", "fast"), "'fast' is not one of"),
        (("--batch", "0"), "--batch is 0"),
        (("--size", "100"), "multiple of 32"),
        (("--nms", "in-graph", "--candidates", "9999"), "candidates"),
        (("--images", "none"), "no such file"),
    ):
        outcome = maenas("export", weights, *options, "--out", "net.onnx")
        assert outcome.code == 2
        assert reason in outcome.err
    assert not (tmp_path / "net.onnx").exists()


def test_a_published_checkpoint_is_converted(maenas: Maenas, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from detector.model.net import DetectorNet
    from detector.model.published import published_names
    from detector.model.weights import read_weights

    spec = published_specs()["damo-yolo-nano-s"]
    state = DetectorNet(spec).state_dict()
    released = {theirs: state[ours] for ours, theirs in published_names(spec).items()}
    torch.save({"model": released, "epoch": 300}, tmp_path / "old.pth")
    outcome = maenas("weights", "convert", "old.pth", "new.safetensors", "--spec", "damo-yolo-nano-s")
    assert outcome.code == 0, outcome.err
    weights = read_weights(tmp_path / "new.safetensors")
    assert weights.spec == spec
    assert (weights.names[0], len(weights.names)) == ("person", 80)
    assert all(torch.equal(weights.state[name], tensor) for name, tensor in state.items())
    (tmp_path / "names.txt").write_text("".join(f"thing {n}\n" for n in range(80)))
    maenas("weights", "convert", "old.pth", "named.safetensors", "--spec", "damo-yolo-nano-s", "--names", "names.txt")
    assert read_weights(tmp_path / "named.safetensors").names[79] == "thing 79"


def test_a_checkpoint_of_another_network_is_refused(maenas: Maenas, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"model": {"some.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    outcome = maenas("weights", "convert", "other.pth", "new.safetensors", "--spec", "damo-yolo-t")
    assert outcome.code == 2
    assert "some.weight" in outcome.err
    assert not (tmp_path / "new.safetensors").exists()
