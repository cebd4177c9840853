"""From a request to searched detectors with their certificate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.latency.predictor import Prediction, predict
from maenas.nas.depth_bound import kernels_in_scope
from maenas.nas.evolution import State, evolve
from maenas.nas.exact import ExactResult, solve
from maenas.nas.genome import Genome
from maenas.nas.problem import evaluate, feasible, scores_of
from maenas.nas.request import Setup, detector_of, limit_shower
from maenas.score import effectiveness, score_of, score_terms
from maenas.spec import DetectorSpec
from maenas.units import format_bytes, format_count, format_latency


@dataclass(frozen=True)
class Budget:
    """One limit and how much of it the winner uses, in `unit`."""

    name: str
    limit: float
    used: float
    unit: str

    @property
    def text(self) -> str:
        """`used of limit` for people."""
        show: Callable[[float], str] = {"s": format_latency, "bytes": format_bytes}.get(self.unit, format_count)  # type: ignore[assignment]
        return f"{show(self.used)} of {show(self.limit)} ({self.used / self.limit:.1%})"


@dataclass(frozen=True)
class Candidate:
    """One architecture found: `score` in the units of its equation, and its MAE score, whatever was searched for."""

    spec: DetectorSpec
    score: float
    mae: float
    effectiveness: float
    params: int
    flops: int
    activation_bytes: int
    layers: int
    predictions: tuple[Prediction, ...]  # one a device


@dataclass(frozen=True)
class SearchResult:
    """Outcome of a search: candidates best first, and what is known about how good they could be.

    `gap` is (bound - score) / |bound| against the proven optimum, or against an upper bound if `proven` is false; None
    where the score is not additive, so that there is no bound.
    """

    setup: Setup
    candidates: tuple[Candidate, ...]
    budgets: tuple[Budget, ...]
    optimum: float | None
    gap: float | None
    proven: bool
    evaluated: int  # candidates in this run
    certificate: ExactResult | None
    on_bound: tuple[str, ...]  # depth limits that the winner sits on


def run(
    setup: Setup,
    *,
    on_generation: Callable[[State], None] | None = None,
    state: State | None = None,
    on_proof: Callable[[], None] | None = None,
) -> SearchResult:
    """Search. `state` continues an interrupted evolution; `on_proof` is called when the exact solver begins."""
    problem, request = setup.problem, setup.request
    found: list[Genome] = []
    evaluated = 0
    if request.solver == "evolution" or problem.objective is None:
        proven = _proven_before(setup, request.top_k)
        enough = math.inf if proven is None else proven.upper_bound  # the evolution ends where it has found it
        final = evolve(problem, request.evolution, state, on_generation, enough=enough)
        evaluated = final.evaluated - (state.evaluated if state else 0)
        found = list(final.genes.T[feasible(problem, final.genes.T)][: request.top_k])
    certificate = None
    if problem.objective is not None:
        if on_proof is not None:
            on_proof()
        wanted = request.top_k if request.solver == "exact" else 1
        certificate = _certificate(setup, wanted, found)
        if request.solver == "exact" and not certificate.proven:  # too large without good solutions to begin from
            final = evolve(problem, request.evolution, state, on_generation)
            evaluated = final.evaluated
            certificate = solve(problem, k=wanted, known=list(final.genes.T))
        if request.solver == "exact" or not found:
            found = [solution.genome for solution in certificate.solutions]
    if not found:
        limits = [f"{c.name} {limit_shower(setup, c.name)(c.limit)}" for c in problem.constraints]
        limits += [] if problem.max_effectiveness is None else [f"effectiveness {problem.max_effectiveness:g}"]
        proven = certificate is not None and certificate.proven
        raise MaenasError(
            f"{'there is no architecture' if proven else 'the search found no architecture'} of the space "
            f"{setup.space.name} that meets all limits together ({', '.join(limits)}); raise one of them"
        )
    return _result(setup, np.array(found), evaluated, certificate)


def _proven_before(setup: Setup, k: int) -> ExactResult | None:
    """What the search for the neck has proved of this very problem, where the best architecture is enough."""
    necks = setup.necks
    if k > 1 or necks is None or necks.score != setup.request.score or not necks.chosen.certificate.proven:
        return None
    return necks.chosen.certificate


def _certificate(setup: Setup, k: int, found: list[Genome]) -> ExactResult:
    """The k best, proven."""
    known = found if setup.necks is None else [*found, *setup.necks.genomes]
    return _proven_before(setup, k) or solve(setup.problem, k=k, known=known)


def _result(setup: Setup, genomes: np.ndarray, evaluated: int, certificate: ExactResult | None) -> SearchResult:
    problem = setup.problem
    assert feasible(problem, genomes).all()
    scores = scores_of(problem, genomes)
    unit = 1.0 if setup.request.score == "flops" else 1e-9
    candidates = tuple(_candidate(setup, genome, score * unit) for genome, score in zip(genomes, scores, strict=True))
    optimum, gap, proven = None, None, False
    if certificate is not None:
        optimum, proven = certificate.upper_bound * unit, certificate.proven
        gap = gap_to(certificate.upper_bound, float(scores[0]))
    return SearchResult(
        setup,
        candidates,
        _usage(setup, genomes[:1]),
        optimum,
        gap,
        proven,
        evaluated,
        certificate,
        _on_bound(setup, candidates[0]),
    )


def gap_to(bound: float, score: float) -> float:
    """Relative distance of a score to a bound above it."""
    return max(0.0, (bound - score) / abs(bound))


def reordered(result: SearchResult, candidates: tuple[Candidate, ...]) -> SearchResult:
    """The same search with another order or choice of its candidates."""
    winner = candidates[0]
    genome = result.setup.space.genome_of(winner.spec.backbone)
    gap = None if result.optimum is None else gap_to(result.optimum, winner.score)
    return replace(
        result,
        candidates=candidates,
        budgets=_usage(result.setup, genome[None, :]),
        gap=gap,
        on_bound=_on_bound(result.setup, winner),
    )


def _candidate(setup: Setup, genome: Genome, score: float) -> Candidate:
    spec = detector_of(setup, genome)
    kernels = kernels_in_scope(spec, setup.request.scope)
    cost = total_cost(kernels)
    size = setup.element_bytes
    return Candidate(
        spec,
        float(score),
        score_of("mae", kernels),
        float(effectiveness(score_terms(kernels))),
        cost.params,
        cost.flops,
        cost.activations * size,
        cost.layers,
        tuple(predict(kernels, predictor) for predictor in setup.predictors),
    )


def _usage(setup: Setup, genome: np.ndarray) -> tuple[Budget, ...]:
    rows = []
    size = setup.element_bytes
    for quantity, limit in setup.budgets:
        used = float(evaluate(setup.problem.tables.quantities[quantity.name], setup.problem.tables, genome)[0])
        if quantity.name == "activations":
            rows.append(Budget("activation memory", limit * size, used * size, "bytes"))
        else:
            rows.append(Budget(quantity.name, limit, used * quantity.unit, "s" if quantity.unit < 1 else "count"))
    return tuple(rows)


def _on_bound(setup: Setup, winner: Candidate) -> tuple[str, ...]:
    """Depth limits that one more unit anywhere, or in that stage, would break."""
    depths, stages = setup.depths, winner.spec.backbone.stages
    reached = []
    unit = {"k1kxk1": 3, "k1dwk1": 3}.get(setup.space.block, 2)
    if depths.max_layers is not None and winner.layers + unit > depths.max_layers:
        reached.append(f"layers ({winner.layers} of {depths.max_layers})")
    full = [
        n for n, (stage, most) in enumerate(zip(stages, depths.max_depth, strict=True), start=1) if stage.depth >= most
    ]
    if full:
        reached.append(f"units per stage (stage {', '.join(map(str, full))})")
    if depths.max_effectiveness is not None and winner.effectiveness > 0.99 * depths.max_effectiveness:
        reached.append(f"effectiveness ({winner.effectiveness:.4f} of {depths.max_effectiveness:g})")
    return tuple(reached)
