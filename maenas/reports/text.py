"""Results as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from maenas.cost import total_cost
from maenas.errors import printable_line
from maenas.latency.predictor import AnyPredictor, Prediction, predict, provenance_word
from maenas.latency.table import LatencyTable
from maenas.lowering import Kernel, is_depthwise, lower
from maenas.nas.depth_bound import PUBLISHED_LAYERS, in_scope
from maenas.nas.necks import NeckOption, NeckSearch
from maenas.nas.pareto import Front
from maenas.nas.run import Candidate, SearchResult, Setup
from maenas.presets import PROFILES, get_neck_preset
from maenas.score import deepmad_score, effectiveness, mae_score, score_of, score_terms
from maenas.score_names import SCORES, ScoreName
from maenas.spec import BackboneSpec, published_spec
from maenas.units import format_bytes, format_count, format_latency

if TYPE_CHECKING:
    from maenas.profiler.verify import Verified

WIDTH = 11
DEPTHWISE_SHARE = 0.1  # of a latency, above which its prediction carries a caution


def columns(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows of cells as aligned text: the first `left` columns to the left, the others to the right.

    Cells may come from any file: control characters are shown as escapes.
    """
    rows = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        text = [cell.ljust(w) if number < left else cell.rjust(w) for number, (cell, w) in enumerate(cells)]
        lines.append("  ".join(text).rstrip())
    return "\n".join(lines)


def _line(label: str, text: str) -> str:
    return f"{label:<{WIDTH}}{text}"


def format_setup(setup: Setup) -> str:
    """What is about to be searched, under which limits."""
    request, space, depths = setup.request, setup.space, setup.depths
    counted = "backbone + neck + head" if request.scope == "detector" else "backbone only"
    lines = [_line("space", f"{space.name}: {space.description} ({space.size:.2e} architectures)")]
    lines += [_line("device", predictor.description) for predictor in setup.predictors]
    limits = [f"latency {format_latency(s)} on {d}" for d, s in zip(request.devices, request.latency_s, strict=False)]
    if request.max_params is not None:
        limits.append(f"{format_count(request.max_params)} parameters")
    if request.max_flops is not None:
        limits.append(f"{format_count(request.max_flops)} FLOPs")
    if request.max_activation_bytes is not None:
        limits.append(f"{format_bytes(request.max_activation_bytes)} of activations")
    with_nms = [d for d, p in zip(request.devices, setup.predictors, strict=False) if p.conditions.get("nms_included")]
    nms = f"NMS included on {', '.join(with_nms)}" if with_nms else "NMS not included"
    lines.append(_line("budget", f"{', '.join(limits) or 'layers only'}; {counted}, {nms}"))
    size = f"{setup.input_size}x{setup.input_size}, {request.num_classes} classes"
    found = "searched, " if setup.necks is not None else ""
    lines.append(_line("detector", f"{size}; neck {space.neck!r}: {found}{get_neck_preset(space.neck).description}"))
    bounds = [f"at most {depths.max_layers} layers"] if depths.max_layers is not None else []
    bounds.append(f"{'/'.join(map(str, setup.problem.max_depth))} units per stage")
    if depths.max_effectiveness is not None:
        bounds.append(f"effectiveness up to {depths.max_effectiveness:g}")
    lines.append(_line("depth", f"{', '.join(bounds)}; {depths.reason}"))
    lines += score_lines(request.score)
    return "\n".join(lines if setup.necks is None else [*lines, "", *_neck_lines(setup.necks)])


def _neck_lines(necks: NeckSearch) -> list[str]:
    """The best backbone behind every neck of the grid: its score, and its share of the modelled time."""

    def cell(option: NeckOption) -> str:
        if option.solution is None:
            return "none fits"
        mark = "*" if option is necks.chosen else " "
        score = format_count(option.score) if necks.score == "flops" else f"{option.score:.2f}"
        return f"{score} {option.share:.0%}{mark}"

    rows = [["neck", *(f"{name} widths" for name in PROFILES)]]
    for depth in sorted({option.depth for option in necks.options}):
        cells = {option.profile: cell(option) for option in necks.options if option.depth == depth}
        rows.append([f"depth {depth}", *(cells[name] for name in PROFILES)])
    text = f"{necks.score} score of the best backbone behind each, and the backbone's share of the modelled time"
    return [columns(rows), _line("chosen", f"{necks.chosen.name}: {necks.reason}"), _line("", f"({text})")]


