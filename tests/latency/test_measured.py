"""Measured tables: strict reading, and a table as a predictor of kernels and networks."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from maenas.errors import MaenasError
from maenas.files import data_dir, shipped_file
from maenas.kernels import Kernel
from maenas.latency.kernel_model import kernel_seconds
from maenas.latency.measured import (
    KernelKey,
    MeasuredTable,
    Row,
    content_id,
    key_of,
    make_table,
    measured_from_json,
    measured_to_json,
    read_measured,
    write_measured,
)
from maenas.latency.measured_predictor import MeasuredPredictor, measured_predictor
from maenas.latency.predictor import load_predictor, predict
from maenas.latency.transfer import read_transfer
from maenas.lowering import lower
from maenas.reports.prediction_text import format_prediction
from maenas.spec import read_spec

SHIPPED = data_dir("latency_tables") / "published" / "v100-tensorrt-fp16-b1.json"
MUTATIONS = 2000


def small_table(rows: int = 60) -> MeasuredTable:
    all_rows = read_measured(SHIPPED).rows
    return make_table(
        device="v100",
        runtime="TensorRT",
        precision="fp16",
        batch=1,
        conditions={"timing": "lone launches"},
        method={"clock": "none"},
        rows=all_rows[:: len(all_rows) // rows],
    )


def conv(channels: int, name: str = "c") -> Kernel:
    return Kernel("conv", name, (0,), channels, channels, 56, 56, 56, 56, kernel=3, epilogue=("relu",))


def test_the_shipped_table_is_read_and_written_byte_for_byte() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    table = measured_from_json(text)
    assert measured_to_json(table) == text
    assert (table.device, table.precision, table.batch) == ("v100", "fp16", 1)
    assert len(table.rows) == 23472
    assert len(text) < 3e6


def test_a_table_survives_the_file(tmp_path: Path) -> None:
    table = small_table()
    write_measured(tmp_path / "t.json", table)
    assert read_measured(tmp_path / "t.json") == table
    assert table.rows[0].key == KernelKey(*table.rows[0][:9])


def changed(**fields) -> str:
    document = json.loads(measured_to_json(small_table(3)))
    return json.dumps({**document, **fields})


ROW = ["conv", 3, 8, 5, 5, 1, 1, 1, "", 1e-5, None, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extra": 1}, "unknown key"),
        ({"kind": "modelled"}, "kind"),
        ({"schema": "maenas/measured-table@2"}, "schema"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": True}, "batch"),
        ({"precision": "fp8"}, "precision"),
        ({"rows": []}, "the table has no rows"),
        ({"rows": [ROW, ROW]}, "two rows for the kernel"),
        ({"rows": [ROW[:-1]]}, "rows"),
        ({"rows": [[*ROW[:9], 0.0, None, 1]]}, "out of range"),
        ({"rows": [[*ROW[:9], 1e-5, -1.0, 1]]}, "out of range"),
        ({"rows": [[*ROW[:9], 1e-5, None, 0]]}, "out of range"),
        ({"rows": [["conv", 0, *ROW[2:]]]}, "a size is out of range"),
        ({"rows": [["dense", *ROW[1:]]]}, "rows"),
        ({"device": "t4"}, "the file was edited"),
    ],
)
def test_a_wrong_table_is_an_error(fields: dict, message: str) -> None:
    with pytest.raises(MaenasError, match=message):
        measured_from_json(changed(**fields), "here")


def damaged(text: str, rng: np.random.Generator) -> str:
    """The text with one or two damages: characters, spans, or tokens deleted, repeated or exchanged."""
    for _ in range(int(rng.integers(1, 3))):
        start = int(rng.integers(len(text) + 1))
        end = min(len(text), start + int(rng.integers(1, 30)))
        tokens = list(re.finditer(r'"[^"\n]*"|-?[\d.]+(?:e-?\d+)?|\w+|[\[\]{},:]', text))
        if not tokens:
            return text
        token, other = (tokens[int(rng.integers(len(tokens)))] for _ in range(2))
        values = ("-1", "0", "1e400", "NaN", "null", "true", '""', "[]", "{}", "9" * 30, "1.5", '"x"', "\x00", other[0])
        value = values[int(rng.integers(len(values)))]
        kind = rng.integers(4)
        if kind == 0:
            text = text[:start] + text[end:]
        elif kind == 1:
            text = text[:end] + text[start:end] + text[end:]
        elif kind == 2:
            text = text[: token.start()] + value + text[token.end() :]
        else:
            text = text[:start] + chr(int(rng.integers(1, 0x250))) + text[start + 1 :]
    return text


def test_damaged_tables_are_read_or_refused() -> None:
    """The id is written anew where the rest can be read."""
    original, rng = measured_to_json(small_table(8)), np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for number in range(MUTATIONS):
        text = damaged(original, rng)
        try:
            try:
                table = measured_from_json(text, "fuzz")
            except MaenasError as error:
                fitting = re.search(r"the content's is ([0-9a-f]{12})", str(error))
                if fitting is None:
                    raise
                table = measured_from_json(re.sub(r'"id": "[^"]*"', f'"id": "{fitting[1]}"', text, count=1), "fuzz")
        except MaenasError as error:
            if not str(error).startswith("fuzz"):
                pytest.fail(f"input {number}: the message does not begin with the place: {error}")
            outcomes["refused"] += 1
            continue
        except Exception as error:
            pytest.fail(f"input {number}: {type(error).__name__}: {error}\n{text!a}")
        assert content_id(table) == table.id
        assert measured_from_json(measured_to_json(table)) == table
        outcomes["read"] += 1
    assert min(outcomes.values()) > 40, outcomes


def test_a_table_file_is_a_device(tmp_path: Path) -> None:
    table = small_table(200)
    write_measured(tmp_path / "mine.json", table)
    predictor = load_predictor(str(tmp_path / "mine.json"))
    assert isinstance(predictor, MeasuredPredictor)
    assert predictor.calibrated
    assert (predictor.table_id, predictor.precision, predictor.batch) == (table.id, "fp16", 1)
    assert re.fullmatch(
        r"measured: NVIDIA .*, TensorRT, fp16, batch 1, \d+ rows; predicted .* .* \(held out\); .* bytes",
        predictor.description,
    )
    assert json.loads(json.dumps(predictor.conditions))["kind"] == "measured"


def test_a_table_answers_for_its_own_precision_and_batch_only(tmp_path: Path) -> None:
    write_measured(tmp_path / "mine.json", small_table())
    for asked in ({"precision": "int8"}, {"batch": 32}):
        with pytest.raises(MaenasError, match="was measured at"):
            load_predictor(str(tmp_path / "mine.json"), **asked)


def test_a_network_is_the_sum_of_its_kernels() -> None:
    predictor = measured_predictor(small_table(200))
    kernels = [conv(64, "backbone.a"), conv(96, "backbone.b"), conv(64, "head.c")]
    prediction = predict(kernels, predictor)
    alone = [predictor.kernel_seconds(kernel) for kernel in kernels]
    assert prediction.kernel_seconds == tuple(alone)
    assert prediction.seconds == pytest.approx(sum(alone))
    assert prediction.low < prediction.seconds < prediction.high
    assert prediction.parts["head"] == alone[2]
    assert predictor.interpolator.predict(kernels[0]).inside


def test_more_kernels_never_take_less_time() -> None:
    predictor = measured_predictor(small_table(200))
    kernels = [conv(64)] * 6
    times = [predict(kernels[:n], predictor).seconds for n in range(1, 7)]
    assert (np.diff(times) > 0).all()


def test_what_a_table_of_convolutions_lacks_is_estimated_and_widens_the_interval() -> None:
    predictor = measured_predictor(small_table(300))
    kernels = lower(read_spec(data_dir("searched_models") / "damo-yolo-s.json").detector)
    prediction = predict(kernels, predictor)
    others = [kernel for kernel in kernels if kernel.op != "conv"]
    estimates = [
        kernel_seconds(k, device=predictor.device, precision="fp16", batch=1, constants=predictor.estimate_constants)
        for k in others
    ]
    assert prediction.estimated_seconds == pytest.approx(sum(estimates))
    assert 0 < prediction.estimated_seconds < prediction.seconds
    convolutions = predict([kernel for kernel in kernels if kernel.op == "conv"], predictor)
    assert convolutions.estimated_seconds == 0
    assert prediction.seconds == pytest.approx(convolutions.seconds + prediction.estimated_seconds)
    wide = math.exp(read_transfer().log_half_width)
    assert prediction.low == pytest.approx(convolutions.low + prediction.estimated_seconds / wide)
    assert prediction.high == pytest.approx(convolutions.high + prediction.estimated_seconds * wide)
    assert "estimated from bytes" in predictor.description
    text = format_prediction(kernels, predictor, prediction)
    assert f"{prediction.estimated_seconds / prediction.seconds:.1%} of it estimated from bytes" in text
    assert "space_to_depth" in text


def test_a_kind_of_convolution_that_was_not_measured_is_an_error_that_names_it_and_the_table() -> None:
    rows = tuple(row for row in small_table(200).rows if row.groups == 1)
    table = make_table(device="v100", runtime="r", precision="fp16", batch=1, conditions={}, method={}, rows=rows)
    with pytest.raises(MaenasError, match=f"latency table {table.id} .* has no depthwise conv kernels"):
        measured_predictor(table).kernel_seconds(Kernel("conv", "x", (0,), 64, 64, 40, 40, 40, 40, 3, 1, 64))


def test_hardware_outside_the_catalogue_has_no_figures_to_estimate_by() -> None:
    rows = small_table(100).rows
    table = make_table(device="abacus", runtime="r", precision="fp16", batch=1, conditions={}, method={}, rows=rows)
    with pytest.raises(MaenasError, match="has no space_to_depth kernels"):
        measured_predictor(table).kernel_seconds(Kernel("space_to_depth", "x", (-1,), 3, 12, 64, 64, 32, 32))


def test_a_table_of_hardware_outside_the_catalogue_predicts_too() -> None:
    """Its rates are fitted, so that the catalogue's figures are not needed; rows come back as measured."""
    rows = tuple(Row("conv", 8, 8, h, h, 3, 1, 1, "", 1e-8 * h * h + 1e-6, None, 1) for h in range(8, 40))
    table = make_table(device="abacus", runtime="beads", precision="fp16", batch=1, conditions={}, method={}, rows=rows)
    predictor = measured_predictor(table)
    assert predictor.device.id == "abacus"
    for row in rows[::7]:
        kernel = Kernel("conv", "x", (-1,), 8, 8, row.height, row.width, row.height, row.width, kernel=3)
        assert predictor.kernel_seconds(kernel) == row.median_s


