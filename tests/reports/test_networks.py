"""Networks of a report, whatever file they come from: spec, weights, exported or foreign ONNX."""

import dataclasses
import json
from pathlib import Path

import pytest

from maenas.errors import MaenasError
from maenas.latency.predictor import load_predictor
from maenas.reports.blocks import Facts
from maenas.reports.compare import compare_document, compared, format_compare
from maenas.reports.networks import Devices, Graph, Network, described, from_spec, read_network
from maenas.reports.report import report_sections
from maenas.spec import DetectorSpec, SpecFile, read_spec
from tests.conftest import Maenas

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

CLASSES = 3
NAMES = ("a\x1b[31m", "b", "c")


@pytest.fixture(scope="module")
def trained(searched: Path) -> DetectorSpec:
    """The searched detector with other classes."""
    spec = read_spec(searched).detector
    return dataclasses.replace(spec, head=dataclasses.replace(spec.head, num_classes=CLASSES))


@pytest.fixture(scope="module")
def files(searched: Path, trained: DetectorSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of the searched detector, its export, and the export without its description."""
    from detector.export.onnx import ExportSettings, to_onnx
    from detector.model.deploy import deploy
    from detector.model.net import DetectorNet
    from detector.model.weights import write_weights

    folder = tmp_path_factory.mktemp("networks")
    net = DetectorNet(trained).eval()
    stored = read_spec(searched)
    notes = {"AP": "0.4321", "data": "here.json"}
    write_weights(folder / "mine.safetensors", net, trained, NAMES, notes, stored)
    model = to_onnx(deploy(net), NAMES, ExportSettings(), stored)
    (folder / "mine.onnx").write_bytes(model.SerializeToString())
    del model.metadata_props[:]
    (folder / "foreign.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.onnx"])
def test_weights_and_exports_keep_the_search_of_their_spec(
    name: str, files: Path, searched: Path, trained: DetectorSpec
) -> None:
    network = read_network(str(files / name))
    assert isinstance(network, Network)
    origin = from_spec(read_spec(searched), "spec").origin
    assert origin is not None
    assert network.origin == origin
    assert network.spec == trained
    assert network.changed


def test_weights_state_their_spec_file(files: Path, searched: Path) -> None:
    from detector.model.weights import read_weights

    stored = read_weights(files / "mine.safetensors").spec_file
    assert isinstance(stored, SpecFile)
    assert stored == read_spec(searched)


def test_a_comparison_shows_the_same_numbers_for_every_file_of_a_detector(files: Path) -> None:
    predictors = (load_predictor("t4"),)
    names = ("mine.safetensors", "mine.onnx", "foreign.onnx")
    rows = [compared(read_network(str(files / name)), predictors) for name in names]
    assert [row.ap for row in rows] == [0.4321, None, None]
    assert [row.score is None for row in rows] == [False, False, True]
    assert {row.cost.params for row in rows} == {rows[0].cost.params}
    for row in rows[1:]:
        assert row.predictions[0].seconds == pytest.approx(rows[0].predictions[0].seconds, rel=0.01)
    text = format_compare(rows, ("t4",), predictors)
    assert "0.432" in text
    assert "validation images of its training (here.json)" in text
    assert json.loads(json.dumps(compare_document(rows, ("t4",), predictors)))["networks"][2]["id"] is None


def test_a_report_of_weights_states_the_certificate_of_their_spec(files: Path, devices: Devices) -> None:
    network = described(read_network(str(files / "mine.safetensors")))
    section = report_sections([network], devices, low_s=1.7e-3, high_s=1.75e-3)[2]
    facts = dict(row for block in section.blocks if isinstance(block, Facts) for row in block.rows)
    assert facts["optimality"].startswith("proven")
    assert "80 classes that was searched" in facts["trained"]
    assert section.inner[0].title == "Search progress"


def test_a_foreign_file_is_shown_by_its_kernels_and_refused_where_a_detector_is_needed(
    files: Path, maenas: Maenas
) -> None:
    foreign = read_network(str(files / "foreign.onnx"))
    assert isinstance(foreign, Graph)
    with pytest.raises(MaenasError, match=r"foreign: a report needs the detector"):
        described(foreign)
    shown = maenas("show", files / "foreign.onnx")
    assert shown.code == 0
    assert "modelled on NVIDIA T4" in shown.out
    drawn = maenas("show", files / "foreign.onnx", "--plot", "a.png")
    assert drawn.code == 2
    refused = maenas("report", files / "foreign.onnx")
    assert (refused.code, refused.out) == (2, "")


def test_a_stated_ap_that_is_none_is_refused(files: Path, trained: DetectorSpec, tmp_path: Path) -> None:
    from detector.model.weights import read_weights, write_weights

    weights = read_weights(files / "mine.safetensors")
    write_weights(tmp_path / "w.safetensors", weights.state, trained, NAMES, {"AP": "best"})
    with pytest.raises(MaenasError, match="its AP is 'best'"):
        read_network(str(tmp_path / "w.safetensors"))
