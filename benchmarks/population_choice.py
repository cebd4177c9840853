"""Which detectors the population has: unlike ones of one latency, the optimum of every score, a published control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from maenas.cost import kernel_flops, total_cost
from maenas.lowering import lower
from maenas.nas.genome import Genome
from maenas.nas.problem import evaluate, feasible, scores_of
from maenas.nas.request import Request, Setup, detector_of, prepare
from maenas.nas.run import run
from maenas.score_names import ScoreName
from maenas.spec import DetectorSpec, load_spec

NEAR = 0.02  # of the latency, both ways
POOL = 4000  # candidates that the unlike ones are chosen from
ROUND = 100_000  # genomes drawn at a time
ROUNDS = 100
CONTROL = "damo-yolo-t"
SCORES: tuple[str, ...] = get_args(ScoreName)
DRAWN = "drawn"


@dataclass(frozen=True)
class Member:
    """One detector, why it is there (`DRAWN`, "optimum of mae", ...), and what is known before training.

    `measures`: every score, GFLOPs of the backbone and of the detector, parameters in millions, layers, width of the
    last stage, its share of the backbone's operations, and the latency in milliseconds.
    """

    roles: tuple[str, ...]
    spec: DetectorSpec
    measures: dict[str, float]


def choose_members(request: Request, *, count: int, seed: int) -> list[Member]:
    """`count` drawn detectors, the optima and the control, in random order; `request` has one device and one budget."""
    rng = np.random.default_rng(seed)
    setups = prepare_all(request)
    setup = setups[SCORES[0]]
    pool = draw(setup, POOL, rng)
    features = [_features(measure(setup, setups, genome)) for genome in pool]
    chosen = pool[maximin(whitened(np.array(features)), count, first=int(rng.integers(len(pool))))]
    members = [Member((DRAWN,), detector_of(setup, genome), measure(setup, setups, genome)) for genome in chosen]
    members = merged([*members, control(request, setups), *optima(request, setups)])
    return [members[index] for index in rng.permutation(len(members))]


def prepare_all(request: Request) -> dict[str, Setup]:
    """For every score that the tool offers: the space with room for networks `NEAR` above the budget."""
    roomy = replace(request, latency_s=(request.latency_s[0] * (1 + NEAR),))
    return {name: prepare(replace(roomy, score=name)) for name in SCORES}  # type: ignore[arg-type]


def draw(setup: Setup, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` different genomes `[count, 1 + 4 S]` within `NEAR` of the budget, every gene drawn evenly."""
    low = setup.request.latency_s[0] / (1 + NEAR) * (1 - NEAR)
    found: dict[tuple[int, ...], None] = {}
    for _ in range(ROUNDS):
        genomes = np.stack([rng.integers(len(row), size=ROUND) for row in setup.space.choices], axis=1)
        genomes = genomes[feasible(setup.problem, genomes)]
        genomes = genomes[latency_of(setup, genomes) >= low]
        found |= dict.fromkeys(map(tuple, genomes.tolist()))
        if len(found) >= count:
            return np.array(list(found)[:count])
    raise SystemExit(f"only {len(found)} of {ROUND * ROUNDS} genomes of {setup.space.name} are within the latency")


