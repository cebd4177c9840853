"""Networks with operators that a predictor does not know: listed and guessed, or refused where they are the most."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from maenas.choices import Precision
from maenas.cost import kernel_traffic
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.onnx.apart import MOVED, ONE_BY_ONE
from maenas.latency.onnx.lower import Lowered, fuse, kernels_from_json
from maenas.latency.onnx.node_graph import read_json
from maenas.latency.onnx.predict import MOST_GUESSED, UNKNOWN_FACTOR, kernel_kind, predict_graph
from maenas.latency.predictor import load_predictor, predict
from maenas.reports.graph import format_graph, graph_document


class WithoutGroups:
    """A predictor whose table measured no grouped convolutions."""

    network_seconds = 0.0

    def kernel_seconds(self, kernel: Kernel) -> float:
        if kernel.groups > 1:
            raise MaenasError("not measured")
        return 1e-3

    def interval(self, seconds: float) -> tuple[float, float]:
        return seconds / 2, seconds * 2

    def for_others(self, kernels: Sequence[Kernel], seconds: Sequence[float]) -> "WithoutGroups":
        return self


def node(name: str, source: int, out: int, **attributes) -> dict:
    tensor = [1, 16, 64, 64]
    weights = [[100 + out, [16, 16 // attributes.get("group", 1), 3, 3]]] if name == "Conv" else []
    return {"op": name, "in": [[source, tensor], *weights], "out": [[out, tensor]], "attr": attributes}


def lowered(*nodes: dict) -> Lowered:
    return fuse(read_json({"nodes": list(nodes)}))


def test_a_network_of_known_operators_is_predicted_as_its_kernels() -> None:
    convs = [node("Conv", number, number + 1) for number in range(6)]
    graph, predictor = lowered(*convs, node("Softmax", 6, 7)), load_predictor("t4")
    result = predict_graph(graph, predictor)
    plain = predict(graph.kernels, predictor)
    assert result.prediction.seconds == plain.seconds
    assert (result.prediction.low, result.prediction.high) == pytest.approx((plain.low, plain.high))
    assert (result.unmodelled, result.untimed, result.unmodelled_share) == ((), (), 0)


def test_a_setup_that_is_calibrated_on_convolutions_is_not_for_attention() -> None:
    predictor = load_predictor("t4")
    convs = [node("Conv", number, number + 1) for number in range(4)]
    softmaxes = [node("Softmax", number, number + 1) for number in range(4, 12)]
    alone, mixed = (predict_graph(lowered(*nodes), predictor) for nodes in (convs, convs + softmaxes))
    assert alone.predictor is predictor
    assert mixed.prediction.seconds == predict(mixed.lowered.kernels, predictor).seconds
    assert "NOT for a network that spends" in mixed.predictor.description
    assert not mixed.predictor.calibrated
    assert "left out whole" in mixed.predictor.conditions["interval"]
    uncalibrated = load_predictor("l4")
    assert not uncalibrated.calibrated
    seconds = mixed.prediction.seconds
    assert (mixed.prediction.low, mixed.prediction.high) == pytest.approx(uncalibrated.interval(seconds))
    assert "90 % range over devices" in format_graph("x", lowered(*convs, *softmaxes), predictor, layers=False)
    measured = load_predictor("cpu-epyc-zen4-onnxruntime-t1-fp32-b1")
    assert predict_graph(lowered(*convs, *softmaxes), measured).predictor.calibrated


def test_a_setup_that_is_calibrated_on_attention_is_named_and_keeps_its_interval() -> None:
    graph = lowered(*(node("Conv", number, number + 1) for number in range(24)), *(node("Softmax", 24, 25),) * 1)
    few = predict_graph(graph, load_predictor("t4"))
    graph = lowered(*(node("Conv", n, n + 1) for n in range(9)), *(node("Softmax", n, n + 1) for n in range(9, 13)))
    some = predict_graph(graph, load_predictor("t4"))
    assert few.predictor.calibrated
    assert some.predictor.description.endswith(
        "of its time in products over positions, softmax and reordering; t4@detr-papers is"
    )
    own = load_predictor("t4@detr-papers")
    assert predict_graph(graph, own).predictor is own
    turns = (node("Transpose", number, number + 1, perm=[0, 1, 3, 2]) for number in range(9, 13))
    turned = predict_graph(lowered(*(node("Conv", n, n + 1) for n in range(9)), *turns), load_predictor("t4"))
    assert turned.predictor.description.endswith("softmax and reordering")


def test_an_unknown_operator_is_in_the_time_and_in_the_list_and_widens_the_interval() -> None:
    predictor = load_predictor("t4")
    convs = node("Conv", 0, 1), node("Conv", 1, 2)
    with_it = predict_graph(lowered(*convs, node("Fancy", 2, 3), node("Fancy", 3, 4)), predictor)
    without = predict_graph(lowered(*convs), predictor)
    (row,) = with_it.unmodelled
    assert (row.op, row.count) == ("Fancy", 2)
    assert with_it.prediction.seconds == pytest.approx(without.prediction.seconds + row.seconds)
    assert with_it.prediction.low == pytest.approx(without.prediction.low)
    assert with_it.prediction.high == pytest.approx(without.prediction.high + UNKNOWN_FACTOR * row.seconds)
    assert with_it.unmodelled_share == pytest.approx(row.seconds / with_it.prediction.seconds)
    assert math.fsum(with_it.prediction.parts.values()) == pytest.approx(with_it.prediction.seconds)


def test_a_kind_that_the_table_did_not_measure_counts_as_not_modelled() -> None:
    graph = lowered(node("Conv", 0, 1), node("Conv", 1, 2, group=2))
    result = predict_graph(graph, WithoutGroups())  # type: ignore[arg-type]
    assert [(row.op, row.count) for row in result.unmodelled] == [("grouped conv", 1)]
    bytes_moved = [kernel_traffic(kernel) for kernel in graph.kernels]
    assert result.unmodelled[0].seconds == pytest.approx(1e-3 * bytes_moved[1] / bytes_moved[0])


def test_a_network_of_which_nothing_can_be_timed_is_an_error() -> None:
    with pytest.raises(MaenasError, match="no operator of the network can be timed"):
        predict_graph(lowered(node("Conv", 0, 1, group=2)), WithoutGroups())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["LSTM", "QLinearConv", "me::DeformConv2d", "Attention", "If of Conv"])
def test_an_unknown_operator_that_hides_a_product_is_refused(name: str) -> None:
    with pytest.raises(MaenasError, match=f"no latency: 1 {name} would be most of the work"):
        predict_graph(lowered(node("Conv", 0, 1), node(name, 1, 2)), load_predictor("t4"))


def test_a_network_most_of_whose_time_would_be_guessed_is_refused() -> None:
    predictor = load_predictor("t4")
    fancy = [node("Fancy", number, number + 1) for number in range(1, 9)]
    assert predict_graph(lowered(node("Conv", 0, 1), fancy[0]), predictor).unmodelled_share < MOST_GUESSED
    with pytest.raises(MaenasError, match=r"% of it would be guessed .*: 8 Fancy"):
        predict_graph(lowered(node("Conv", 0, 1), *fancy), predictor)


def test_what_onnx_runtime_computes_one_by_one_counts_by_its_elements_there_and_nowhere_else() -> None:
    elements = 16 * 64 * 64
    with_it, without = (lowered(node("Conv", 0, 1), node(name, 1, 2)) for name in ("Mish", "Gelu"))
    for table, threads in (("cpu-epyc-zen4-onnxruntime-t1-fp32-b1", 1), ("cpu-amd-epyc-onnxruntime-t2-fp32-b1", 2)):
        predictor = load_predictor(table)
        result, plain = (predict_graph(graph, predictor) for graph in (with_it, without))
        extra = elements * ONE_BY_ONE["Mish"] * 1e-9 / threads
        assert result.prediction.seconds == pytest.approx(plain.prediction.seconds + extra)
        assert result.prediction.low == pytest.approx(plain.prediction.low)
        assert result.prediction.high == pytest.approx(plain.prediction.high + UNKNOWN_FACTOR * extra)
        assert [(row.op, row.count, row.seconds) for row in result.unmodelled] == [("Mish", 1, pytest.approx(extra))]
        assert result.prediction.parts["Mish"] == pytest.approx(extra)
        assert "Mish" in format_graph("net", with_it, predictor, layers=False)
        (row,) = predict_graph(with_it, replace(predictor, batch=4)).unmodelled
        assert row.seconds == pytest.approx(4 * extra)
    for table in ("cpu-epyc-zen4-openvino-t1-fp32-b1", "t4"):
        result, plain = (predict_graph(graph, load_predictor(table)) for graph in (with_it, without))
        assert (result.prediction, result.unmodelled) == (plain.prediction, plain.unmodelled)


def test_what_onnx_runtime_computes_apart_is_in_the_time_and_a_kernel_in_the_list_there_and_nowhere_else() -> None:
    graph = lowered(node("Conv", 0, 1), node("Abs", 1, 2))
    for table, more in (("cpu-epyc-zen4-onnxruntime-t1-fp32-b1", 3), ("cpu-epyc-zen4-openvino-t1-fp32-b1", 0)):
        predictor = load_predictor(table)
        result, plain = predict_graph(graph, predictor), predict(graph.kernels, predictor)
        assert len(result.lowered.kernels) == len(result.prediction.kernel_seconds) == len(graph.kernels) + more
        assert (result.prediction.seconds > plain.seconds) == bool(more)
        assert sum(result.prediction.kernel_seconds) + predictor.network_seconds == pytest.approx(
            result.prediction.seconds
        )
        names = [row["name"] for row in graph_document(graph, predictor, layers=True)["kernels_us"]]
        assert names == [kernel.name for kernel in result.lowered.kernels]
        assert ("conv0: Abs" in format_graph("net", graph, predictor, layers=True)) == bool(more)


@pytest.mark.parametrize(
    ("mode", "counted"), [(b"nearest", None), (b"linear", "linear Resize"), ("cubic", "cubic Resize"), (3, None)]
)
def test_a_resize_counts_by_its_mode(mode: object, counted: str | None) -> None:
    graph = lowered(node("Conv", 0, 1), node("Resize", 1, 2, mode=mode))
    found = predict_graph(graph, load_predictor("cpu-epyc-zen4-onnxruntime-t1-fp32-b1")).unmodelled
    assert [row.op for row in found] == ([counted] if counted else [])


def test_a_linear_resize_counts_by_what_it_follows_and_how_it_places_pixels() -> None:
    predictor = load_predictor("cpu-epyc-zen4-onnxruntime-t1-fp32-b1")

    def counted(*nodes: dict, **placed: str) -> list[str]:
        resize = node("Resize", len(nodes), len(nodes) + 1, mode="linear", **placed)
        return [row.op for row in predict_graph(lowered(*nodes, resize), predictor).unmodelled]

    conv, relu, turn = node("Conv", 0, 1), node("Relu", 1, 2), node("Transpose", 1, 2, perm=[0, 1, 3, 2])
    assert counted(conv) == counted(conv, relu) == ["linear Resize"]
    assert counted(conv, coordinate_transformation_mode="align_corners") == ["linear Resize"]
    assert counted(conv, coordinate_transformation_mode="pytorch_half_pixel") == ["linear Resize of rows"]
    assert counted(conv, turn) == ["linear Resize of rows"]


def test_a_resize_in_a_graph_that_leads_round_and_round_is_counted() -> None:
    tensor = [1, 16, 64, 64]
    one = {"op": "Add", "in": [[3, tensor], [1, tensor]], "out": [[2, tensor]], "attr": {}}
    other = {"op": "Add", "in": [[2, tensor], [1, tensor]], "out": [[3, tensor]], "attr": {}}
    graph = lowered(node("Conv", 0, 1), one, other, node("Resize", 3, 4, mode="linear"))
    assert set(graph.elements) == {"Conv", "Add", "linear Resize of rows"}


def test_a_network_with_few_operators_without_a_rule_can_be_calibrated_on() -> None:
    convs = [node("Conv", number, number + 1) for number in range(20)]
    kernels = kernels_from_json({"nodes": [*convs, node("Fancy", 20, 21)]})
    assert [kernel.op for kernel in kernels] == ["conv"] * 20 + ["pointwise"]
    with pytest.raises(MaenasError, match=r"operators with no rule, .* 3 Fancy;"):
        kernels_from_json({"nodes": [*convs, *(node("Fancy", number, number + 1) for number in range(20, 23))]})


@pytest.mark.parametrize(
    ("channels", "side", "turned", "slow"), [(16, 128, 0, 1), (15, 128, 0, 0), (16, 127, 0, 0), (16, 128, 1, 0)]
)
def test_openvino_brings_large_results_into_another_layout(channels: int, side: int, turned: int, slow: int) -> None:
    tensor = [1, channels, side, side]
    rows = [{"op": "Conv", "in": [[0, tensor], [9, [channels, channels, 1, 1]]], "out": [[1, tensor]], "attr": {}}]
    if turned:
        rows += [{"op": "Transpose", "in": [[1, tensor]], "out": [[2, tensor]], "attr": {"perm": [0, 1, 3, 2]}}]
    graph = fuse(replace(read_json({"nodes": rows}), outputs=frozenset({1 + turned})))
    for runtime, count in (("openvino", slow), ("onnxruntime", 0)):
        found = predict_graph(graph, load_predictor(f"cpu-epyc-zen4-{runtime}-t1-fp32-b1")).unmodelled
        assert sum(row.count for row in found if row.op == "output Reorder") == count
        expected = 3.7e-9 * channels * side * side
        assert [row.seconds for row in found if row.op == "output Reorder"] == [pytest.approx(expected)] * count


def test_an_operator_without_a_rule_that_counts_by_its_elements_counts_once() -> None:
    graph = lowered(node("Conv", 0, 1), node("GridSample", 1, 2))
    result = predict_graph(graph, load_predictor("cpu-epyc-zen4-onnxruntime-t1-fp32-b1"))
    expected = ONE_BY_ONE["GridSample"] * 16 * 64 * 64 * 1e-9
    assert [(row.op, row.count, row.seconds) for row in result.unmodelled] == [
        ("GridSample", 1, pytest.approx(expected))
    ]
    assert result.prediction.parts["GridSample"] == pytest.approx(expected)
    assert sum(result.prediction.parts.values()) == pytest.approx(result.prediction.seconds)


def test_a_transposed_convolution_counts_by_its_products() -> None:
    shapes = [[0, [1, 16, 20, 30]], [9, [16, 8, 4, 4]]]
    attributes = {"strides": [2, 2], "kernel_shape": [4, 4]}
    graph = lowered({"op": "ConvTranspose", "in": shapes, "out": [[1, [1, 8, 40, 60]]], "attr": attributes})
    assert graph.elements == {"ConvTranspose": [20 * 30 * 4 * 4 * 8]}


def test_a_table_without_arithmetic_guesses_what_onnx_runtime_computes_apart() -> None:
    graph, elements = lowered(node("Conv", 0, 1), node("Abs", 1, 2)), 16 * 64 * 64
    for table, threads in (("cpu-amd-epyc-onnxruntime-t1-fp32-b1", 1), ("cpu-amd-epyc-onnxruntime-t2-fp32-b1", 2)):
        predictor = load_predictor(table)
        result, plain = predict_graph(graph, predictor), predict(graph.kernels, predictor)
        extra = 3 * 2 * elements * MOVED * 1e-9 / threads
        assert result.lowered is graph
        assert result.prediction.seconds == pytest.approx(plain.seconds + extra)
        assert [(row.op, row.count) for row in result.unmodelled] == [("arithmetic", 3)]


@pytest.mark.parametrize(
    ("file", "table", "fits"),
    [
        *(("fp32", table, True) for table in ("fp32", "fp16", "int8")),
        *(("fp16", table, fits) for table, fits in (("fp32", False), ("fp16", True), ("int8", True))),
        *(("int8", table, fits) for table, fits in (("fp32", False), ("fp16", False), ("int8", True))),
    ],
)
def test_a_file_of_another_precision_has_no_latency(file: Precision, table: Precision, fits: bool) -> None:
    graph, predictor = replace(lowered(node("Conv", 0, 1)), precision=file), load_predictor("t4", precision=table)
    if fits:
        assert predict_graph(graph, predictor).prediction.seconds > 0
    else:
        with pytest.raises(MaenasError, match=f"computes in {file}, and the latencies are those of {table}"):
            predict_graph(graph, predictor)


def test_a_file_in_bf16_is_not_sent_to_a_precision_that_no_gpu_is_modelled_in() -> None:
    graph = replace(lowered(node("Conv", 0, 1)), precision="bf16")
    with pytest.raises(MaenasError, match=r"give the file in fp32, or in fp16, .* for a CPU, name a table in bf16"):
        predict_graph(graph, load_predictor("t4"))
    table = "cpu-epyc-zen4-openvino-t1-bf16-b1"
    assert predict_graph(graph, load_predictor(table)).prediction.seconds > 0


def test_text_and_data_name_what_was_left_out() -> None:
    shapeless = {"op": "NonZero", "in": [[0, [1, 16, 64, 64]]], "out": [[9, [0]]]}
    graph, predictor = lowered(node("Conv", 0, 1), node("Fancy", 1, 2), shapeless), load_predictor("t4")
    text = format_graph("net", graph, predictor, layers=True)
    assert "1 Fancy: about" in text
    assert "not timed     1 NonZero" in text
    assert "; not in it: what depends on data, 1 of the operators" in text
    assert "modelled on NVIDIA T4" in text
    document = graph_document(graph, predictor, layers=True)
    assert document["untimed"] == {"NonZero": 1}
    assert [row["op"] for row in document["unmodelled"]] == ["Fancy"]
    assert sum(row["us"] for row in document["kernels_us"]) == pytest.approx(document["ms"] * 1e3)


def test_kinds_tell_depthwise_from_grouped() -> None:
    kernels = lowered(node("Conv", 0, 1, group=16), node("Conv", 1, 2, group=2), node("Conv", 2, 3)).kernels
    assert [kernel_kind(kernel) for kernel in kernels] == ["depthwise conv", "grouped conv", "conv"]
