"""Predictions of ONNX networks as text and as JSON data."""

from __future__ import annotations

from collections import Counter
from typing import Any

from maenas.latency.onnx.lower import Lowered
from maenas.latency.onnx.predict import GraphPrediction, kernel_kind, predict_graph
from maenas.latency.predictor import AnyPredictor, provenance_word
from maenas.reports.prediction_text import estimated_text, kernel_table, latency_document, latency_text, warm_text
from maenas.reports.text import columns
from maenas.units import format_count

WIDTH = 14


def format_graph(title: str, lowered: Lowered, predictor: AnyPredictor, *, layers: bool) -> str:
    """Predicted latency of a network: by kind of kernel, by kernel with `layers`, and what was left out."""
    graph = predict_graph(lowered, predictor)
    predictor, prediction, cost = graph.predictor, graph.prediction, lowered.cost
    untimed = sum(count for _, count in graph.untimed)
    without = f"; not in it: what depends on data, {untimed} of the operators" if untimed else ""
    lines = [
        ("network", title),
        ("device", predictor.description),
        ("cost", f"{format_count(cost.params)} parameters, {format_count(cost.flops)} FLOPs"),
        ("latency", f"{latency_text(predictor, prediction)}{without}{warm_text(prediction)}"),
        ("not modelled", _unmodelled_text(graph)),
        *(
            [("estimated", estimated_text(graph.lowered.kernels, predictor, prediction))]
            if prediction.estimated_seconds
            else []
        ),
        ("not timed", ", ".join(f"{count} {op}" for op, count in graph.untimed) or "nothing"),
    ]
    text = "\n".join(f"{label:<{WIDTH}}{line}" for label, line in lines)
    tables = [_kind_table(graph)]
    if layers:
        tables.append(kernel_table("kind", graph.lowered.kernels, _kinds(graph.lowered), prediction))
    return "\n\n".join([text, *tables])


def _unmodelled_text(graph: GraphPrediction) -> str:
    if not graph.unmodelled:
        return "nothing"
    names = ", ".join(f"{row.count} {row.op}" for row in graph.unmodelled)
    return f"{names}: about {graph.unmodelled_share:.1%} of the time, guessed from the elements they move or compute"


def _kind_table(graph: GraphPrediction) -> str:
    total = graph.prediction.seconds
    counts = {row.op: row.count for row in graph.unmodelled} | Counter(_kinds(graph.lowered))
    rows = [["kind", "kernels", f"ms {provenance_word(graph.predictor)}", "share"]]
    for kind, seconds in sorted(graph.prediction.parts.items(), key=lambda item: -item[1]):
        rows.append([kind, str(counts[kind]), f"{seconds * 1e3:.4f}", f"{seconds / total:.1%}"])
    return columns([*rows, ["whole", str(len(graph.lowered.kernels)), f"{total * 1e3:.4f}", "100.0%"]])


def _kinds(lowered: Lowered) -> list[str]:
    return [lowered.stand_ins.get(index, kernel_kind(kernel)) for index, kernel in enumerate(lowered.kernels)]


def graph_document(lowered: Lowered, predictor: AnyPredictor, *, layers: bool) -> dict[str, Any]:
    """What `format_graph` prints, as JSON data."""
    graph = predict_graph(lowered, predictor)
    prediction = graph.prediction
    document = {
        **latency_document(graph.predictor, prediction),
        "unmodelled": [{"op": r.op, "count": r.count, "guessed_ms": r.seconds * 1e3} for r in graph.unmodelled],
        "untimed": dict(graph.untimed),
        "conditions": graph.predictor.conditions,
    }
    if layers:
        rows = zip(graph.lowered.kernels, _kinds(graph.lowered), prediction.kernel_seconds, strict=True)
        document["kernels_us"] = [{"name": kernel.name, "op": kind, "us": s * 1e6} for kernel, kind, s in rows]
    return document