def format_result(result: SearchResult) -> str:
    """The winner, how much of each budget it uses, and how good it could have been."""
    setup, winner = result.setup, result.candidates[0]
    lines = [_network_table(winner, setup.predictors), ""]
    lines.append(_line("score", _score_text(setup.request.score, winner)))
    lines.append(_line("optimum", _optimality(result)))
    for budget in result.budgets:
        lines.append(_line("uses", f"{budget.name}: {budget.text}"))
    kernels = [kernel for kernel in lower(winner.spec) if in_scope(kernel, setup.request.scope)]
    for predictor, prediction in zip(setup.predictors, winner.predictions, strict=True):
        lines.append(_line("latency", format_prediction(kernels, predictor, prediction)))
    reached = ", ".join(result.on_bound) or "no limit on depth"
    lines.append(_line("sits on", reached))
    lines += _compared(setup)
    return "\n".join(lines)


def format_verified(row: Verified) -> str:
    """One candidate of a search, measured."""
    predicted = row.candidate.predictions[0].seconds
    fits = "" if row.within else ": over the budget, dropped"
    text = f"{format_latency(row.timing.median_s)}, {format_latency(predicted)} predicted"
    return _line("measured", f"{text} (score {row.candidate.score:.4f}){fits}")


def score_lines(name: ScoreName) -> list[str]:
    """A score's equation and source, and what evidence says about it."""
    about = SCORES[name]
    evidence = f"{about.evidence_text} (docs/score.md)"
    return [_line("score", f"{name}: {about.equation} ({about.source})"), _line("evidence", evidence)]


def _score_text(name: ScoreName, winner: Candidate) -> str:
    """The score searched for, and the MAE score beside it."""
    values = [f"{name} {winner.score:.4f}" if name != "flops" else f"flops {format_count(winner.score)} FLOPs"]
    if name != "mae":
        values.append(f"mae {winner.mae:.4f}")
    return f"{'; '.join(values)}; effectiveness {winner.effectiveness:.4f}"


def format_prediction(kernels: Sequence[Kernel], predictor: AnyPredictor, prediction: Prediction) -> str:
    """One predicted latency with its interval and what it is worth."""
    kind = "90 % interval" if predictor.calibrated else "90 % range over devices"
    text = (
        f"{format_latency(prediction.seconds)} {provenance_word(predictor)} on {predictor.device.name} "
        f"({kind} {format_latency(prediction.low)} to {format_latency(prediction.high)})"
    )
    if prediction.estimated_seconds:
        text += f"; {estimated_text(kernels, predictor, prediction)}"
    rows = zip(kernels, prediction.kernel_seconds, strict=True)
    depthwise = sum(seconds for kernel, seconds in rows if is_depthwise(kernel)) / prediction.seconds
    if depthwise > DEPTHWISE_SHARE and predictor.conditions["kind"] == "modelled":
        text += f"; {depthwise:.0%} of it depthwise convolutions, which the calibration hardly covers"
    return text


def estimated_text(kernels: Sequence[Kernel], predictor: AnyPredictor, prediction: Prediction) -> str:
    """The share of a latency that a measured table says nothing about."""
    share = prediction.estimated_seconds / prediction.seconds
    present = {kernel.op for kernel in kernels}
    ops = ", ".join(op for op in predictor.conditions["estimated_ops"] if op in present)
    return f"{share:.1%} of it estimated from bytes, since the table has no {ops}"


def _optimality(result: SearchResult) -> str:
    if result.gap is None:
        return "unknown: this score is not additive over stages, so that only evolution can search it"
    if not result.proven:
        return f"within {result.gap:.3%} of an upper bound; the proof was given up as too large"
    if result.gap == 0:
        return "proven: no architecture of the space scores higher within these limits (gap 0)"
    hint = "; --solver exact writes that one" if result.setup.request.top_k == 1 else ""
    return f"{result.gap:.4%} below the proven optimum {result.optimum:.4f}{hint}"


