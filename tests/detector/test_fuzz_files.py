"""Damaged files of data, images, weights, checkpoints and exports: read, or refused with a MaenasError."""

import contextlib
import dataclasses
import hashlib
import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from detector.checkpoint import SCHEMA, TrainingCheckpoint, read_checkpoint, write_checkpoint
from detector.data.dataset import open_dataset, read_dataset
from detector.data.pictures import load_image
from detector.data.sample import Dataset, Sample, image_size
from detector.export.engine import EngineCard, card_path, read_engine, write_engine
from detector.export.metadata import exported
from detector.export.onnx import ExportSettings, to_onnx
from detector.images import read_image
from detector.model.deploy import deploy
from detector.model.net import DetectorNet
from detector.model.published import published_names
from detector.model.weights import load_net, read_published, write_weights
from detector.recipe import Recipe, load_recipe
from detector.runtime.load import load_runtime
from maenas.errors import MaenasError
from maenas.latency.onnx.lower import lower_onnx
from maenas.latency.onnx.predict import predict_graph
from maenas.latency.predictor import load_predictor
from maenas.reports.networks import from_weights
from maenas.strict import dump_json
from tests.detector.conftest import TINY
from tests.detector.data.conftest import write_coco, write_voc, write_yolo
from tests.mutations import damage, damaged_text, fuzz, mutate

ROOT = Path(__file__).resolve().parents[2]
SPEC = replace(TINY, head=replace(TINY.head, num_classes=2))
NAMES = ("cat", "dog")


@pytest.fixture(params=[20, pytest.param(600, marks=pytest.mark.slow)])
def count(request: pytest.FixtureRequest) -> int:
    """Damaged inputs of a test."""
    return request.param


@pytest.fixture(scope="module")
def net() -> DetectorNet:
    torch.manual_seed(0)
    return DetectorNet(SPEC).eval()


# Data sets ----------------------------------------------------------------------------------------------------------


def check_dataset(dataset: Dataset) -> None:
    for sample in dataset.samples:
        inside = (sample.boxes >= 0).all() and (sample.boxes <= [sample.width, sample.height] * 2).all()
        assert inside
        assert ((sample.labels >= 0) & (sample.labels < len(dataset.names))).all()
        assert np.int64(sample.id) == sample.id
        assert np.isfinite(sample.areas).all()


def write_listed_yolo(root: Path) -> Path:
    write_yolo(root)
    (root / "list.txt").write_text("images/train/a.jpg\nimages/train/b.jpg\n")
    (root / "data.yaml").write_text("path: .\nnc: 2\ntrain: list.txt\nval: images/val\nnames: {0: cat, 1: dog}\n")
    return root


@pytest.mark.parametrize(
    ("write", "file"),
    [
        (write_coco, "annotations/instances_train.json"),
        (write_listed_yolo, "data.yaml"),
        (write_listed_yolo, "labels/train/a.txt"),
        (write_listed_yolo, "list.txt"),
        (write_voc, "Annotations/x1.xml"),
        (write_voc, "ImageSets/Main/train.txt"),
    ],
)
def test_damaged_data_sets_are_read_or_refused(
    write: Callable[[Path], Path], file: str, count: int, tmp_path: Path
) -> None:
    root = write(tmp_path / "data")
    path = root / file

    def read(text: str) -> Dataset:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        check_dataset(read_dataset(root, "train"))
        return open_dataset(root, "train")

    outcomes = fuzz(4 * count, damaged_text(path.read_text()), read, check_dataset, where=str(root))
    assert outcomes["read"] > 0.05 * count


def test_damaged_recipes_are_read_or_refused(count: int, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"

    def read(text: str) -> Recipe:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return load_recipe(str(path))

    texts = "epochs: 30\nbatch: auto\naugment: {mosaic_prob: 0.5}\nmulti_scale: [320, 384]\n", dump_json(Recipe())
    fuzz(4 * count, damaged_text(*texts), read, where=str(path))


# Images -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # Pillow warns about some damage before it raises
@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "tiff", "webp"])
def test_damaged_images_are_read_or_refused(suffix: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / f"damaged.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, "jpeg" if suffix == "jpg" else suffix, exif=exif)
    whole, none = buffer.getvalue(), np.zeros((0, 4), np.float32)
    sample = Sample(path, 1, 40, 56, none, np.zeros(0, np.int64), none[:, 0], none, np.zeros(0, np.int64))

    def read(data: bytes) -> np.ndarray:
        path.write_bytes(data)
        size = image_size(path)
        assert size is None or min(size) > 0
        with contextlib.suppress(MaenasError):
            load_image(sample)  # the fast decoder of the training
        return read_image(path)

    def check(image: np.ndarray) -> None:
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)

    fuzz(2 * count, lambda number, rng: damage(whole, rng, within=400), read, check, where=str(path))


