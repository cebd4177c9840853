"""A search as text: its limits, its winner, and how good that could have been."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maenas.cost import total_cost
from maenas.kernels import Kernel
from maenas.latency.predictor import AnyPredictor, predict
from maenas.lowering import lower
from maenas.nas.depth_bound import PUBLISHED_LAYERS, kernels_in_scope
from maenas.nas.necks import NeckOption, NeckSearch
from maenas.nas.request import Setup
from maenas.nas.run import Candidate, SearchResult
from maenas.presets import PROFILES, get_neck_preset
from maenas.reports.prediction_text import format_prediction
from maenas.reports.text import columns, labelled
from maenas.score import MAE_WEIGHTS, score_of
from maenas.score_names import SCORES, ScoreName
from maenas.spec import BackboneSpec, published_spec
from maenas.units import format_bytes, format_count, format_latency, number_of

if TYPE_CHECKING:
    from maenas.profiler.verify import Verified


def format_setup(setup: Setup) -> str:
    """What is about to be searched, under which limits."""
    request, space, depths = setup.request, setup.space, setup.depths
    counted = "backbone + neck + head" if request.scope == "detector" else "backbone only"
    lines = [labelled("space", f"{space.name}: {space.description} ({space.size:.2e} architectures)")]
    lines += [labelled("device", predictor.description) for predictor in setup.predictors]
    limits = [f"latency {format_latency(s)} on {d}" for d, s in zip(request.devices, request.latency_s, strict=False)]
    if request.max_params is not None:
        limits.append(f"{format_count(request.max_params)} parameters")
    if request.max_flops is not None:
        limits.append(f"{format_count(request.max_flops)} FLOPs")
    if request.max_activation_bytes is not None:
        limits.append(f"{format_bytes(request.max_activation_bytes)} of activations")
    with_nms = [d for d, p in zip(request.devices, setup.predictors, strict=False) if p.conditions.get("nms_included")]
    nms = f"NMS included on {', '.join(with_nms)}" if with_nms else "NMS not included"
    lines.append(labelled("budget", f"{', '.join(limits) or 'layers only'}; {counted}, {nms}"))
    size = f"{setup.input_size}x{setup.input_size}, {number_of(request.num_classes, 'class')}"
    found = "searched, " if setup.necks is not None else ""
    lines.append(labelled("detector", f"{size}; neck {space.neck!r}: {found}{get_neck_preset(space.neck).description}"))
    bounds = [f"at most {depths.max_layers} layers"] if depths.max_layers is not None else []
    bounds.append(f"{'/'.join(map(str, setup.problem.max_depth))} units per stage")
    if depths.max_effectiveness is not None:
        bounds.append(f"effectiveness up to {depths.max_effectiveness:g}")
    lines.append(labelled("depth", f"{', '.join(bounds)}; {depths.reason}"))
    lines += score_lines(request.score, space.score_weights)
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
    return [columns(rows), labelled("chosen", f"{necks.chosen.name}: {necks.reason}"), labelled("", f"({text})")]


def format_result(result: SearchResult) -> str:
    """The winner, how much of each budget it uses, and how good it could have been."""
    setup, winner = result.setup, result.candidates[0]
    lines = [_network_table(winner, setup.predictors), ""]
    lines.append(labelled("score", _score_text(setup.request.score, winner)))
    lines.append(labelled("optimum", _optimality(result)))
    for budget in result.budgets:
        lines.append(labelled("uses", f"{budget.name}: {budget.text}"))
    kernels = kernels_in_scope(winner.spec, setup.request.scope)
    for predictor, prediction in zip(setup.predictors, winner.predictions, strict=True):
        lines.append(labelled("latency", format_prediction(kernels, predictor, prediction)))
    reached = ", ".join(result.on_bound) or "no limit on depth"
    lines.append(labelled("sits on", reached))
    lines += _compared(setup)
    return "\n".join(lines)


def format_verified(row: Verified) -> str:
    """One candidate of a search, measured."""
    predicted = row.candidate.predictions[0].seconds
    fits = "" if row.within else ": over the budget, dropped"
    text = f"{format_latency(row.timing.median_s)}, {format_latency(predicted)} predicted"
    return labelled("measured", f"{text} (score {row.candidate.score:.4f}){fits}")


def score_lines(name: ScoreName, mae_weights: Sequence[float] = MAE_WEIGHTS) -> list[str]:
    """A score's equation and source, and what evidence says about it; `mae_weights` are the space's."""
    about = SCORES[name]
    if name == "mae" and tuple(mae_weights) != MAE_WEIGHTS:
        weights = ", ".join(f"{weight:g}" for weight in mae_weights)
        return [labelled("score", f"mae: sum of w_i (H_i + ln c_i), w = ({weights}) of the space, and here only")]
    evidence = f"{about.evidence_text} (docs/score.md)"
    return [labelled("score", f"{name}: {about.equation} ({about.source})"), labelled("evidence", evidence)]


def _score_text(name: ScoreName, winner: Candidate) -> str:
    """The score searched for, and the MAE score beside it."""
    values = [f"{name} {winner.score:.4f}" if name != "flops" else f"flops {format_count(winner.score)} FLOPs"]
    if name != "mae":
        values.append(f"mae {winner.mae:.4f}")
    return f"{'; '.join(values)}; effectiveness {winner.effectiveness:.4f}"


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
            kernels = kernels_in_scope(spec, setup.request.scope)
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
            lines.append(
                labelled("compare", f"published {name}: {score_name} {shown}, {times} (by the same model{note})")
            )
    return lines
