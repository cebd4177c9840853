"""`maenas.report` and `maenas.compare`: networks as a page, and as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maenas.api.several import texts
from maenas.choices import Precision
from maenas.errors import MaenasError
from maenas.files import write_atomic
from maenas.latency.predictor import DEFAULT_DEVICE, load_predictor
from maenas.outputs import check_file
from maenas.racing.state import RACE_FILE, read_race
from maenas.reports.compare import Row, compared
from maenas.reports.html import render_page
from maenas.reports.networks import Devices, Graph, Network, described, distinct_names, read_network
from maenas.reports.race import race_sections
from maenas.reports.report import report_sections
from maenas.units import parse_latency_s


@dataclass(frozen=True)
class Comparison:
    """Networks in numbers on the same devices."""

    rows: tuple[Row, ...]
    devices: Devices


def report(
    networks: str | Path | Sequence[str | Path],
    *,
    device: str | Path | Sequence[str | Path] = (),
    precision: Precision | None = None,
    batch: int | None = None,
    space: str | None = None,
    low: str | None = None,
    high: str | None = None,
    detections: Path | None = None,
    out: str | Path = "report.html",
    on_step: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write one HTML page about `networks`: spec files, published names, weights, folders of runs, ONNX files that
    maenas wrote; or about one race, by its folder.

    Devices, precision and batch default to those of the first network's search, then to the T4. `low` and `high` are
    the ends of the front, latencies with units; `detections` is a folder that `maenas detect` wrote. Returns the
    page's path. Raises `MaenasError`.
    """
    names = texts(networks)
    if any((Path(name) / RACE_FILE).is_file() for name in names):
        return _race_report(names, (device, precision, batch, space, low, high, detections), Path(out))
    chosen = distinct_names(described(read_network(name)) for name in names)
    devices = devices_for(chosen, texts(device), precision, batch)
    path = Path(out)
    check_file(path)
    sections = report_sections(
        chosen,
        devices,
        space=space,
        low_s=None if low is None else parse_latency_s(low),
        high_s=None if high is None else parse_latency_s(high),
        detections=detections,
        on_step=on_step,
    )
    write_atomic(path, render_page(", ".join(network.name for network in chosen), sections))
    return path


def _race_report(folders: Sequence[str], others: Sequence[object], path: Path) -> Path:
    if len(folders) != 1 or any(others):
        raise MaenasError("the page of a race is about one folder, and takes no other options than --out")
    folder = Path(folders[0])
    check_file(path)
    settings = read_race(folder).settings
    sections = race_sections(folder, load_predictor(settings.device, precision=settings.precision))
    write_atomic(path, render_page(f"race {folder.resolve().name}", sections))
    return path


def compare(
    networks: str | Path | Sequence[str | Path],
    *,
    device: str | Path | Sequence[str | Path] = (),
    precision: Precision | None = None,
    batch: int | None = None,
) -> Comparison:
    """Latency on each device, parameters, FLOPs, layers, score and AP of `networks`, any ONNX file among them."""
    chosen = distinct_names(read_network(name) for name in texts(networks))
    devices = devices_for(chosen, texts(device), precision, batch)
    return Comparison(tuple(compared(network, devices.predictors) for network in chosen), devices)


def devices_for(
    networks: Sequence[Network | Graph], names: Sequence[str], precision: Precision | None, batch: int | None
) -> Devices:
    """The devices asked for, else those that the first searched network was searched for, else the default one."""
    known = (network.origin for network in networks if isinstance(network, Network))
    origin = next((origin for origin in known if origin is not None), None)
    if not names and origin is not None:
        names = [row.device for row in origin.latency]
        first = origin.latency[0]
        precision, batch = precision or first.precision, batch or first.batch
    unique = tuple(dict.fromkeys(names or [DEFAULT_DEVICE]))
    return Devices(unique, tuple(load_predictor(name, precision=precision, batch=batch or 1) for name in unique))
