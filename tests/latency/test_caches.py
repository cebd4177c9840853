"""What a small network saves in a loop of its own."""

import dataclasses
from typing import Any

import pytest

import maenas
from maenas.errors import MaenasError
from maenas.files import shipped_file
from maenas.kernels import IMAGE, Kernel
from maenas.latency.caches import COLD_SHARE, MOST_SAVED, WARM_SHARE, Caches, footprint
from maenas.latency.joining import merge_tables
from maenas.latency.measured import make_table, measured_from_json, measured_to_json, read_measured
from maenas.latency.predictor import load_predictor, predict
from maenas.lowering import lower
from maenas.spec import DetectorSpec, InputSpec, published_specs
from maenas.units import format_latency

CACHES = Caches(bytes=32 << 20, product_s=4e-6, other_s=2e-6, byte_s=5e-11)
CONV = Kernel("conv", "conv", (IMAGE,), 64, 32, 8, 8, 8, 8, kernel=3)
POOL = Kernel("maxpool", "pool", (0,), 32, 32, 8, 8, 8, 8, kernel=3)


def test_a_footprint_is_the_weights_and_what_the_largest_kernel_holds() -> None:
    weights, most = 64 * 32 * 9 + 32, (64 + 32) * 8 * 8
    assert footprint([CONV, POOL], element_bytes=4, batch=1) == 4 * (weights + most)
    assert footprint([CONV, POOL], element_bytes=2, batch=3) == 2 * (weights + 3 * most)


def test_a_small_network_is_warm_and_a_large_one_cold() -> None:
    shares = (0.0, WARM_SHARE, (WARM_SHARE + COLD_SHARE) / 2, COLD_SHARE, 10.0)
    assert [CACHES.warmth(share * CACHES.bytes) for share in shares] == pytest.approx([1, 1, 0.5, 0, 0])


def test_a_product_saves_its_start_and_its_weights_and_no_kernel_more_than_a_share_of_its_time() -> None:
    weights = 64 * 32 * 9 + 32
    assert CACHES.saved(CONV, 1.0, element_bytes=4) == pytest.approx(4e-6 + 4 * weights * 5e-11)
    assert CACHES.saved(POOL, 1.0, element_bytes=4) == 2e-6
    assert CACHES.saved(CONV, 1e-6, element_bytes=4) == MOST_SAVED * 1e-6


def test_savings_add_up() -> None:
    seconds = [1.0, 1e-6]
    each = [CACHES.saved(kernel, value, element_bytes=4) for kernel, value in zip((CONV, POOL), seconds, strict=True)]
    assert CACHES.saved_by([CONV, POOL], seconds, element_bytes=4, batch=1) == pytest.approx(sum(each))
    tiny = dataclasses.replace(CACHES, bytes=1024)
    assert tiny.saved_by([CONV, POOL], seconds, element_bytes=4, batch=1) == 0


@pytest.mark.parametrize("change", [{"bytes": 0}, {"product_s": -1e-6}, {"byte_s": 2.0}, {"other_s": float("nan")}])
def test_figures_out_of_range_are_refused(change: dict) -> None:
    with pytest.raises(MaenasError, match="caches"):
        dataclasses.replace(CACHES, **change)


def test_a_table_keeps_its_caches_through_its_file_and_a_merge_and_its_id_depends_on_them() -> None:
    table = read_measured(shipped_file("latency_tables", "cpu-epyc-zen4-onnxruntime-t1-fp32-b1.json"))
    assert table.caches is not None
    assert measured_from_json(measured_to_json(table)) == table
    fields: dict[str, Any] = {f.name: getattr(table, f.name) for f in dataclasses.fields(table)[3:]}
    fields["caches"] = None
    without = make_table(**fields)
    assert without.id != table.id
    assert merge_tables([table, without], ["a", "b"], across_conditions=True).caches == table.caches


def test_only_a_network_that_is_small_for_the_caches_is_told_to_be_faster_in_a_loop() -> None:
    predictor = load_predictor("cpu-epyc-zen4-onnxruntime-t1-fp32-b1")
    specs = published_specs()
    small, large = specs["damo-yolo-nano-s"], specs["damo-yolo-t"]
    small = DetectorSpec(InputSpec(96, 96), small.backbone, small.neck, small.head)
    fast, slow = (predict(lower(spec), predictor) for spec in (small, large))
    assert fast.warm_seconds is not None
    assert fast.low < fast.warm_seconds < fast.seconds < fast.high
    assert slow.warm_seconds is None
    assert slow.low == predictor.interval(slow.seconds)[0]


def test_from_python_it_is_a_number_beside_the_latency() -> None:
    small = published_specs()["damo-yolo-nano-s"]
    small = DetectorSpec(InputSpec(96, 96), small.backbone, small.neck, small.head)
    there, elsewhere = (maenas.predict(small, device=name) for name in ("cpu-epyc-zen4-onnxruntime-t1-fp32-b1", "t4"))
    assert there.document()["loop_ms"] == there.loop_ms < there.latency_ms
    assert f"about {format_latency(there.loop_ms / 1e3)} in a loop of its own" in there.text()
    assert elsewhere.loop_ms == elsewhere.latency_ms
    assert "loop" not in elsewhere.text()
    assert "loop_ms" not in elsewhere.document()
