"""Detectors of one latency that differ in what matters: what a race between them can decide and a score cannot.

A score makes a shortlist; training decides. The list holds proven optima (under each additive score, with fewer and
more layers, behind other necks), then detectors unlike all of these, and the published detector of the nearest
latency as control.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maenas import __version__
from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.latency.predictor import predict
from maenas.lowering import lower
from maenas.nas.evolution import EvolutionSettings, evolve
from maenas.nas.exact import solve
from maenas.nas.genome import Genome
from maenas.nas.necks import AUTO
from maenas.nas.request import Request, Setup, detector_of, prepare
from maenas.nas.stage_tables import QuantityTables, StageTable
from maenas.nas.written import request_id
from maenas.score import mae_score, score_terms
from maenas.score_names import SCORES
from maenas.spec import DetectorSpec, published_specs
from maenas.units import format_latency

ALIKE = 1.5  # how far off a control of the same blocks may be before one of other blocks is taken
WITHIN = 0.02  # of the budget: how far the latencies of a list may lie apart
LAYER_FACTORS = (0.75, 1.25)
MOST_NECKS = 3
UNLIKE = 32  # searches with random weights of the stages, to find what is unlike the optima


@dataclass(frozen=True)
class ShortlistEntry:
    """One detector of a shortlist; `seconds` by the first device's model, `share` of them in the backbone."""

    spec: DetectorSpec
    kind: Literal["optimum", "unlike", "control"]
    reason: str
    seconds: float
    share: float
    layers: int
    mae: float

    @property
    def features(self) -> NDArray[np.float64]:
        """What distances are measured in: log layers, log widths, log units, and shares of the time."""
        backbone, neck = self.spec.backbone, self.spec.neck
        widths = [stage.out_channels for stage in backbone.stages]
        units = [stage.depth for stage in backbone.stages]
        return np.r_[np.log(self.layers), np.log(widths) / 2, np.log(units) / 2, 4 * self.share, np.log(neck.depth)]


def shortlist(request: Request, count: int) -> tuple[ShortlistEntry, ...]:
    """`count` different detectors within 2 % of the request's latency budget on the first device, best first.

    The published control, the last one, may lie further off. Raises `MaenasError` where there is no latency budget, or
    fewer such detectors are found.
    """
    if not request.latency_s or request.scope != "detector":
        raise MaenasError("a shortlist is of one latency of whole detectors: give --budget 3ms, and no other --scope")
    if count < 2:
        raise MaenasError(f"a shortlist of {count}; it has at least 2: the optimum and the published control")
    setup = prepare(replace(request, neck=request.neck or AUTO))
    control = _control(setup)
    chosen: dict[str, ShortlistEntry] = {}
    for entry in _optima(setup):
        if _fits(entry, setup) and entry.spec.id != control.spec.id:
            chosen.setdefault(entry.spec.id, entry)
        if len(chosen) == count - 1:
            break
    pool = {entry.spec.id: entry for entry in _unlike(setup) if _fits(entry, setup)} if len(chosen) < count - 1 else {}
    while len(chosen) < count - 1:
        others = [entry for key, entry in pool.items() if key not in chosen]
        if not others:
            raise MaenasError(
                f"a shortlist of {count}, but only {len(chosen) + 1} different detectors within {WITHIN:.0%} of "
                f"{format_latency(request.latency_s[0])} were found; ask for fewer"
            )
        taken = [entry.features for entry in chosen.values()]
        furthest = max(others, key=lambda e: min(float(np.abs(e.features - t).sum()) for t in taken))
        chosen[furthest.spec.id] = furthest
    return (*chosen.values(), control)


def _entry(setup: Setup, spec: DetectorSpec, kind: Literal["optimum", "unlike", "control"], why: str) -> ShortlistEntry:
    kernels = lower(spec)
    prediction = predict(kernels, setup.predictors[0])
    share = prediction.parts["backbone"] / sum(prediction.parts.values())
    score = float(mae_score(score_terms(kernels)))
    return ShortlistEntry(spec, kind, why, prediction.seconds, share, total_cost(kernels).layers, score)


def _fits(entry: ShortlistEntry, setup: Setup) -> bool:
    return entry.seconds >= (1 - WITHIN) * setup.request.latency_s[0]


def _optimum(setup: Setup, why: str, known: list[Genome]) -> Iterator[ShortlistEntry]:
    if setup.problem.objective is None:
        return
    result = solve(setup.problem, known=known)
    word = "optimum" if result.proven else "best found"
    for solution in result.solutions[:1]:
        yield _entry(setup, detector_of(setup, solution.genome), "optimum", f"{word}: {why}")


