"""The neck searched too: a grid of necks, the backbone solved exactly for what each of them leaves, and one chosen.

The score rates the backbone, so which neck is best is not the score's to say: it would always take the smallest. The
choice follows a prior instead. The published detectors spend 38 % (T, S), 46 % (M) and 51 % (L) of their modelled time
in the backbone, and among necks of one latency the one of the published depth scored best (report, table of neck
depths and widths: 45.1, 45.6, 45.3 AP for depth 2, 3, 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.nas.evolution import EvolutionSettings, State, evolve, resume
from maenas.nas.exact import ExactResult, solve, solve_each
from maenas.nas.genome import Genome
from maenas.nas.layered import Solution
from maenas.nas.problem import Problem, evaluate, make_objective
from maenas.nas.stage_tables import Quantity, Table, Value, neck_tails
from maenas.presets import PROFILES, get_neck_preset, neck_name
from maenas.score_names import ScoreName

AUTO, PRESET = "auto", "preset"
DEPTHS = (1, 2, 3, 4)
POPULATION, FIRST_GENERATIONS, NEXT_GENERATIONS = 128, 30, 10  # of the evolution that makes proofs short
KNOWN = 16


@dataclass(frozen=True)
class ShareWindow:
    """Part of the modelled time that the backbone should take: a prior, from the published detectors by default."""

    low: float = 0.35
    high: float = 0.55

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 1:
            raise MaenasError(
                f"the backbone share is {self.low:g}..{self.high:g}; it must be two rising numbers between 0 and 1, "
                "for example 0.35..0.55"
            )

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    @property
    def text(self) -> str:
        """`35 to 55 %`."""
        return f"{100 * self.low:g} to {100 * self.high:g} %"

    def miss(self, share: float) -> float:
        """How far outside a share is; 0 inside."""
        return max(self.low - share, share - self.high, 0.0)


def parse_share(text: str) -> ShareWindow:
    """`0.35..0.55` as a window; raises `MaenasError`."""
    low, separator, high = text.partition("..")
    try:
        if separator:
            return ShareWindow(float(low), float(high))
    except ValueError:
        pass
    raise MaenasError(f"the backbone share is {text!r}; give two numbers between 0 and 1, for example 0.35..0.55")


@dataclass(frozen=True)
class NeckOption:
    """One neck of the grid with the best backbone behind it, and the proof of that."""

    name: str
    depth: int
    profile: str
    certificate: ExactResult
    score: float
    backbone_s: float  # modelled, on the first device
    whole_s: float

    @property
    def solution(self) -> Solution | None:
        """The best backbone, with the score and the costs in integer steps."""
        return self.certificate.solutions[0] if self.certificate.solutions else None

    @property
    def share(self) -> float:
        """Part of the time that the backbone takes."""
        return self.backbone_s / self.whole_s


@dataclass(frozen=True)
class NeckSearch:
    """Every neck of the grid, and the one chosen, with the reason."""

    window: ShareWindow
    score: ScoreName
    options: tuple[NeckOption, ...]
    chosen: NeckOption
    reason: str

    @property
    def genomes(self) -> list[Genome]:
        """The best backbone of the chosen neck, if there is one."""
        return [] if self.chosen.solution is None else [self.chosen.solution.genome]


def neck_grid(base: str) -> list[tuple[str, int, str]]:
    """Name, depth and width profile of every neck around the preset `base`, similar ones beside each other."""
    rows = []
    for row, depth in enumerate(DEPTHS):
        profiles = list(PROFILES)[:: -1 if row % 2 else 1]
        rows += [(neck_name(base, depth, profile), depth, profile) for profile in profiles]
    return rows


def search_necks(
    problem: Problem, quantities: Sequence[Quantity], seconds: Quantity, window: ShareWindow, score: ScoreName
) -> NeckSearch:
    """Solve `problem` behind every neck of the grid around its space's own neck, and choose one.

    `quantities` are those of the tables, `seconds` the latency whose share counts; it is one of them. A score that is
    not additive is stood in for by `mae`.
    """
    if problem.objective is None:
        score = "mae"
        problem = replace(problem, objective=make_objective(problem.tables, score))
    limited = {c.name for c in problem.constraints} | {seconds.name}
    charged = [q for q in quantities if q.name in limited and not q.backbone_only]
    remembered = [replace(q, of_kernel=_Remembered(q.of_kernel)) for q in charged]
    grid = neck_grid(problem.space.neck)
    tails = [neck_tails(problem.tables, remembered, get_neck_preset(name)) for name, *_ in grid]
    options = tuple(
        _option(problem, row, tail[seconds.name], seconds, result, score)
        for row, tail, result in zip(grid, tails, _solve_behind(problem, tails), strict=True)
    )
    chosen, reason = choose_neck(options, window, get_neck_preset(problem.space.neck).depth)
    return NeckSearch(window, score, options, chosen, reason)


def _solve_behind(problem: Problem, tails: Sequence[dict[str, Table]]) -> Iterator[ExactResult]:
    """The optimum behind each of the necks that cost `tails`."""
    if problem.tables.scope == "backbone":  # no budget counts the neck: it is the same problem behind each
        return itertools.repeat(solve(problem), len(tails))

    def problems() -> Iterator[tuple[Problem, Sequence[Genome]]]:
        state: State | None = None
        for tail in tails:
            charged = (replace(c, tables=replace(c.tables, tail=tail.get(c.name, c.tables.tail))) for c in constraints)
            behind = replace(problem, constraints=tuple(charged))
            state = _evolve_on(behind, state)
            yield behind, list(state.genes.T[:KNOWN])

    constraints = problem.constraints
    return solve_each(problems())


def _evolve_on(problem: Problem, before: State | None) -> State:
    """A short evolution from the population behind a similar neck: a good solution makes a proof short."""
    if before is None:
        return evolve(problem, EvolutionSettings(POPULATION, FIRST_GENERATIONS))
    last = FIRST_GENERATIONS - NEXT_GENERATIONS
    state = resume(problem, last, before.evaluated, before.genes, before.generator)
    return evolve(problem, EvolutionSettings(POPULATION, FIRST_GENERATIONS), state)


def _option(
    problem: Problem, row: tuple[str, int, str], tail: Table, seconds: Quantity, result: ExactResult, score: ScoreName
) -> NeckOption:
    if not result.solutions:
        return NeckOption(*row, result, 0.0, 0.0, float(tail.min()) * seconds.unit)
    best, tables = result.solutions[0], problem.tables
    bare = replace(tables.quantities[seconds.name], tail=np.zeros(()))
    whole = replace(tables.quantities[seconds.name], tail=np.broadcast_to(tail, _tapped_shape(problem)))
    times = [float(evaluate(table, tables, best.genome[None])[0]) * seconds.unit for table in (bare, whole)]
    return NeckOption(*row, result, best.score * (1.0 if score == "flops" else 1e-9), *times)


def _tapped_shape(problem: Problem) -> tuple[int, ...]:
    return tuple(len(problem.tables.widths[tap]) for tap in problem.space.taps)


def choose_neck(options: Sequence[NeckOption], window: ShareWindow, depth: int) -> tuple[NeckOption, str]:
    """The neck to build, and why, in words.

    Inside the window (or nearest to it) first; then nearest to the published `depth`; then the share nearest to the
    window's middle; then the higher score. Where no neck fits, the smallest.
    """
    fitting = [option for option in options if option.solution is not None]
    if not fitting:
        return min(options, key=lambda option: option.whole_s), "the smallest there is: no neck fits"

    def rank(option: NeckOption) -> tuple[float, int, float, float]:
        away = abs(option.share - window.middle)
        return window.miss(option.share), abs(option.depth - min(depth, DEPTHS[-1])), away, -option.score

    chosen = min(fitting, key=rank)
    share = f"backbone {chosen.share:.0%} of the modelled time"
    if window.miss(chosen.share):
        return chosen, f"{share}; no neck of the grid comes into the prior of {window.text}, this one comes nearest"
    return chosen, f"{share}; prior {window.text}, as the published detectors; then depth nearest {depth}"


class _Remembered:
    """A cost of kernels that computes each distinct kernel once: necks of a grid share most of theirs."""

    def __init__(self, of_kernel: Callable[[Kernel], Value]) -> None:
        self.of_kernel = of_kernel
        self.known: dict[tuple[object, ...], Value] = {}

    def __call__(self, kernel: Kernel) -> Value:
        widths = [np.asarray(width) for width in (kernel.in_channels, kernel.out_channels, kernel.groups)]
        size = (kernel.in_height, kernel.in_width, kernel.out_height, kernel.out_width)
        shape = (kernel.op, kernel.kernel, kernel.stride, kernel.epilogue, len(kernel.inputs), kernel.residual is None)
        key = (*shape, *size, *((width.shape, width.tobytes()) for width in widths))
        if key not in self.known:
            self.known[key] = self.of_kernel(kernel)
        return self.known[key]
