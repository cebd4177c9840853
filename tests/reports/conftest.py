"""One searched network and the report about it, shared by the tests."""

from pathlib import Path

import pytest

from maenas.latency.predictor import load_predictor
from maenas.nas.provenance import provenance
from maenas.nas.request import Request, prepare
from maenas.nas.run import run
from maenas.reports.blocks import Section
from maenas.reports.networks import Devices, Network, from_spec
from maenas.reports.report import report_sections
from maenas.spec import load_spec, read_spec, write_spec

NAME = "small <b>&\"'$x$"  # text that HTML and formulas would take for markup


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec file with the provenance of its search."""
    result = run(prepare(Request(space="k1kx-tiny", latency_s=(1.8e-3,), population=256, generations=40, seed=3)))
    path = tmp_path_factory.mktemp("report") / "small.json"
    write_spec(path, result.candidates[0].spec, NAME, provenance(result, 0))
    return path


@pytest.fixture(scope="session")
def networks(searched: Path) -> tuple[Network, ...]:
    """The searched network and the published T."""
    return from_spec(read_spec(searched), "small.json"), from_spec(load_spec("damo-yolo-t"), "damo-yolo-t")


@pytest.fixture(scope="session")
def devices() -> Devices:
    names = ("t4", "h100")
    return Devices(names, tuple(load_predictor(name) for name in names))


@pytest.fixture(scope="session")
def sections(networks: tuple[Network, ...], devices: Devices) -> list[Section]:
    return report_sections(networks, devices, low_s=1.7e-3, high_s=1.9e-3)