# Weights and checkpoints --------------------------------------------------------------------------------------------


def safetensors_parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def safetensors_file(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


_DTYPES = ("F16", "F64", "I64", "I32", "U8", "U32", "BOOL", "BF16", "F8_E4M3", "F8_E5M2", "C64", "F4", "E8M0", "X")


@pytest.mark.parametrize("what", ["bytes", "header", "document", "tensors"])
def test_damaged_weights_are_read_or_refused(what: str, net: DetectorNet, count: int, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_weights(path, net, SPEC, NAMES)
    whole = path.read_bytes()
    header, data = safetensors_parts(path)
    text, inner = json.dumps(header), header["__metadata__"]["maenas"]

    def make(number: int, rng: np.random.Generator) -> bytes:
        if what == "bytes":
            return damage(whole, rng, within=len(text))
        if what == "header":
            return safetensors_file(mutate(text, rng).encode("utf-8", "surrogatepass"), data)
        changed = json.loads(text)
        if what == "document":
            changed["__metadata__"]["maenas"] = mutate(inner, rng)
        else:
            entry = changed[list(changed)[int(rng.integers(1, len(changed)))]]
            entry["dtype"] = _DTYPES[int(rng.integers(len(_DTYPES)))]
            if rng.random() < 0.3:
                entry["shape"] = rng.choice([0, 1, 2, 2**40, 2**62, -1], 3).tolist()
        return safetensors_file(json.dumps(changed).encode(), data)

    def read(content: bytes) -> DetectorNet:
        path.write_bytes(content)
        with contextlib.suppress(MaenasError):
            from_weights(path)  # reads the header only
        return load_net(path)[0]

    def check(loaded: DetectorNet) -> None:
        for name, tensor in loaded.state_dict().items():
            assert tensor.isfinite().all(), name

    fuzz(count, make, read, check, where=str(path))


@pytest.mark.parametrize("what", ["zip", "old format", "pickle in a whole zip"])
def test_damaged_released_checkpoints_are_read_or_refused(
    what: str, net: DetectorNet, count: int, tmp_path: Path
) -> None:
    path = tmp_path / "net.pth"
    state = net.state_dict()
    released = {theirs: state[ours] for ours, theirs in published_names(SPEC).items()}
    torch.save({"model": released}, path, _use_new_zipfile_serialization=what != "old format")
    whole = path.read_bytes()
    entries = {}
    if what != "old format":
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}

    def make(number: int, rng: np.random.Generator) -> bytes:
        if what != "pickle in a whole zip":
            return damage(whole, rng, within=None if number % 2 else 20_000)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, damage(content, rng) if name.endswith("data.pkl") else content)
        return buffer.getvalue()

    def read(content: bytes) -> Any:
        path.write_bytes(content)
        return read_published(path, SPEC)

    fuzz(count, make, read, where=str(path))


def test_damaged_training_checkpoints_are_refused(net: DetectorNet, count: int, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    fields: dict[str, Any] = {"spec": SPEC, "names": NAMES, "recipe": Recipe(), "batch": 4, "data": "0", "step": 1}
    fields |= {"closed": 0, "best_ap": -1.0, "best_epoch": 0, "net": net.state_dict(), "average": net.state_dict()}
    stored = TrainingCheckpoint(**fields, optimizer={"state": {}}, scaler={}, distiller={})
    write_checkpoint(path, stored)
    whole = path.read_bytes()

    def read(content: bytes) -> TrainingCheckpoint:
        path.write_bytes(content)
        return read_checkpoint(path)

    def check(found: TrainingCheckpoint) -> None:
        # What the checksums leave open is padding and names of entries.
        assert (found.spec, found.names, found.recipe, found.step) == (SPEC, NAMES, Recipe(), 1)
        assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in found.net.items())

    outcomes = fuzz(2 * count, lambda number, rng: damage(whole, rng), read, check, where=str(path))
    assert outcomes["refused"] > count