def _network_table(winner: Candidate, predictors: Sequence[AnyPredictor]) -> str:
    kernels = lower(winner.spec)
    groups = _groups(winner.spec.backbone, kernels)
    header = ["part", "out", "btn", "k", "s", "units", "params", "GFLOPs", *(f"ms {p.device.id}" for p in predictors)]
    rows = [header]
    for label, shape, members in groups:
        cost = total_cost(members)
        seconds = [sum(float(p.kernel_seconds(k)) for k in members) for p in predictors]
        costs = [format_count(cost.params), f"{cost.flops / 1e9:.2f}", *(f"{s * 1e3:.3f}" for s in seconds)]
        rows.append([label, *shape, *costs])
    cost = total_cost(kernels)
    totals = [predict(kernels, predictor).seconds for predictor in predictors]
    sums = [format_count(cost.params), f"{cost.flops / 1e9:.2f}", *(f"{s * 1e3:.3f}" for s in totals)]
    return columns([*rows, ["detector", "", "", "", "", "", *sums]])


def _groups(backbone: BackboneSpec, kernels: Sequence[Kernel]) -> list[tuple[str, list[str], list[Kernel]]]:
    stem = backbone.stem
    groups = [(f"stem {stem.kind}", [str(stem.out_channels), "", str(stem.kernel), "2", ""], 0)]
    for number, stage in enumerate(backbone.stages, start=1):
        shape = [stage.out_channels, stage.bottleneck, stage.kernel, stage.stride, stage.depth]
        groups.append((f"stage {number} {stage.block}", [str(value) for value in shape], number))
    rows = [(label, shape, [k for k in kernels if k.stage == number]) for label, shape, number in groups]
    for part in ("neck", "head"):
        rows.append((part, [""] * 5, [k for k in kernels if k.name.startswith(f"{part}.")]))
    return rows


def _compared(setup: Setup) -> list[str]:
    """Published backbones of this space, under the same model."""
    score_name = setup.request.score
    lines = []
    for name, _ in PUBLISHED_LAYERS:
        spec = published_spec(name)
        if setup.space.contains(spec.backbone) and setup.input_size == spec.input.height:
            kernels = [kernel for kernel in lower(spec) if in_scope(kernel, setup.request.scope)]
            score = score_of(score_name, kernels, setup.space.score_weights)
            shown = f"{score:.4f}" if score_name != "flops" else format_count(score)
            times = ", ".join(
                f"{format_latency(predict(kernels, p).seconds)} on {p.device.id}" for p in setup.predictors
            )
            depths = [stage.depth for stage in spec.backbone.stages]
            layers = total_cost(kernels).layers
            deeper = layers > (setup.depths.max_layers or layers) or any(
                depth > most for depth, most in zip(depths, setup.problem.max_depth, strict=True)
            )
            note = "; outside this depth bound" if deeper else ""
            lines.append(_line("compare", f"published {name}: {score_name} {shown}, {times} (by the same model{note})"))
    return lines


def format_network(title: str, kernels: Sequence[Kernel], predictor: AnyPredictor, *, layers: bool) -> str:
    """Predicted latency of a network: by part, and by kernel with `layers`."""
    prediction = predict(kernels, predictor)
    cost = total_cost(kernels)
    lines = [
        _line("network", title),
        _line("device", predictor.description),
        _line("cost", f"{format_count(cost.params)} parameters, {format_count(cost.flops)} FLOPs"),
        *_scores(kernels, cost.layers),
        _line("latency", format_prediction(kernels, predictor, prediction)),
        "",
    ]
    rows = [["part", f"ms {provenance_word(predictor)}", "share"]]
    for part, seconds in prediction.parts.items():
        rows.append([part, f"{seconds * 1e3:.4f}", f"{seconds / prediction.seconds:.1%}"])
    if predictor.network_seconds:
        rows.append(["per network", f"{predictor.network_seconds * 1e3:.4f}", ""])
    lines.append(columns([*rows, ["whole", f"{prediction.seconds * 1e3:.4f}", "100.0%"]]))
    if layers:
        lines += ["", _kernel_table(kernels, prediction)]
    return "\n".join(lines)


