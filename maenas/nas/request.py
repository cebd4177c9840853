"""From what is asked for to a problem that the solvers take: spaces, devices and budgets by name, then as tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from maenas.choices import Solver
from maenas.cost import PRECISION_BYTES, total_cost
from maenas.errors import MaenasError
from maenas.latency.predictor import AnyPredictor, load_predictor
from maenas.lowering import lower
from maenas.nas.depth_bound import Depths, resolve_depths
from maenas.nas.evolution import EvolutionSettings
from maenas.nas.exact import cheapest
from maenas.nas.genome import Genome
from maenas.nas.necks import AUTO, PRESET, NeckSearch, ShareWindow, search_necks
from maenas.nas.problem import Constraint, Problem, make_objective
from maenas.nas.space import SearchSpace, load_space, space_id
from maenas.nas.stage_tables import (
    ACTIVATIONS,
    ENTROPY,
    FLOPS,
    LAYERS,
    PARAMS,
    Quantity,
    Scope,
    Tables,
    build_tables,
    latency_quantity,
    score_quantities,
    with_neck,
)
from maenas.presets import detector_around, get_neck_preset, reaching
from maenas.score_names import DEFAULT_SCORE, SCORES, ScoreName
from maenas.spec import DetectorSpec, InputSpec
from maenas.units import format_bytes, format_count, format_latency


@dataclass(frozen=True)
class Request:
    """What is searched for. Budgets in seconds, parameters, FLOPs, bytes; None or empty where there is none."""

    space: str = "k1kx"
    devices: tuple[str, ...] = ("t4",)
    latency_s: tuple[float, ...] = ()  # one for each device
    max_params: int | None = None
    max_flops: int | None = None
    max_activation_bytes: int | None = None
    max_layers: int | None = None
    max_effectiveness: float | None = None
    scope: Scope = "detector"
    solver: Solver = "evolution"
    score: ScoreName = DEFAULT_SCORE
    precision: str | None = None  # None: a measured table's own, else fp16
    batch: int = 1
    input_size: int | None = None
    num_classes: int = 80
    neck: str | None = None  # "auto" searches it; a name; None or "preset": the space's own
    backbone_share: ShareWindow | None = None  # with neck "auto"; None: the prior
    population: int = 512
    generations: int = 120
    seed: int = 0
    top_k: int = 1

    @property
    def evolution(self) -> EvolutionSettings:
        """Settings of the evolution; raises `MaenasError`."""
        return EvolutionSettings(self.population, self.generations, self.seed)


@dataclass(frozen=True)
class Setup:
    """A request with everything that it names loaded."""

    request: Request
    space: SearchSpace
    input_size: int
    predictors: tuple[AnyPredictor, ...]
    depths: Depths
    budgets: tuple[tuple[Quantity, float], ...]  # quantity and limit in its own units
    problem: Problem
    space_id: str  # of the space as loaded, with its own neck
    necks: NeckSearch | None = None  # where the neck was searched, too

    @property
    def element_bytes(self) -> int:
        """Bytes of one activation element of the whole batch, on the first device."""
        return _element_bytes(self.request, self.predictors)


def prepare(request: Request) -> Setup:
    """Load the space, predictors and tables of `request`; raises `MaenasError` for anything impossible in it."""
    if len(request.latency_s) > len(request.devices) or (
        request.latency_s and len(request.latency_s) < len(request.devices)
    ):
        raise MaenasError(
            f"{len(request.latency_s)} latency budget(s) for {len(request.devices)} device(s) "
            f"({', '.join(request.devices)}); give one --budget for each --device, in the same order"
        )
    if request.top_k < 1:
        raise MaenasError(f"top-k is {request.top_k}; it must be at least 1")
    if request.num_classes < 1:
        raise MaenasError(f"classes is {request.num_classes}; it must be at least 1")
    rho = request.max_effectiveness
    if rho is not None and not 0 < rho < math.inf:
        raise MaenasError(f"max-effectiveness is {rho:g}; it must be a number above 0")
    space = load_space(request.space)
    own_id, window = space_id(space), _share_window(request)
    if request.neck not in (None, AUTO, PRESET):
        get_neck_preset(request.neck)
        space = replace(space, neck=request.neck)
    size = space.input_size if request.input_size is None else request.input_size
    InputSpec(size, size)
    predictors = tuple(
        load_predictor(name, precision=request.precision, batch=request.batch) for name in request.devices
    )
    budgets = _budgets(request, predictors)
    if not budgets and request.max_layers is None:
        raise MaenasError("no budget: give --budget 3ms, --max-params 10M, --max-flops 20G or --max-layers 20")
    depths = resolve_depths(
        space,
        budgets,
        input_size=size,
        num_classes=request.num_classes,
        scope=request.scope,
        max_layers=request.max_layers,
        max_effectiveness=request.max_effectiveness,
        prices_layers=SCORES[request.score].prices_layers,
    )
    timed = latency_quantity(predictors[0], f"latency on {request.devices[0]}")
    counted = (
        ENTROPY,
        LAYERS,
        FLOPS,
        PARAMS,
        ACTIVATIONS,
        *score_quantities(request.score),
        *([timed] if request.neck == AUTO else []),
    )
    quantities = list({q.name: q for q in (*counted, *(q for q, _ in budgets))}.values())
    tables = build_tables(space, quantities, input_size=size, num_classes=request.num_classes, scope=request.scope)
    problem, necks = _problem(request, tables, budgets, depths), None
    if request.neck == AUTO:
        necks = search_necks(problem, quantities, timed, window, request.score)
        tables = with_neck(tables, quantities, necks.chosen.name)
        space, problem = tables.space, _problem(request, tables, budgets, depths)
    setup = Setup(request, space, size, predictors, depths, tuple(budgets), problem, own_id, necks)
    if necks is None or necks.chosen.solution is None:
        _require_possible(setup)
    return setup


def _share_window(request: Request) -> ShareWindow:
    if request.backbone_share is None:
        return ShareWindow()
    if request.neck != AUTO:
        raise MaenasError("a backbone share chooses between necks: give it with --neck auto, or no --neck")
    return request.backbone_share


def _budgets(request: Request, predictors: tuple[AnyPredictor, ...]) -> list[tuple[Quantity, float]]:
    names = [f"latency on {device}" for device in request.devices]
    latencies = [latency_quantity(model, name) for model, name in zip(predictors, names, strict=True)]
    budgets: list[tuple[Quantity, float]] = list(zip(latencies, request.latency_s, strict=False))
    size = _element_bytes(request, predictors)
    elements = None if request.max_activation_bytes is None else request.max_activation_bytes // size
    for quantity, limit in ((PARAMS, request.max_params), (FLOPS, request.max_flops), (ACTIVATIONS, elements)):
        if limit is not None:
            budgets.append((quantity, float(limit)))
    return budgets


def _element_bytes(request: Request, predictors: tuple[AnyPredictor, ...]) -> int:
    return PRECISION_BYTES[predictors[0].precision] * request.batch


def _problem(request: Request, tables: Tables, budgets: list[tuple[Quantity, float]], depths: Depths) -> Problem:
    steps = [max(1, math.floor(limit / q.unit + 1e-6)) for q, limit in budgets]  # excesses are shares of the limit
    constraints = [
        Constraint(q.name, tables.quantities[q.name], limit) for (q, _), limit in zip(budgets, steps, strict=True)
    ]
    if depths.max_layers is not None:
        constraints.append(Constraint("layers", tables.quantities["layers"], float(depths.max_layers)))
    objective = make_objective(tables, request.score)
    most = shallowest(tables.space, depths)
    return Problem(tables, objective, tuple(constraints), most, depths.max_effectiveness)


def shallowest(space: SearchSpace, depths: Depths) -> tuple[int, ...]:
    """Most units of each stage: those of `depths`, but no fewer than the space asks for."""
    return tuple(max(limit, stage.min_depth) for limit, stage in zip(depths.max_depth, space.stages, strict=True))


def _require_possible(setup: Setup) -> None:
    """Raise with what the least architecture needs, if one limit alone already shuts every architecture out."""
    for constraint, least in zip(setup.problem.constraints, cheapest(setup.problem), strict=True):
        row = [c.name for c in setup.problem.constraints].index(constraint.name)
        if least.cost[row] > constraint.limit:
            show, cost = limit_shower(setup, constraint.name), float(least.cost[row])
            needed = show(cost)
            if needed == show(constraint.limit):
                needed += f", {100 * (cost / constraint.limit - 1):.2g} % more"
            raise MaenasError(
                f"impossible budget: {constraint.name} is limited to {show(constraint.limit)}, but the least that an "
                f"architecture of the space {setup.space.name} needs is {needed} "
                f"({_describe(setup, least.genome)}). Raise the budget, or choose another space, a smaller --input or "
                "--scope backbone"
            )


def limit_shower(setup: Setup, name: str) -> Callable[[float], str]:
    """What shows a value of the limit `name`, in the steps of its tables, to people."""
    if name.startswith("latency"):
        return lambda steps: format_latency(steps * 1e-12)
    if name == "activations":
        size = setup.element_bytes
        return lambda steps: format_bytes(round(steps * size))
    return lambda steps: format_count(round(steps))


def _describe(setup: Setup, genome: Genome) -> str:
    backbone = setup.space.spec_of(genome)
    return f"widths {backbone.widths_text}, {total_cost(lower(detector_of(setup, genome))).layers} layers"


def detector_of(setup: Setup, genome: Genome) -> DetectorSpec:
    """The whole detector around the backbone of `genome`."""
    backbone, side = setup.space.spec_of(genome), setup.input_size
    preset = reaching(get_neck_preset(setup.space.neck), side)
    return detector_around(backbone, preset, side=side, num_classes=setup.request.num_classes)