def test_the_shipped_cpu_table_predicts_a_published_network() -> None:
    """Some kernels of the published T are rows of it and come back as measured, the others are interpolated."""
    path = shipped_file("latency_tables", "cpu-amd-epyc-onnxruntime-t1-fp32-b1.json")
    predictor = load_predictor(str(path), precision="fp32")
    assert isinstance(predictor, MeasuredPredictor)
    kernels = lower(read_spec(data_dir("searched_models") / "damo-yolo-t.json").detector)
    seconds = {row.key: row.median_s for row in predictor.interpolator.table.rows}
    rows = [seconds.get(key_of(kernel)) for kernel in kernels]
    known = [(row, kernel) for row, kernel in zip(rows, kernels, strict=True) if row is not None]
    assert len(known) > 20
    assert all(predictor.interpolator.seconds(kernel) == row for row, kernel in known)
    assert all(predictor.kernel_seconds(kernel) == row * predictor.factor for row, kernel in known)
    assert 0.1 < predict(kernels, predictor).seconds < 0.4  # it takes 180 ms there


def test_the_interval_of_a_network_of_others_is_as_sure_as_its_kernels() -> None:
    predictor = measured_predictor(small_table(200))
    row = next(row for row in predictor.interpolator.table.rows if (row.groups, row.stride, row.epilogue) == (1, 1, ""))
    size = (row.height, row.width, row.height, row.width, row.kernel)
    known = Kernel("conv", "known", (-1,), row.in_channels, row.out_channels, *size)
    near, far = conv(72, "near"), Kernel("conv", "far", (-1,), 3000, 3000, 3, 3, 3, 3, 9)
    widths = [predictor.for_others([kernel], [1.0]).log_half_width for kernel in (known, near, far)]
    assert predictor.log_half_width == widths[0] < widths[1] < widths[2]
    mixed = predictor.for_others([known, far], [1.0, 1.0]).log_half_width
    assert widths[0] < mixed < widths[2]


def test_predictions_need_no_fitting_library() -> None:
    measured_predictor(small_table()).kernel_seconds(conv(40))
    assert "sklearn" not in sys.modules
    assert "scipy" not in sys.modules
