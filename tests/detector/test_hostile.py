"""Files made to harm: bombs, endless files, paths that lead out, code. Each is refused with a MaenasError.

The reader runs in a process of its own, which may take 1 GiB more than its libraries do, and must not touch, or take
anything from, what lies outside the data.
"""

import gzip
import json
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from detector.data.dataset import open_dataset
from detector.images import read_image
from detector.model.unpickle import read_tensors
from detector.model.weights import read_weights
from detector.plots import confusion_plot, precision_plot
from detector.runtime.exported import read_file
from maenas.errors import MaenasError
from maenas.files import data_dir, shipped_file, write_atomic
from maenas.latency.find import load_measured
from maenas.latency.importers import import_kernels
from maenas.latency.onnx.lower import lower_onnx
from maenas.latency.predictor import load_predictor
from maenas.nas.space import load_space
from maenas.spec import load_spec
from tests.conftest import Maenas
from tests.detector.data.conftest import coco_document, write_coco, write_voc, write_yolo

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30

Make = Callable[[Path], object]


def readers(path: Path) -> object:
    """Reads `path` with the reader of its suffix."""
    known: dict[str, Callable[[Path], object]] = {
        ".pth": read_tensors,
        ".safetensors": read_weights,
        ".onnx": lower_onnx,
        ".png": read_image,
        ".jpg": read_image,
        ".gz": lambda path: import_kernels(path, precision="fp16"),
        ".json": lambda path: load_spec(str(path)),
        ".yaml": lambda path: load_space(str(path)),
        "": lambda path: open_dataset(path, "train"),
    }
    return known[path.suffix](path)