def latency_of(setup: Setup, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Predicted seconds of genomes `[P, 1 + 4 S]`."""
    quantity, _ = setup.budgets[0]
    tables = setup.problem.tables
    return evaluate(tables.quantities[quantity.name], tables, genomes) * quantity.unit


def maximin(points: NDArray[np.float64], count: int, *, first: int) -> list[int]:
    """Indices of `count` of `points [N, F]`: from `first` on, always the one farthest from those taken."""
    if count > len(points):
        raise ValueError(f"{count} of {len(points)} points")
    taken = [first]
    nearest = np.full(len(points), np.inf)
    while len(taken) < count:
        nearest = np.minimum(nearest, np.linalg.norm(points - points[taken[-1]], axis=1))
        nearest[taken] = -1.0
        taken.append(int(nearest.argmax()))
    return taken


def whitened(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """`features [N, F]` turned and stretched until they are uncorrelated with variance 1.

    Score and depth hardly differ in random networks. Here, what little they differ counts as much as what they share,
    and so the choice takes them apart.
    """
    centred = features - features.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(centred, rowvar=False))
    return centred @ vectors / np.sqrt(np.maximum(values, 1e-12))


def _features(measures: dict[str, float]) -> list[float]:
    """What the drawn ones are to differ in. Fixed: a score that is added later does not change the choice."""
    return [measures["mae"], np.log(measures["flops"]), measures["layers"], measures["last_share"]]


def measure(setup: Setup, setups: dict[str, Setup], genome: Genome) -> dict[str, float]:
    """See `Member`."""
    kernels = lower(detector_of(setup, genome))
    backbone = [kernel for kernel in kernels if kernel.stage >= 0]
    spec, cost = setup.space.spec_of(genome), total_cost(kernels)
    flops = float(sum(kernel_flops(kernel) for kernel in backbone))
    last = float(sum(kernel_flops(kernel) for kernel in backbone if kernel.stage == len(spec.stages)))
    scores = {name: float(scores_of(each.problem, genome[None])[0]) * 1e-9 for name, each in setups.items()}
    return scores | {
        "flops": flops * 1e-9,
        "detector_flops": cost.flops * 1e-9,
        "params": cost.params * 1e-6,
        "layers": float(cost.layers),
        "last_width": float(spec.stages[-1].out_channels),
        "last_share": last / flops,
        "latency_ms": float(latency_of(setup, genome[None])[0]) * 1e3,
    }


def optima(request: Request, setups: dict[str, Setup]) -> list[Member]:
    """The best of every score at the latency, with the space's own depth and with no more layers than the control.

    Proven wherever the score is additive.
    """
    layers = total_cost(lower(load_spec(CONTROL).detector)).layers
    members = []
    for name in SCORES:
        for most, suffix in ((None, ""), (layers, f", {layers} layers")):
            asked = replace(request, score=name, max_layers=most)  # type: ignore[arg-type]
            result = run(prepare(asked))
            proof = "" if result.proven else ", not proven"
            genome = result.setup.space.genome_of(result.candidates[0].spec.backbone)
            measures = measure(result.setup, setups, genome)
            members.append(Member((f"optimum of {name}{suffix}{proof}",), result.candidates[0].spec, measures))
    return members


def control(request: Request, setups: dict[str, Setup]) -> Member:
    """The published detector with its widths scaled until it takes the latency, every gene moved to the nearest choice.

    Scaled by 1 it is the published backbone itself, where the space holds it.
    """
    setup = setups[SCORES[0]]
    stages = load_spec(CONTROL).detector.backbone.stages
    stem = load_spec(CONTROL).detector.backbone.stem.out_channels
    genomes = []
    for factor in np.geomspace(0.05, 2, 2000):
        values = [stem * factor]
        for stage in stages:
            values += [stage.out_channels * factor, stage.kernel, stage.bottleneck * factor, stage.depth]
        genomes.append([_nearest(row, value) for row, value in zip(setup.space.choices, values, strict=True)])
    fitting = np.unique(np.array(genomes), axis=0)
    fitting = fitting[feasible(setup.problem, fitting)]
    if not len(fitting):
        raise SystemExit(f"no {CONTROL} of another width lies in {setup.space.name} at this latency")
    best = fitting[np.abs(latency_of(setup, fitting) - request.latency_s[0]).argmin()]
    return Member((f"like {CONTROL}",), detector_of(setup, best), measure(setup, setups, best))


def _nearest(row: Sequence[int], value: float) -> int:
    return int(np.abs(np.array(row) - value).argmin())


def merged(members: Sequence[Member]) -> list[Member]:
    """One member for each spec, with the roles of all."""
    by_id: dict[str, Member] = {}
    for member in members:
        same = by_id.setdefault(member.spec.id, member)
        roles = tuple(dict.fromkeys(same.roles + member.roles))
        by_id[member.spec.id] = replace(same, roles=roles)
    return list(by_id.values())