def _optima(setup: Setup) -> Iterator[ShortlistEntry]:
    """Proven optima: of the request, of other scores, of other depth limits, behind other necks."""
    request, neck = setup.request, setup.space.neck
    fixed = replace(request, neck=neck, backbone_share=None)
    known = setup.necks.genomes if setup.necks is not None else []
    best = list(_optimum(setup, f"{request.score} score, neck {neck}", known))
    yield from best
    for score, about in SCORES.items():
        if about.additive and score != request.score:
            yield from _optimum(prepare(replace(fixed, score=score)), f"{score} score, neck {neck}", known)
    limit = setup.depths.max_layers or max((entry.layers for entry in best), default=None)
    least = total_cost(lower(detector_of(setup, setup.space.smallest))).layers
    factors = [factor for factor in LAYER_FACTORS if factor < 1 or request.max_layers is None]
    for layers in [] if limit is None else [max(least, round(limit * factor)) for factor in factors]:
        other = prepare(replace(fixed, max_layers=layers))
        yield from _optimum(other, f"{request.score} score with at most {layers} layers, neck {neck}", known)
    yield from _behind_other_necks(setup)


def _behind_other_necks(setup: Setup) -> Iterator[ShortlistEntry]:
    """The optima that the search for the neck has proven already, those nearest to the middle of the prior first."""
    necks = setup.necks
    if necks is None:
        return
    inside = [o for o in necks.options if o is not necks.chosen and o.solution is not None]
    ranked = sorted(
        (o for o in inside if not necks.window.miss(o.share)), key=lambda o: abs(o.share - necks.window.middle)
    )
    for option in ranked[:MOST_NECKS]:
        assert option.solution is not None
        other = replace(setup, space=replace(setup.space, neck=option.name))
        spec = detector_of(other, option.solution.genome)
        yield _entry(other, spec, "optimum", f"optimum: {necks.score} score, neck {option.name}, inside the prior too")


def _unlike(setup: Setup) -> Iterator[ShortlistEntry]:
    """Detectors that spend the budget in other stages: the most FLOPs under random weights of the stages."""
    rng = np.random.default_rng(setup.request.seed)
    flops = setup.problem.tables.quantities["flops"]
    for _ in range(UNLIKE):
        weights = np.exp(2 * rng.standard_normal(len(flops.stages)))
        stages = tuple(
            StageTable(np.rint(weight * table.first), np.rint(weight * table.more))
            for weight, table in zip(weights, flops.stages, strict=True)
        )
        objective = QuantityTables(flops.stem, stages, np.zeros(()))
        final = evolve(
            replace(setup.problem, objective=objective), EvolutionSettings(128, 20, int(rng.integers(2**31)))
        )
        if final.fitness[0] > 0:
            stage = int(weights.argmax()) + 1
            why = f"unlike the others: the budget goes to stage {stage} first, no score asked for that"
            yield _entry(setup, detector_of(setup, final.genes[:, 0]), "unlike", why)


def _control(setup: Setup) -> ShortlistEntry:
    """The published detector of the nearest latency at this input size and number of classes.

    One of the space's own blocks, unless all of these are more than `ALIKE` times as slow or as fast as the budget.
    """
    block = setup.space.block
    entries = []
    for name, spec in published_specs(setup.input_size).items():
        own = replace(spec, head=replace(spec.head, num_classes=setup.request.num_classes))
        entries.append(_entry(setup, own, "control", f"control: published {name}, the nearest in latency"))

    def distance(entry: ShortlistEntry) -> float:
        return abs(float(np.log(entry.seconds / setup.request.latency_s[0])))

    alike = [entry for entry in entries if entry.spec.backbone.stages[0].block == block]
    near = [entry for entry in alike if distance(entry) <= np.log(ALIKE)]
    return min(near or entries, key=distance)


def shortlist_provenance(entry: ShortlistEntry, request: Request) -> dict[str, Any]:
    """What the spec file of an entry says about where it comes from."""
    return {
        "made_by": f"maenas {__version__}",
        "request": request_id(request, "shortlist"),
        "shortlist": {
            "kind": entry.kind,
            "reason": entry.reason,
            "device": request.devices[0],
            "budget_ms": float(f"{request.latency_s[0] * 1e3:.8g}"),
            "ms": float(f"{entry.seconds * 1e3:.8g}"),
            "backbone_share": float(f"{entry.share:.8g}"),
            "mae": float(f"{entry.mae:.8g}"),
            "layers": entry.layers,
        },
    }