@pytest.mark.parametrize("kind", list(dataclasses.fields(TrainingCheckpoint)), ids=lambda field: field.name)
def test_a_training_checkpoint_with_another_kind_of_value_is_refused(
    kind: dataclasses.Field[Any], net: DetectorNet, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    document: dict[str, Any] = {"schema": SCHEMA, "spec": dump_json(SPEC), "recipe": dump_json(Recipe())}
    document |= {"names": list(NAMES), "batch": 4, "data": "0", "step": 1, "closed": 0, "best_ap": -1.0}
    document |= {"best_epoch": 0}
    document |= {"net": {}, "average": {}, "optimizer": {}, "scaler": {}, "distiller": {}}
    torch.save(document, path)
    read_checkpoint(path)
    for value in (None, [1], b"x"):
        torch.save({**document, kind.name: value}, path)
        with pytest.raises(MaenasError, match="damaged"):
            read_checkpoint(path)


# Exports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["engine", "card"])
def test_damaged_engines_are_refused(file: str, count: int, tmp_path: Path) -> None:
    path, plan = tmp_path / "net.engine", bytes(range(256)) * 4
    export = exported(SPEC, NAMES, precision="fp16", nms=None)
    digest = hashlib.sha256(plan).hexdigest()
    card = EngineCard("maenas/engine@1", "tensorrt 10", None, "network", 1, digest, {"a": "b"}, export)
    write_engine(path, plan, card)
    text = card_path(path).read_text()

    def read(content: bytes) -> Any:
        (path if file == "engine" else card_path(path)).write_bytes(content)
        return read_engine(path)

    def check(found: tuple[bytes, EngineCard]) -> None:
        assert found[0] == plan

    def make(number: int, rng: np.random.Generator) -> bytes:
        return damage(plan, rng) if file == "engine" else mutate(text, rng).encode("utf-8", "surrogatepass")

    fuzz(4 * count, make, read, check, where=str(path))


_OPS = ("Conv", "Relu", "Concat", "Loop", "If", "Scan", "Resize", "Reshape", "Expand", "Tile", "Range", "Split", "No")
_NUMBERS = (0, -1, 2**31, 2**62, -(2**63))
_SIDES = (0, -1, 1, 32, 2**20, 2**31, 2**62)


def damaged_model(model: onnx.ModelProto, rng: np.random.Generator) -> bytes:
    """A file that still is ONNX: one to three nodes, constants, shapes or notes changed."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for _ in range(int(rng.integers(1, 4))):
        node = graph.node[int(rng.integers(len(graph.node)))]
        constant = graph.initializer[int(rng.integers(len(graph.initializer)))]
        kind = rng.integers(7)
        if kind == 0:
            node.op_type = _OPS[int(rng.integers(len(_OPS)))]
        elif kind == 1 and node.input:
            names = ("", "nothing", "image", *graph.node[int(rng.integers(len(graph.node)))].output)
            node.input[int(rng.integers(len(node.input)))] = names[int(rng.integers(len(names)))]
        elif kind == 2 and node.attribute:
            attribute = node.attribute[int(rng.integers(len(node.attribute)))]
            value = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
            attribute.i = value
            if attribute.ints:
                attribute.ints[0] = value
        elif kind == 3:
            graph.node.remove(node)
        elif kind == 4 and constant.dims:
            constant.dims[0] = _SIDES[int(rng.integers(len(_SIDES)))]
        elif kind == 5:
            side = graph.input[0].type.tensor_type.shape.dim[int(rng.integers(4))]
            side.dim_value = _SIDES[int(rng.integers(len(_SIDES)))]
        else:
            note = changed.metadata_props[int(rng.integers(len(changed.metadata_props)))]
            note.value = mutate(note.value, rng).encode("utf-8", "replace").decode()
    return changed.SerializeToString()


def fuzz_onnx(count: int, path: Path) -> None:
    """Damaged exports, predicted by the kernel model and loaded and run by ONNX Runtime."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = to_onnx(deploy(DetectorNet(SPEC).eval()), NAMES, ExportSettings())
    whole, predictor = model.SerializeToString(), load_predictor("t4")

    def make(number: int, rng: np.random.Generator) -> bytes:
        if number % 2:
            return damaged_model(model, rng)
        return damage(whole, rng, within=None if number % 4 else 30_000)

    def predict(content: bytes) -> object:
        path.write_bytes(content)
        return predict_graph(lower_onnx(path), predictor)

    def detect(content: bytes) -> object:
        path.write_bytes(content)
        return load_runtime(path, "cpu", threads=1).network(torch.zeros(1, 3, 64, 64))

    fuzz(count, make, predict, where="")  # a message about the whole network does not name the file
    fuzz(count, make, detect, where="ONNX")


def test_damaged_onnx_files_are_read_or_refused_and_no_library_crashes(count: int, tmp_path: Path) -> None:
    """In a process of its own: parsers in C++ end the process rather than raise."""
    code = f"from tests.detector.test_fuzz_files import *; fuzz_onnx({5 * count}, Path({str(tmp_path / 'a.onnx')!r}))"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
