"""Predictions of ONNX networks as text and as JSON data."""

from __future__ import annotations

from collections import Counter
from typing import Any

from maenas.cost import total_cost
from maenas.latency.onnx.lower import Lowered
from maenas.latency.onnx.predict import GraphPrediction, kernel_kind, predict_graph
from maenas.latency.predictor import AnyPredictor, provenance_word
from maenas.reports.prediction_text import estimated_text, warm_document, warm_text
from maenas.reports.text import columns
from maenas.units import format_count, format_latency

WIDTH = 14


def format_graph(title: str, lowered: Lowered, predictor: AnyPredictor, *, layers: bool) -> str:
    """Predicted latency of a network: by kind of kernel, by kernel with `layers`, and what was left out."""
    graph = predict_graph(lowered, predictor)
    predictor, prediction, cost = graph.predictor, graph.prediction, total_cost(lowered.kernels)
    kind = "90 % interval" if predictor.calibrated else "90 % range over devices"
    span = f"{format_latency(prediction.low)} to {format_latency(prediction.high)}"
    word = provenance_word(predictor)
    untimed = sum(count for _, count in graph.untimed)
    without = f"; not in it: what depends on data, {untimed} of the operators" if untimed else ""
    latency = f"{format_latency(prediction.seconds)} {word} on {predictor.device.name} ({kind} {span})"
    lines = [
        ("network", title),
        ("device", predictor.description),
        ("cost", f"{format_count(cost.params)} parameters, {format_count(cost.flops)} FLOPs"),
        ("latency", f"{latency}{without}{warm_text(prediction)}"),
        ("not modelled", _unmodelled_text(graph)),
        *(
            [("estimated", estimated_text(graph.lowered.kernels, predictor, prediction))]
            if prediction.estimated_seconds
            else []
        ),
        ("not timed", ", ".join(f"{count} {op}" for op, count in graph.untimed) or "nothing"),
    ]
    text = "\n".join(f"{label:<{WIDTH}}{line}" for label, line in lines)
    tables = [_kind_table(graph, word), *([_kernel_table(graph)] if layers else [])]
    return "\n\n".join([text, *tables])


def _unmodelled_text(graph: GraphPrediction) -> str:
    if not graph.unmodelled:
        return "nothing"
    names = ", ".join(f"{row.count} {row.op}" for row in graph.unmodelled)
    return f"{names}: about {graph.unmodelled_share:.1%} of the time, guessed from the elements they move or compute"


def _kind_table(graph: GraphPrediction, word: str) -> str:
    total = graph.prediction.seconds
    counts = {row.op: row.count for row in graph.unmodelled} | Counter(_kinds(graph.lowered))
    rows = [["kind", "kernels", f"ms {word}", "share"]]
    for kind, seconds in sorted(graph.prediction.parts.items(), key=lambda item: -item[1]):
        rows.append([kind, str(counts[kind]), f"{seconds * 1e3:.4f}", f"{seconds / total:.1%}"])
    return columns([*rows, ["whole", str(len(graph.lowered.kernels)), f"{total * 1e3:.4f}", "100.0%"]])


def _kernel_table(graph: GraphPrediction) -> str:
    rows = [["kernel", "kind", "in", "out", "k", "s", "size", "MFLOPs", "us", "share"]]
    prediction = graph.prediction
    kernels, kinds = graph.lowered.kernels, _kinds(graph.lowered)
    for kernel, kind, seconds in zip(kernels, kinds, prediction.kernel_seconds, strict=True):
        shape = [kernel.in_channels, kernel.out_channels, kernel.kernel, kernel.stride]
        size, flops = f"{kernel.out_height}x{kernel.out_width}", total_cost([kernel]).flops / 1e6
        share = f"{seconds / prediction.seconds:.1%}"
        rows.append([kernel.name, kind, *map(str, shape), size, f"{flops:.1f}", f"{seconds * 1e6:.2f}", share])
    return columns(rows, left=2)


def _kinds(lowered: Lowered) -> list[str]:
    return [lowered.stand_ins.get(index, kernel_kind(kernel)) for index, kernel in enumerate(lowered.kernels)]


def graph_document(lowered: Lowered, predictor: AnyPredictor, *, layers: bool) -> dict[str, Any]:
    """What `format_graph` prints, as JSON data."""
    graph = predict_graph(lowered, predictor)
    prediction = graph.prediction
    document: dict[str, Any] = {
        "kind": provenance_word(predictor),
        "ms": prediction.seconds * 1e3,
        "interval_90_ms": [prediction.low * 1e3, prediction.high * 1e3],
        **warm_document(prediction),
        "parts_ms": {kind: seconds * 1e3 for kind, seconds in prediction.parts.items()},
        "unmodelled": [{"op": r.op, "count": r.count, "guessed_ms": r.seconds * 1e3} for r in graph.unmodelled],
        "untimed": dict(graph.untimed),
        "conditions": graph.predictor.conditions,
    }
    if layers:
        rows = zip(graph.lowered.kernels, _kinds(graph.lowered), prediction.kernel_seconds, strict=True)
        document["kernels_us"] = [{"name": kernel.name, "op": kind, "us": s * 1e6} for kernel, kind, s in rows]
    return document
