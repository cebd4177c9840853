"""The accuracy that is claimed, on the published T4 latencies."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.latency.calibration import PULL, START, Measured, calibrate, minimise, network_work
from maenas.latency.device import get_device
from maenas.latency.importers import import_published
from maenas.latency.kernel_model import kernel_seconds, work_seconds
from maenas.latency.published import measured_networks, network_kernels, read_published
from maenas.latency.table import calibrate_table, shipped_table
from maenas.strict import dump_json

T4 = get_device("t4")
TIED_FIT = ("compute_efficiency", "launch_s")
ATTENTION = Path(__file__).resolve().parents[2] / "benchmarks" / "data" / "attention_detectors.json.gz"
COLLECTED = Path(__file__).parents[3] / "shared" / "latency" / "published_t4.json"


def test_left_out_networks_of_tensorrt10_are_predicted_within_four_percent():
    table = calibrate_table(read_published(), "tensorrt10")
    assert len(table.calibration.scored) == 10
    assert table.calibration.mean_error_left_out <= 0.04
    assert max(abs(r.left_out_error) for r in table.calibration.scored) <= 0.14  # YOLOv8m


def test_left_out_networks_of_the_report_are_predicted_within_six_percent():
    """Two constants are fitted, two are those of the other setup; the neck variants of S leave with S."""
    table = calibrate_table(
        read_published(), "damo-yolo-report", fitted=TIED_FIT, base=shipped_table("t4", "tensorrt10")
    )
    assert len(table.calibration.scored) == 5
    assert {r.family for r in table.calibration.residuals if not r.scored} == {"damo-yolo-s"}
    assert table.calibration.mean_error_left_out <= 0.06


@pytest.mark.parametrize("setup", ["tensorrt10", "damo-yolo-report"])
def test_shipped_tables_follow_from_the_published_latencies(setup: str):
    shipped = shipped_table("t4", setup)
    base = None if setup == "tensorrt10" else shipped_table("t4", "tensorrt10")
    again = calibrate_table(read_published(), setup, fitted=shipped.calibration.fitted, base=base)
    for old, new in zip(shipped.calibration.residuals, again.calibration.residuals, strict=True):
        assert (old.network, old.measured_ms) == (new.network, new.measured_ms)
        assert new.fitted_ms == pytest.approx(old.fitted_ms, rel=0.01)  # other CPUs round otherwise
        assert new.left_out_ms == pytest.approx(old.left_out_ms, rel=0.01)
    assert shipped.calibration.tied_to == (None if base is None else base.id)


def test_the_table_of_attention_detectors_follows_from_their_papers():
    shipped, again = shipped_table("t4", "detr-papers"), calibrate_table(read_published(ATTENTION), "detr-papers")
    for old, new in zip(shipped.calibration.residuals, again.calibration.residuals, strict=True):
        assert (old.network, old.measured_ms) == (new.network, new.measured_ms)
        assert new.fitted_ms == pytest.approx(old.fitted_ms, rel=0.01)  # other CPUs round otherwise
    assert shipped.calibration.mean_error_left_out <= 0.02


@pytest.mark.parametrize(
    ("series", "fitted", "error"),
    [
        ("D-FINE", ("compute_efficiency", "memory_efficiency", "launch_s"), 0.04),
        ("RT-DETR", ("compute_efficiency", "memory_efficiency"), 0.08),
    ],
)
def test_one_series_of_attention_detectors_predicts_the_other(series: str, fitted: tuple[str, ...], error: float):
    t4 = shipped_table("t4", "tensorrt10")
    networks = measured_networks(read_published(ATTENTION), "detr-papers")
    known = [network for network in networks if network.name.startswith(series)]
    options: dict[str, Any] = {"device": T4, "precision": "fp16", "batch": 1}
    constants = calibrate(known, fitted=fitted, start=t4.constants, **options).constants
    others = [network for network in networks if network not in known]
    assert len(known) + len(others) == 9
    for network in others:
        seconds = sum(kernel_seconds(kernel, constants=constants, **options) for kernel in network.kernels)
        assert seconds == pytest.approx(network.seconds, rel=error), network.name


def test_the_shipped_latencies_are_the_collected_ones():
    if not COLLECTED.exists():
        pytest.skip("the collected latencies are not beside this checkout")
    shipped = (data_dir("latency_tables") / "published" / "t4.json").read_text(encoding="utf-8")
    assert dump_json(import_published(COLLECTED)) == shipped


def test_constants_that_made_the_data_are_found_again():
    true = dataclasses.replace(START, compute_efficiency=0.42, launch_s=7e-6)
    networks = []
    for network in measured_networks(read_published(), "tensorrt10"):
        work = network_work(network.kernels, device=T4, precision="fp16", batch=1)
        networks.append(dataclasses.replace(network, seconds=float(np.sum(work_seconds(work, true)))))
    found = calibrate(networks, device=T4, precision="fp16", batch=1)
    assert found.constants.compute_efficiency == pytest.approx(0.42, rel=0.01)
    assert found.constants.launch_s == pytest.approx(7e-6, rel=0.01)
    assert found.left_out_mean_error < 0.005


def test_a_pull_lets_two_families_find_the_constants_that_made_the_data():
    true = dataclasses.replace(PULL.centre, compute_efficiency=0.8, launch_s=2e-5, issue_s=0.0, concat_passes=4.0)
    networks = []
    for number, network in enumerate(measured_networks(read_published(), "tensorrt10")):
        work = network_work(network.kernels, device=T4, precision="fp16", batch=1)
        seconds = float(np.sum(work_seconds(work, true)))
        networks.append(dataclasses.replace(network, seconds=seconds, family=str(number % 2)))
    found = calibrate(networks, device=T4, precision="fp16", batch=1, pull=PULL)
    assert found.constants.compute_efficiency == pytest.approx(0.8, rel=0.05)
    assert found.constants.launch_s == pytest.approx(2e-5, rel=0.05)
    assert found.left_out_mean_error < 0.03


def test_one_family_is_refused_even_with_a_pull():
    kernels = network_kernels(read_published().networks[0])
    networks = [Measured(str(i), kernels, 1e-3, "same") for i in range(5)]
    with pytest.raises(MaenasError, match="measure at least 2"):
        calibrate(networks, device=T4, precision="fp16", batch=1, pull=PULL)


def test_too_few_networks_are_refused():
    kernels = network_kernels(read_published().networks[0])
    networks = [Measured(str(i), kernels, 1e-3, str(i)) for i in range(5)]
    with pytest.raises(MaenasError, match="measure at least 6"):
        calibrate(networks, device=T4, precision="fp16", batch=1)
    with pytest.raises(MaenasError, match="cannot fit speed"):
        calibrate(networks, device=T4, precision="fp16", batch=1, fitted=("speed",))


def test_the_simplex_finds_the_bottom_of_a_curved_valley():
    def valley(x: np.ndarray) -> float:
        return float((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)

    np.testing.assert_allclose(minimise(valley, np.array([-1.0, 1.0]), 0.3), [1, 1], atol=1e-3)