def read_limited(path: Path) -> None:
    """Read within 1 GiB of memory and print what is raised."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GIB, used + GIB))
    try:
        readers(path)
    except MaenasError as error:
        print(error)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def squeezed_zeros(size: int) -> bytes:
    packer, zeros = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()


def deflated_checkpoint(path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1 << 20)}}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def endless_tensor(path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1).expand(1 << 40)}}, path)


def huge_tensor(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))


def model(*nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = (), **options: object) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "graph", [image], [out], list(constants))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **options)


def call(name: str, source: str, target: str) -> onnx.NodeProto:
    return helper.make_node(name, [source], [target], domain="ours")


def doubling_functions(path: Path) -> None:
    """Forty functions, each of which calls the next one twice."""
    bodies = [[call(f"F{n + 1}", "x", "a"), call(f"F{n + 1}", "a", "y")] for n in range(40)]
    bodies.append([helper.make_node("Relu", ["x"], ["y"])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    functions = [helper.make_function("ours", f"F{n}", ["x"], ["y"], body, opsets) for n, body in enumerate(bodies)]
    path.write_bytes(model(call("F0", "image", "out"), functions=functions).SerializeToString())


def circular_function(path: Path) -> None:
    opsets = [helper.make_opsetid("ours", 1)]
    function = helper.make_function("ours", "F", ["x"], ["y"], [call("F", "x", "y")], opsets)
    path.write_bytes(model(call("F", "image", "out"), functions=[function]).SerializeToString())


def outside_constant(location: str) -> Make:
    def make(path: Path) -> None:
        (path.parent.parent / "secret.bin").write_bytes(struct.pack("<4q", 1, 3, 8, 8))
        (path.parent / "link.bin").symlink_to(path.parent.parent / "secret.bin")
        constant = onnx.TensorProto(name="shape", data_type=TensorProto.INT64, dims=[4])
        constant.data_location = TensorProto.EXTERNAL
        place = location.replace("SECRET", str(path.parent.parent / "secret.bin"))
        for key, value in (("location", place), ("offset", "0"), ("length", "32")):
            constant.external_data.add(key=key, value=value)
        node = helper.make_node("Reshape", ["image", "shape"], ["out"])
        path.write_bytes(model(node, constants=(constant,)).SerializeToString())

    return make


def data_with(write: Callable[[Path], object], file: str, text: str) -> Make:
    def make(path: Path) -> None:
        write(path)
        (path / file).write_text(text)

    return make


def coco_with(name: str) -> Make:
    document = coco_document()
    document["images"][0]["file_name"] = name
    return data_with(write_coco, "annotations/instances_train.json", json.dumps(document))


def laughs(of: str) -> str:
    rows = [f"a0: &a0 [{of}]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(rows)


LAUGHS_XML = "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'bbbbbbbb'><!ENTITY c '&b;&b;&b;&b;'>]><a>&c;</a>"
OUTSIDE_XML = "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><annotation>&b;</annotation>"
T_JSON = (data_dir("searched_models") / "damo-yolo-t.json").read_text(encoding="utf-8")

FILES: dict[str, tuple[str, Make, str]] = {
    # Larger than they look
    "compressed checkpoint": ("a.pth", deflated_checkpoint, "unpack to more than the file has"),
    "checkpoint of a tensor with stride 0": ("a.pth", endless_tensor, "larger than its data"),
    "weights of a tensor that is not there": ("a.safetensors", huge_tensor, "not a whole safetensors file"),
    "image of many pixels": ("a.png", lambda p: p.write_bytes(png(60_000, 60_000)), "too many pixels"),
    "image with a text bomb": (
        "a.png",
        lambda p: p.write_bytes(png(8, 8, chunk(b"zTXt", b"k\0\0" + squeezed_zeros(1 << 29)))),
        "damaged or no image",
    ),
    "kernel table of blank lines": (
        "kernels.csv.gz",
        lambda p: p.write_bytes(gzip.compress(b"\n" * (300 << 20), 6)),
        "larger than the limit",
    ),
    "functions that double": ("a.onnx", doubling_functions, "more than 200000 nodes"),
    "function that calls itself": ("a.onnx", circular_function, "in a circle"),
    "YAML aliases": (
        "data",
        data_with(write_yolo, "data.yaml", f"train: images/train\n{laughs('x')}\nnames: *a11\n"),
        "aliases are not allowed",
    ),
    "YAML aliases in a space": ("a.yaml", lambda p: p.write_text(laughs("x")), "aliases are not allowed"),
    "YAML of megabytes": ("a.yaml", lambda p: p.write_text("a: 1\n" * (1 << 20)), "larger than the limit"),
    "XML entities": ("data", data_with(write_voc, "Annotations/x1.xml", LAUGHS_XML), "entities are not read"),
    "deep JSON": ("a.json", lambda p: p.write_text('{"a":' * 1_000_000), "nested too deeply"),
    "deep annotations": (
        "data",
        data_with(write_coco, "annotations/instances_train.json", "[" * 1_000_000),
        "nested too deeply",
    ),
    # Without an end
    "pipe for a spec": ("a.json", os.mkfifo, "not a regular file"),
    "pipe for weights": ("a.safetensors", os.mkfifo, "not a regular file"),
    "pipe for a checkpoint": ("a.pth", os.mkfifo, "not a regular file"),
    "pipe for a model": ("a.onnx", os.mkfifo, "not a regular file"),
    "pipe for an image": ("a.png", os.mkfifo, "not a regular file"),
    "device for a checkpoint": ("a.pth", lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
    "empty model": ("a.onnx", Path.touch, "no network in it"),
    # Paths that lead out
    "COCO image above": ("data", coco_with("../../secret.jpg"), "leads out of the data folder"),
    "COCO image at the root": ("data", coco_with("/etc/passwd"), "leads out of the data folder"),
    "COCO image with backslashes": ("data", coco_with("..\\..\\secret.jpg"), "leads out of the data folder"),
    "YOLO split above": (
        "data",
        data_with(write_yolo, "data.yaml", "train: ../../..\nval: images/val\nnames: [a]"),
        "leads out of the data folder",
    ),
    "VOC image above": (
        "data",
        data_with(write_voc, "ImageSets/Main/train.txt", "../../../../etc/passwd"),
        "leads out of the data folder",
    ),
    "XML entity from a file": ("data", data_with(write_voc, "Annotations/x1.xml", OUTSIDE_XML), "entities are not"),
    "spec whose run would lie above": (
        "a.json",
        lambda p: p.write_text(T_JSON.replace('"name": "damo-yolo-t"', '"name": "../../run"')),
        "must be a plain file name",
    ),
    **{
        f"ONNX constant in {location}": ("a.onnx", outside_constant(location), "which cannot be read")
        for location in ("../secret.bin", "SECRET", "link.bin", "/proc/self/mem", "*/_ORT_MEM_ADDR_/*")
    },
    # Code
    "PostScript as an image": ("a.jpg", lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "damaged or no image"),
    "YAML tag": ("a.yaml", lambda p: p.write_text("a: !!python/object/apply:os.mkdir [ran]"), "is not allowed"),
    "YAML tag in a data set": (
        "data",
        data_with(write_yolo, "data.yaml", "names: !!python/object/apply:os.mkdir [ran]\ntrain: images/train\n"),
        "is not allowed",
    ),
    # What a terminal or a file system would take amiss
    "class name that clears the screen": (
        "data",
        data_with(write_yolo, "data.yaml", 'train: images/train\nnames: ["\\e[2J", b]\n'),
        r"has a control character",
    ),
    "name longer than a path": ("data", coco_with("a" * 5000 + ".jpg"), ""),
}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    file, make, message = FILES[name]
    path = tmp_path / "folder" / file
    path.parent.mkdir()
    make(path)
    before = sorted(tmp_path.rglob("*"))
    if message:
        with pytest.raises(MaenasError) as caught:
            readers(path)
        assert message in str(caught.value)
        assert len(str(caught.value)) < 2500
    else:
        readers(path)
    assert sorted(tmp_path.rglob("*")) == before


LARGE = [name for name, (_, _, message) in FILES.items() if message][:14]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited by what Linux says is used")
@pytest.mark.parametrize("name", LARGE)
def test_a_bomb_is_refused_within_a_gibibyte(name: str, tmp_path: Path) -> None:
    file, make, message = FILES[name]
    path = tmp_path / "folder" / file
    path.parent.mkdir()
    make(path)
    code = f"from tests.detector.test_hostile import *; read_limited(Path({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert message in done.stdout


def test_a_table_cannot_set_up_a_clock_of_words(tmp_path: Path) -> None:
    """The number of threads is a note for people, but also what a session is opened with."""
    shipped = shipped_file("latency_tables", "cpu-amd-epyc-onnxruntime-t1-fp32-b1.json")
    text = shipped.read_text(encoding="utf-8").replace('"threads": "1"', '"threads": "one"', 1)
    write_atomic(tmp_path / "table.json", text)
    for read in (load_measured, load_predictor):
        with pytest.raises(MaenasError, match="threads is 'one'; it must be a whole number"):
            read(str(tmp_path / "table.json"))


def test_an_archive_whose_entries_share_their_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": {"a": torch.zeros(100_000), "b": torch.zeros(100_000)}}, path)
    with zipfile.ZipFile(path, "a") as archive:
        (first,) = [entry for entry in archive.infolist() if entry.filename.endswith("data/0")]
        for number in range(50):
            twin = zipfile.ZipInfo(f"archive/data/{number + 7}")
            for name in ("header_offset", "file_size", "compress_size", "CRC", "compress_type"):
                setattr(twin, name, getattr(first, name))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True  # type: ignore[attr-defined]  # so that the directory is written anew
    with pytest.raises(MaenasError, match="unpack to more than the file has"):
        read_tensors(path)


def test_an_empty_or_endless_model_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    with (tmp_path / "sparse.onnx").open("wb") as file:
        file.truncate(3 * GIB)
    for name in ("empty.onnx", "sparse.onnx"):
        with pytest.raises(MaenasError, match="a model has 1 byte to 2 GiB"):
            read_file(tmp_path / name, name)


def test_sizes_without_bound_are_refused(tmp_path: Path) -> None:
    document = coco_document()
    for side, message in ((2**21, "each must be at least 1, at most 1048576"), (10**30, "an integer of 64 bits")):
        document["images"][0].update(width=side, height=side)
        write_coco(tmp_path, document)
        with pytest.raises(MaenasError, match=message):
            open_dataset(tmp_path, "train")
    document = coco_document()
    document["annotations"][0].update(bbox=[1e300, 0, 1e300, 1e999], area=10**400)
    dataset = open_dataset(write_coco(tmp_path, document), "train")
    assert all(np.isfinite(sample.areas).all() for sample in dataset.samples)


def test_class_names_that_are_formulas_or_too_long_can_be_plotted() -> None:
    names = ["$\\frac{$", "日本" * 30, "a$b"]
    curves = np.tile(np.linspace(1, 0, 11), (3, 1))
    for plot in (confusion_plot(np.ones((4, 4), np.int64), names), precision_plot(curves, curves[0], names)):
        assert plot.startswith(b"\x89PNG")


def test_file_names_are_printed_without_what_a_terminal_obeys(maenas: Maenas, tmp_path: Path) -> None:
    document = coco_document()
    document["images"][0]["file_name"] = "\x1b[2J.jpg"
    write_coco(tmp_path / "data", document)
    (tmp_path / "data" / "images" / "\x1b[2J.jpg").unlink()
    done = maenas("data", "check", tmp_path / "data")
    assert "\\x1b[2J.jpg" in done.out
    assert "\x1b" not in done.out + done.err
