"""A prediction says what it is worth."""

import json
import math

import pytest

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.latency.device import load_devices
from maenas.latency.predictor import UNKNOWN_FACTOR, load_predictor, predict
from maenas.latency.table import shipped_table
from maenas.lowering import lower
from maenas.spec import read_spec

KERNELS = lower(read_spec(data_dir("searched_models") / "damo-yolo-t.json").detector)


def test_the_default_setup_of_t4_is_tensorrt10_and_says_how_good_it_is():
    predictor = load_predictor("t4")
    assert predictor.calibrated
    assert predictor.conditions["setup"] == "tensorrt10"
    assert predictor.description == (
        "modelled: NVIDIA T4, TensorRT 10, fp16, batch 1; calibrated on 10 published networks, "
        "mean abs error 2.8% leave-one-out"
    )


@pytest.mark.parametrize(("device", "measured_ms"), [("t4", 2.32), ("t4@damo-yolo-report", 2.78)])
def test_the_interval_of_damo_yolo_t_holds_its_measurement(device: str, measured_ms: float):
    prediction = predict(KERNELS, load_predictor(device))
    assert prediction.low * 1e3 < measured_ms < prediction.high * 1e3
    assert prediction.seconds * 1e3 == pytest.approx(measured_ms, rel=0.05)


def test_the_interval_holds_at_least_nine_tenths_of_the_left_out_networks():
    predictors = {setup: load_predictor(f"t4@{setup}") for setup in ("tensorrt10", "damo-yolo-report")}
    inside = []
    for setup, predictor in predictors.items():
        for row in shipped_table("t4", setup).calibration.scored:
            low, high = predictor.interval(row.left_out_ms)
            inside.append(low <= row.measured_ms <= high)
    assert sum(inside) / len(inside) >= 0.9


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
    assert predictor.interval(1.0) == pytest.approx((1 / UNKNOWN_FACTOR, UNKNOWN_FACTOR))


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
