"""A prediction says what it is worth."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.latency.device import load_devices
from maenas.latency.measured import make_table, read_measured, write_measured
from maenas.latency.predictor import load_predictor, predict
from maenas.latency.table import SETUPS, shipped_precisions, shipped_table
from maenas.latency.transfer import read_transfer
from maenas.lowering import lower
from maenas.spec import read_spec

KERNELS = lower(read_spec(data_dir("searched_models") / "damo-yolo-t.json").detector)


def test_the_default_setup_of_t4_is_tensorrt10_and_says_how_good_it_is():
    predictor = load_predictor("t4")
    assert predictor.calibrated
    assert predictor.conditions["setup"] == "tensorrt10"
    assert predictor.description == (
        "modelled: NVIDIA T4, TensorRT 10, fp16, batch 1; calibrated on 10 networks, mean abs error 2.8% leave-one-out"
    )


@pytest.mark.parametrize(("device", "measured_ms"), [("t4", 2.32), ("t4@damo-yolo-report", 2.78)])
def test_the_interval_of_damo_yolo_t_holds_its_measurement(device: str, measured_ms: float):
    prediction = predict(KERNELS, load_predictor(device))
    assert prediction.low * 1e3 < measured_ms < prediction.high * 1e3
    assert prediction.seconds * 1e3 == pytest.approx(measured_ms, rel=0.05)


def test_the_interval_holds_at_least_nine_tenths_of_the_left_out_networks():
    for device, setups in SETUPS.items():
        inside = []
        for setup in setups:
            for precision in shipped_precisions(device, setup):
                predictor = load_predictor(f"{device}@{setup}", precision=precision)
                for row in shipped_table(device, setup, precision).calibration.scored:
                    low, high = predictor.interval(row.left_out_ms)
                    inside.append(low <= row.measured_ms <= high)
        assert sum(inside) / len(inside) >= 0.9, device


@pytest.mark.parametrize("device", [device for device in SETUPS if device != "t4"])
def test_a_calibrated_device_names_its_setup_its_error_and_what_is_in_the_number(device: str):
    predictor = load_predictor(device)
    table = shipped_table(device, SETUPS[device][0])
    error = table.calibration.mean_error_left_out
    assert predictor.calibrated
    assert predictor.conditions["setup"] == SETUPS[device][0]
    assert predictor.conditions["nms_included"] is table.nms_included
    assert f"mean abs error {error:.1%} leave-one-series-out" in predictor.description
    assert ("with NMS" in predictor.description) is table.nms_included
    assert error <= (0.08 if "bound by the host" in predictor.description else 0.06)


def test_a_precision_with_a_table_of_its_own_uses_it():
    int8 = load_predictor("orin-nano-super", precision="int8")
    assert int8.calibrated
    assert int8.table_id != load_predictor("orin-nano-super").table_id
    assert not load_predictor("orin-nx", precision="int8").calibrated


def test_parts_and_kernels_sum_to_the_total():
    predictor = load_predictor("t4")
    prediction = predict(KERNELS, predictor)
    assert set(prediction.parts) == {"backbone", "neck", "head"}
    assert math.fsum(prediction.parts.values()) == pytest.approx(prediction.seconds)
    assert math.fsum(prediction.kernel_seconds) + predictor.network_seconds == pytest.approx(prediction.seconds)
    assert len(prediction.kernel_seconds) == len(KERNELS)


@pytest.mark.parametrize(("device", "precision", "batch"), [("v100", "fp16", 1), ("t4", "int8", 1), ("t4", "fp16", 8)])
def test_a_transferred_prediction_says_so_and_has_a_wide_interval(device: str, precision: str, batch: int):
    predictor = load_predictor(device, precision=precision, batch=batch)
    assert not predictor.calibrated
    assert "NOT calibrated" in predictor.description
    assert predictor.conditions["mean_abs_error_left_out"] is None
    factor = math.exp(read_transfer().log_half_width)
    assert 1.3 < factor < 2
    assert predictor.interval(1.0) == pytest.approx((1 / factor, factor))


def test_every_catalogue_device_predicts_and_its_conditions_are_json():
    for name, device in load_devices().items():
        for precision, rate in (("fp32", device.fp32_tflops), ("fp16", device.fp16_tflops), ("int8", device.int8_tops)):
            if rate is None:
                with pytest.raises(MaenasError, match=f"has no {precision} arithmetic; it has fp32"):
                    load_predictor(name, precision=precision)
                continue
            predictor = load_predictor(name, precision=precision)
            assert 1e-5 < predict(KERNELS, predictor).seconds < 1
            assert json.loads(json.dumps(predictor.conditions)) == predictor.conditions


@pytest.mark.parametrize(
    ("device", "fields", "message"),
    [
        ("t5", {}, "unknown device"),
        ("t4@x", {}, "no setup 'x'"),
        ("v100@tensorrt10", {}, "no setup 'tensorrt10' of v100"),
        ("t4", {"precision": "fp8"}, "unknown precision"),
        ("t4", {"batch": 0}, "batch is 0"),
        ("missing.json", {}, "no such file"),
    ],
)
def test_what_cannot_be_predicted_is_refused(device: str, fields: dict, message: str):
    with pytest.raises(MaenasError, match=message):
        load_predictor(device, **fields)


def test_a_table_is_fitted_once_and_again_when_its_file_has_changed(tmp_path: Path):
    path = tmp_path / "mine.json"
    path.write_bytes((data_dir("latency_tables") / "cpu-amd-epyc-onnxruntime-t1-fp32-b1.json").read_bytes())
    first = load_predictor(str(path))
    assert load_predictor(str(path)) is first
    table = read_measured(path)
    fields = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    kept = {name: value for name, value in fields.items() if name not in ("schema", "kind", "id")}
    some = next(row for row in table.rows if row.op == "conv")
    write_measured(path, make_table(**kept | {"rows": tuple(row for row in table.rows if row is not some)}))
    second = load_predictor(str(path))
    assert second.conditions["rows"] == first.conditions["rows"] - 1
    assert second.conditions["table"] != first.conditions["table"]
