"""Dense per-stage tables of everything that a search adds up, built through the lowering function.

Each quantity is additive over kernels, and a stage of depth d costs its first unit plus (d - 1) times one more unit.
Lowering a stage once with arrays for its widths, at depth 1 and at depth 2, therefore gives the whole table. Neck and
head depend on the backbone through its three tapped widths only, and are lowered with arrays in the same way.

Objective and constraints are integers (score in 1e-9, latency in picoseconds, the rest in units), kept in float64,
which adds them exactly: sums do not depend on their order, nor results on the machine.

Legend: I, O input and output widths of a stage, K kernels, B bottlenecks, D depths, Q constraints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from maenas.choices import Scope
from maenas.cost import kernel_activations, kernel_flops, kernel_layers, kernel_params
from maenas.kernels import IMAGE, Graph, Kernel, Tensor, Width
from maenas.latency.kernel_model import Seconds
from maenas.lowering import lower_head, lower_neck, lower_stage, lower_stem
from maenas.nas.genome import width_gene
from maenas.nas.space import SearchSpace
from maenas.presets import NeckPreset, get_neck_preset, neck_widths, reaching
from maenas.score import BALANCED_POWER, POWER_UNIT, POWERS, kernel_entropy, kernel_power
from maenas.score_names import ScoreName
from maenas.spec import OUTPUT_STRIDES

Table = NDArray[np.float64]
Indices = int | NDArray[np.int64]
Value = float | NDArray[np.int64] | NDArray[np.float64]  # an array where a kernel's widths are arrays

SCORE_UNIT = 1e-9
POWER_STEP = 1e-6  # of sqrt(FLOPs), under the logarithm of the balanced score
SECONDS_UNIT = 1e-12


class LatencyModel(Protocol):
    """What the tables need of a latency predictor."""

    @property
    def network_seconds(self) -> float: ...

    def kernel_seconds(self, kernel: Kernel) -> Seconds: ...


@dataclass(frozen=True)
class Quantity:
    """Something additive over kernels: its name, its value for one kernel, and the part paid once a network.

    `unit` is what one integer step stands for. `backbone_only` quantities ignore neck and head.
    """

    name: str
    of_kernel: Callable[[Kernel], Value]
    unit: float = 1.0
    fixed: float = 0.0
    backbone_only: bool = False

    def steps(self, value: Value) -> Table:
        """`value` in integer steps, as float64."""
        return np.rint(np.asarray(value, dtype=np.float64) / self.unit)


PARAMS = Quantity("params", kernel_params)
FLOPS = Quantity("flops", kernel_flops)
ACTIVATIONS = Quantity("activations", kernel_activations)
LAYERS = Quantity("layers", kernel_layers, backbone_only=True)
ENTROPY = Quantity("entropy", kernel_entropy, unit=SCORE_UNIT, backbone_only=True)


def score_quantities(score: ScoreName) -> list[Quantity]:
    """What the tables of a score hold beside entropy, layers and FLOPs: the powers of FLOPs that it sums."""
    if score in POWERS:
        return [_power(POWERS[score], POWER_UNIT, SCORE_UNIT)]
    return [_power(BALANCED_POWER, 1.0, POWER_STEP)] if score == "balanced" else []


def _power(power: float, of: float, unit: float) -> Quantity:
    return Quantity("power", lambda kernel: kernel_power(kernel, power, of), unit=unit, backbone_only=True)


def latency_quantity(model: LatencyModel, name: str = "latency") -> Quantity:
    """Seconds under `model`, in picosecond steps."""
    return Quantity(name, model.kernel_seconds, unit=SECONDS_UNIT, fixed=model.network_seconds)


@dataclass(frozen=True)
class StageTable:
    """One quantity over one stage: `first` unit (with what comes once a stage) and each `more` unit."""

    first: Table  # [I, O, K, B]
    more: Table  # [O, K, B]

    def total(self, before: Indices, width: Indices, kernel: Indices, bottleneck: Indices, extra: Indices) -> Table:
        """The stage with `extra` units more than one, for index arrays of its choices."""
        return self.first[before, width, kernel, bottleneck] + extra * self.more[width, kernel, bottleneck]


@dataclass(frozen=True)
class Saturation:
    """What a stage adds to a saturating score: share · ln(total), in score steps."""

    stages: tuple[StageTable, ...]
    shares: tuple[float, ...]

    def of_total(self, number: int, total: Table) -> Table:
        """For totals of stage `number` (0-based) in steps."""
        return np.rint(self.shares[number] / SCORE_UNIT * np.log(total * POWER_STEP))


@dataclass(frozen=True)
class QuantityTables:
    """One quantity over a whole network: stem by its width, stages, and neck + head by the tapped widths."""

    stem: Table  # [W0]
    stages: tuple[StageTable, ...]
    tail: Table  # [C3, C4, C5], with the fixed part; a scalar where the quantity stops at the backbone
    saturation: Saturation | None = None

    def of_stage(self, number: int, *choices: Indices) -> Table:
        """Stage `number` (0-based) for arrays of its input, width, kernel and bottleneck indices and further units."""
        total = self.stages[number].total(*choices)
        if self.saturation is None:
            return total
        return total + self.saturation.of_total(number, self.saturation.stages[number].total(*choices))


@dataclass(frozen=True)
class Tables:
    """Widths, validity and quantities of a search space at one input size."""

    space: SearchSpace
    input_size: int
    num_classes: int
    scope: Scope
    widths: tuple[NDArray[np.int64], ...]  # stem, then stages
    valid: tuple[NDArray[np.bool_], ...]  # per stage [I, O, K, B]
    quantities: dict[str, QuantityTables]


def resolution_stage(space: SearchSpace) -> list[int]:
    """0-based resolution stage of the stem and of every stage."""
    level, levels = 0, [0]
    for stage in space.stages:
        level += stage.stride - 1
        levels.append(level)
    return levels


def build_tables(
    space: SearchSpace,
    quantities: Sequence[Quantity],
    *,
    input_size: int,
    num_classes: int,
    scope: Scope = "detector",
) -> Tables:
    """Tables of `quantities` over `space` with its neck; `scope` says whether neck and head count."""
    widths = tuple(np.array(space.choices[width_gene(stages)]) for stages in range(1 + len(space.stages)))
    sums: dict[str, list[StageTable]] = {quantity.name: [] for quantity in quantities}

    def collect(kernels: Sequence[Kernel]) -> dict[str, Table]:
        return _totals(kernels, quantities)

    graph = Graph()
    image = Tensor(IMAGE, 3, input_size, input_size)
    stem = space.stem
    x = lower_stem(graph, image, widths[0], kind=stem.kind, kernel=stem.kernel, act=space.act)
    stem_sums = collect(graph.kernels)
    for number in range(1, len(widths)):
        inputs = replace(x, channels=widths[number - 1])
        rows = _stage_tables(space, number, inputs, widths[number], collect)
        for name, table in rows.items():
            sums[name].append(table)
        x = replace(
            x, height=x.height // space.stages[number - 1].stride, width=x.width // space.stages[number - 1].stride
        )
    tables = {}
    for q in quantities:
        stem_row = np.broadcast_to(stem_sums[q.name], widths[0].shape)
        tables[q.name] = QuantityTables(stem_row, tuple(sums[q.name]), np.asarray(q.steps(q.fixed)))
    valid = tuple(_valid(space, number, widths) for number in range(1, len(widths)))
    bare = Tables(space, input_size, num_classes, scope, widths, valid, tables)
    return with_neck(bare, quantities, space.neck)


def with_neck(tables: Tables, quantities: Sequence[Quantity], name: str) -> Tables:
    """The same tables behind the neck `name`; `quantities` are those of the tables."""
    space = tables.space if tables.space.neck == name else replace(tables.space, neck=name)
    counted = [] if tables.scope == "backbone" else [q for q in quantities if not q.backbone_only]
    tails = neck_tails(tables, counted, get_neck_preset(name))
    changed = {q.name: replace(tables.quantities[q.name], tail=tails[q.name]) for q in counted}
    return replace(tables, space=space, quantities=tables.quantities | changed)


def neck_tails(tables: Tables, quantities: Sequence[Quantity], neck: NeckPreset) -> dict[str, Table]:
    """What neck, head and the fixed part cost behind every triple of tapped widths, `[C3, C4, C5]` by quantity."""
    totals = _totals(_tail_kernels(tables, neck), quantities)
    return {q.name: totals[q.name] + np.asarray(q.steps(q.fixed)) for q in quantities}


def _totals(kernels: Sequence[Kernel], quantities: Sequence[Quantity]) -> dict[str, Table]:
    return {q.name: _sum(q.steps(q.of_kernel(kernel)) for kernel in kernels) for q in quantities}


def _sum(tables: Iterable[Table]) -> Table:
    """Sum of tables that broadcast; most vary along one axis only, and those are added up before they are spread."""
    by_shape: dict[tuple[int, ...], Table] = {}
    for table in tables:
        by_shape[table.shape] = by_shape.get(table.shape, 0) + table
    return np.asarray(sum(by_shape.values()))


Collect = Callable[[Sequence[Kernel]], dict[str, Table]]


def _stage_tables(
    space: SearchSpace, number: int, x: Tensor, out: NDArray[np.int64], collect: Collect
) -> dict[str, StageTable]:
    """Tables of stage `number` (1-based); `x.channels` are the widths of the stage before."""
    stage = space.stages[number - 1]
    inputs, bottlenecks = x.channels, np.array(stage.bottleneck.values)
    shape = (len(inputs), len(out), len(stage.kernels), len(bottlenecks))
    first: dict[str, Table] = {}
    more: dict[str, Table] = {}

    def sums(in_width: Width, out_width: Width, bottleneck: Width, kernel: int, depth: int) -> dict[str, Table]:
        g = Graph()
        lower_stage(
            g,
            replace(x, channels=in_width),
            out_width,
            bottleneck,
            number=number,
            block=space.block,
            kernel=kernel,
            stride=stage.stride,
            depth=depth,
            act=space.act,
            spp=space.spp and number == len(space.stages),
        )
        return collect(g.kernels)

    equal_in, equal_out = np.nonzero(inputs[:, None] == out[None, :])
    for k, kernel in enumerate(stage.kernels):
        grid = (inputs[:, None, None], out[None, :, None], bottlenecks[None, None, :])
        # Where a stride-1 stage keeps the width it has no projection: those entries are lowered on their own.
        same = (inputs[equal_in][:, None], out[equal_out][:, None], bottlenecks[None, :])
        at_first, at_same = sums(*grid, kernel, 1), sums(*same, kernel, 1)
        one, two = (sums(inputs[0], out[:, None], bottlenecks[None, :], kernel, depth) for depth in (1, 2))
        for name in at_first:
            table = first.setdefault(name, np.empty(shape))
            table[:, :, k, :] = at_first[name]
            if len(equal_in):
                table[equal_in, equal_out, k, :] = at_same[name]
            more.setdefault(name, np.empty(shape[1:]))[:, k, :] = two[name] - one[name]
    return {name: StageTable(first[name], more[name]) for name in first}


def _tail_kernels(tables: Tables, neck: NeckPreset) -> list[Kernel]:
    """Neck and head for every triple of tapped widths."""
    shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
    c3, c4, c5 = (
        Tensor(IMAGE, tables.widths[tap].reshape(shape), tables.input_size // stride, tables.input_size // stride)
        for tap, shape, stride in zip(tables.space.taps, shapes, OUTPUT_STRIDES, strict=True)
    )
    g = Graph()
    features = lower_neck(
        g,
        (c3, c4, c5),
        neck_widths(neck, (c3.channels, c4.channels, c5.channels)),
        depth=neck.depth,
        hidden_ratio=neck.hidden_ratio,
        block=neck.block,
        act=neck.act,
    )
    reg_max = reaching(neck, tables.input_size).reg_max
    lower_head(g, features, num_classes=tables.num_classes, reg_max=reg_max, kernel=neck.head_kernel)
    return g.kernels


def _valid(space: SearchSpace, number: int, widths: tuple[NDArray[np.int64], ...]) -> NDArray[np.bool_]:
    stage = space.stages[number - 1]
    inputs, out, bottlenecks = widths[number - 1], widths[number], np.array(stage.bottleneck.values)
    fits = space.width_fits(inputs[:, None], out[None, :])[:, :, None, None]
    inner = space.bottleneck_fits(out[:, None], bottlenecks[None, :])[None, :, None, :]
    shape = (len(inputs), len(out), len(stage.kernels), len(bottlenecks))
    return np.broadcast_to(fits & inner, shape).copy()