def _scores(kernels: Sequence[Kernel], layers: int) -> list[str]:
    """Scores of a backbone with the published weights; nothing for a network whose main path is not known."""
    if not layers:
        return []
    terms = score_terms(kernels)
    values = f"mae {float(mae_score(terms)):.4f}, deepmad {float(deepmad_score(terms)):.4f}"
    return [_line("score", f"{values}, effectiveness {float(effectiveness(terms)):.4f}, {layers} layers")]


def _kernel_table(kernels: Sequence[Kernel], prediction: Prediction) -> str:
    rows = [["kernel", "op", "in", "out", "k", "s", "size", "MFLOPs", "us", "share"]]
    for kernel, seconds in zip(kernels, prediction.kernel_seconds, strict=True):
        op = "dwconv" if is_depthwise(kernel) else kernel.op
        shape = [kernel.in_channels, kernel.out_channels, kernel.kernel, kernel.stride]
        size = f"{kernel.out_height}x{kernel.out_width}"
        flops = f"{total_cost([kernel]).flops / 1e6:.1f}"
        share = f"{seconds / prediction.seconds:.1%}"
        rows.append([kernel.name, op, *map(str, shape), size, flops, f"{seconds * 1e6:.2f}", share])
    return columns(rows)


def network_document(kernels: Sequence[Kernel], predictor: AnyPredictor, *, layers: bool) -> dict[str, Any]:
    """What `format_network` prints, as JSON data."""
    prediction = predict(kernels, predictor)
    document: dict[str, Any] = {
        "kind": provenance_word(predictor),
        "ms": prediction.seconds * 1e3,
        "interval_90_ms": [prediction.low * 1e3, prediction.high * 1e3],
        "parts_ms": {part: seconds * 1e3 for part, seconds in prediction.parts.items()},
        "conditions": predictor.conditions,
    }
    if layers:
        rows = zip(kernels, prediction.kernel_seconds, strict=True)
        document["kernels_us"] = [{"name": kernel.name, "op": kernel.op, "us": s * 1e6} for kernel, s in rows]
    return document


def format_calibration(table: LatencyTable) -> str:
    """Constants, residuals and leave-one-out errors of a calibrated table."""
    record = table.calibration
    constants = ", ".join(f"{key} {value:.4g}" for key, value in asdict(table.constants).items())
    rows = [["network", "measured ms", "fitted ms", "error", "left out ms", "error"]]
    for r in record.residuals:
        name = r.network if r.scored else f"{r.network} (not scored)"
        fitted = [f"{r.fitted_ms:.3f}", f"{r.fit_error:+.1%}"]
        rows.append([name, f"{r.measured_ms:.3f}", *fitted, f"{r.left_out_ms:.3f}", f"{r.left_out_error:+.1%}"])
    return "\n".join(
        [
            f"{table.device} {table.setup} ({table.runtime}, {table.precision}, batch {table.batch}), id {table.id}",
            f"constants: {constants}",
            columns(rows),
            f"mean absolute error {record.mean_error_fit:.2%} fitted, {record.mean_error_left_out:.2%} leave-one-out",
        ]
    )


def format_front(front: Front, count: int) -> str:
    """At most `count` points, evenly spread, and what the front is."""
    picked = np.unique(np.linspace(0, len(front.points) - 1, max(2, count)).round().astype(int))
    rows = [
        [
            f"ms {provenance_word(front.setup.predictors[0])}",
            front.setup.request.score,
            "layers up to",
            "widths",
            "units",
        ]
    ]
    for index in picked:
        point = front.points[index]
        backbone = front.setup.space.spec_of(point.solution.genome)
        widths = "-".join(map(str, [backbone.stem.out_channels, *(s.out_channels for s in backbone.stages)]))
        units = "/".join(str(stage.depth) for stage in backbone.stages)
        rows.append([f"{point.latency_s * 1e3:.4f}", f"{point.score:.4f}", str(point.max_layers), widths, units])
    status = "proven" if front.proven else "found, but not proven: the search grew too large somewhere"
    necks = front.setup.necks
    found = "" if necks is None else f" (chosen at the highest budget: {necks.reason})"
    return (
        f"{front.setup.predictors[0].description}\n"
        f"neck {front.setup.space.neck}{found}\n"
        f"{len(front.points)} points on the front of {front.setup.space.name} ({status}); {len(picked)} of them:\n\n"
        + columns(rows)
    )
