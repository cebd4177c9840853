"""A predicted latency as text: what it is worth, by part, and by kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maenas.cost import kernel_flops, total_cost
from maenas.kernels import Kernel, is_depthwise
from maenas.latency.predictor import AnyPredictor, Prediction, predict, provenance_word
from maenas.reports.text import columns, labelled
from maenas.score import deepmad_score, effectiveness, mae_score, score_terms
from maenas.units import format_count, format_latency

DEPTHWISE_SHARE = 0.1  # of a latency, above which its prediction carries a caution


def format_prediction(kernels: Sequence[Kernel], predictor: AnyPredictor, prediction: Prediction) -> str:
    """One predicted latency with its interval and what it is worth."""
    text = latency_text(predictor, prediction) + warm_text(prediction)
    if prediction.estimated_seconds:
        text += f"; {estimated_text(kernels, predictor, prediction)}"
    rows = zip(kernels, prediction.kernel_seconds, strict=True)
    depthwise = sum(seconds for kernel, seconds in rows if is_depthwise(kernel)) / prediction.seconds
    if depthwise > DEPTHWISE_SHARE and predictor.conditions["kind"] == "modelled":
        text += f"; {depthwise:.0%} of it depthwise convolutions, which the calibration hardly covers"
    return text


def latency_text(predictor: AnyPredictor, prediction: Prediction) -> str:
    """A predicted latency with its interval."""
    kind = "90 % interval" if predictor.calibrated else "90 % range over devices"
    return (
        f"{format_latency(prediction.seconds)} {provenance_word(predictor)} on {predictor.device.name} "
        f"({kind} {format_latency(prediction.low)} to {format_latency(prediction.high)})"
    )


def warm_text(prediction: Prediction) -> str:
    """What a small network takes where nothing else runs between its images."""
    if prediction.warm_seconds is None:
        return ""
    return f"; about {format_latency(prediction.warm_seconds)} in a loop of its own, where it stays in the caches"


def estimated_text(kernels: Sequence[Kernel], predictor: AnyPredictor, prediction: Prediction) -> str:
    """The share of a latency that a measured table says nothing about."""
    share = prediction.estimated_seconds / prediction.seconds
    present = {kernel.op for kernel in kernels}
    ops = ", ".join(op for op in predictor.conditions["estimated_ops"] if op in present)
    return f"{share:.1%} of it estimated from bytes, since the table has no {ops}"


def format_network(title: str, kernels: Sequence[Kernel], predictor: AnyPredictor, *, layers: bool) -> str:
    """Predicted latency of a network: by part, and by kernel with `layers`."""
    prediction = predict(kernels, predictor)
    cost = total_cost(kernels)
    lines = [
        labelled("network", title),
        labelled("device", predictor.description),
        labelled("cost", f"{format_count(cost.params)} parameters, {format_count(cost.flops)} FLOPs"),
        *_scores(kernels, cost.layers),
        labelled("latency", format_prediction(kernels, predictor, prediction)),
        "",
    ]
    rows = [["part", f"ms {provenance_word(predictor)}", "share"]]
    for part, seconds in prediction.parts.items():
        rows.append([part, f"{seconds * 1e3:.4f}", f"{seconds / prediction.seconds:.1%}"])
    if predictor.network_seconds:
        rows.append(["per network", f"{predictor.network_seconds * 1e3:.4f}", ""])
    lines.append(columns([*rows, ["whole", f"{prediction.seconds * 1e3:.4f}", "100.0%"]]))
    if layers:
        kinds = ["dwconv" if is_depthwise(kernel) else kernel.op for kernel in kernels]
        lines += ["", kernel_table("op", kernels, kinds, prediction)]
    return "\n".join(lines)


def _scores(kernels: Sequence[Kernel], layers: int) -> list[str]:
    """Scores of a backbone with the published weights; nothing for a network whose main path is not known."""
    if not layers:
        return []
    terms = score_terms(kernels)
    values = f"mae {float(mae_score(terms)):.4f}, deepmad {float(deepmad_score(terms)):.4f}"
    return [labelled("score", f"{values}, effectiveness {float(effectiveness(terms)):.4f}, {layers} layers")]


def kernel_table(heading: str, kernels: Sequence[Kernel], kinds: Sequence[str], prediction: Prediction) -> str:
    """A row for each kernel; what it is stands under `heading`."""
    rows = [["kernel", heading, "in", "out", "k", "s", "size", "MFLOPs", "us", "share"]]
    for kernel, kind, seconds in zip(kernels, kinds, prediction.kernel_seconds, strict=True):
        shape = [kernel.in_channels, kernel.out_channels, kernel.kernel, kernel.stride]
        size, flops = f"{kernel.out_height}x{kernel.out_width}", kernel_flops(kernel) / 1e6
        share = f"{seconds / prediction.seconds:.1%}"
        rows.append([kernel.name, kind, *map(str, shape), size, f"{flops:.1f}", f"{seconds * 1e6:.2f}", share])
    return columns(rows, left=2)


def latency_document(predictor: AnyPredictor, prediction: Prediction) -> dict[str, Any]:
    """A predicted latency as JSON data: what it is called, milliseconds of the whole and of its parts."""
    warm = prediction.warm_seconds
    return {
        "kind": provenance_word(predictor),
        "ms": prediction.seconds * 1e3,
        "interval_90_ms": [prediction.low * 1e3, prediction.high * 1e3],
        **({} if warm is None else {"loop_ms": warm * 1e3}),
        "parts_ms": {part: seconds * 1e3 for part, seconds in prediction.parts.items()},
    }


def network_document(kernels: Sequence[Kernel], predictor: AnyPredictor, *, layers: bool) -> dict[str, Any]:
    """What `format_network` prints, as JSON data."""
    prediction = predict(kernels, predictor)
    document = latency_document(predictor, prediction) | {"conditions": predictor.conditions}
    if layers:
        rows = zip(kernels, prediction.kernel_seconds, strict=True)
        document["kernels_us"] = [{"name": kernel.name, "op": kernel.op, "us": s * 1e6} for kernel, s in rows]
    return document
