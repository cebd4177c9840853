"""What devices share, and how far off it is on a device that was left out."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from maenas.errors import MaenasError
from maenas.latency.calibration import Measured
from maenas.latency.device import get_device, load_devices, peak_ops_per_s
from maenas.latency.kernel_model import kernel_seconds
from maenas.latency.predictor import load_predictor
from maenas.latency.published import measured_networks, read_published
from maenas.latency.table import SETUPS, calibrate_table, shipped_table
from maenas.latency.transfer import SharedConstants, Source, read_transfer, shared_constants, transfer_from

ROOT = Path(__file__).parents[2]
DATA = ROOT / "benchmarks" / "data" / "published_devices.json.gz"
RESULT = ROOT / "benchmarks" / "results" / "device_calibration.json"
TRANSFER = read_transfer()


def test_the_shared_constants_are_the_medians_of_the_shipped_tables():
    tables = [shipped_table(device, setups[0]) for device, setups in SETUPS.items()]
    assert set(TRANSFER.tables) == {table.id for table in tables}
    assert shared_constants(tables, load_devices()) == TRANSFER.constants


def test_the_stored_benchmark_says_what_the_shipped_files_say():
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert [row["device"] for row in result["held_out"]] == [row.device for row in TRANSFER.held_out]
    assert result["held_out_range"] == pytest.approx(math.exp(TRANSFER.log_half_width), abs=1e-3)
    for row in result["setups"]:
        device, _, setup = row["setup"].partition("@")
        name = setup.removesuffix(f"-{row['precision']}")
        assert row["shipped"] == (row["mean_error_left_out"] <= row["limit"]) == (name in SETUPS.get(device, ()))
        if row["shipped"]:
            table = shipped_table(device, name, row["precision"])
            assert table.calibration.mean_error_left_out == row["mean_error_left_out"]
            assert dataclasses.asdict(table.constants) == row["constants"]


@pytest.mark.parametrize("setup", ["a100@ultralytics", "orin-nano-super@ultralytics-int8"])
def test_a_shipped_table_follows_from_the_published_latencies(setup: str):
    table = calibrate_table(read_published(DATA), setup)
    shipped = shipped_table(table.device, table.setup, table.precision)
    assert table.calibration.pulled
    for old, new in zip(shipped.calibration.residuals, table.calibration.residuals, strict=True):
        assert (old.network, old.measured_ms) == (new.network, new.measured_ms)
        assert new.left_out_ms == pytest.approx(old.left_out_ms, rel=0.01)  # other CPUs round otherwise


def test_a_device_is_left_out_together_with_its_kind():
    networks = measured_networks(read_published(), "tensorrt10")
    tables = [shipped_table(device, setups[0]) for device, setups in SETUPS.items()]
    kinds = ["new" if table.device in ("t4", "titan-rtx") else "old" for table in tables]
    sources = [Source(t, networks if t.device == "t4" else networks[:1], k) for t, k in zip(tables, kinds, strict=True)]
    others = shared_constants([t for t, k in zip(tables, kinds, strict=True) if k == "old"], load_devices())
    row = transfer_from(sources).held_out[0]
    perfect = [Measured(n.name, n.kernels, predicted(n, others), n.family) for n in networks]
    again = transfer_from([dataclasses.replace(sources[0], networks=tuple(perfect)), *sources[1:]]).held_out[0]
    assert (row.device, again.device) == ("t4", "t4")
    assert again.mean_error == 0 < row.mean_error


def predicted(network: Measured, shared: SharedConstants) -> float:
    t4 = get_device("t4")
    return sum(
        kernel_seconds(k, device=t4, precision="fp16", batch=1, constants=shared.on(t4)) for k in network.kernels
    )


def test_devices_of_one_kind_cannot_say_how_far_off_another_is():
    with pytest.raises(MaenasError, match="at least two kinds"):
        dataclasses.replace(TRANSFER, held_out=TRANSFER.held_out[:1])


def test_a_device_without_latencies_says_how_far_off_others_were():
    predictor = load_predictor("rtx4090")
    assert not predictor.calibrated
    assert f"off by {TRANSFER.mean_error:.0%} on average" in predictor.description
    assert predictor.conditions["table"] == "shared"


def test_fp32_means_tf32_where_the_hardware_has_it():
    assert peak_ops_per_s(get_device("a100"), precision="fp32") == 156e12
    assert peak_ops_per_s(get_device("t4"), precision="fp32") == pytest.approx(8.14e12)
