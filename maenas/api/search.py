"""`maenas.search` and `maenas.pareto`: from budgets to detectors."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from maenas.api.several import texts
from maenas.choices import Precision, Scope, Solver
from maenas.errors import MaenasError
from maenas.files import ensure_folder
from maenas.nas.checkpoint import read_checkpoint, refuse_foreign, run_with_checkpoint
from maenas.nas.necks import AUTO, parse_share
from maenas.nas.pareto import Front, pareto_front
from maenas.nas.provenance import provenance
from maenas.nas.request import Request, Setup, prepare
from maenas.nas.run import Candidate, run
from maenas.nas.run import SearchResult as Found
from maenas.nas.spaces import SpaceBest, compare_spaces, in_best_space, named_spaces
from maenas.nas.written import request_id
from maenas.reports.search_text import format_result, format_setup
from maenas.score_names import DEFAULT_SCORE, SCORES
from maenas.spec import DetectorSpec, write_spec
from maenas.units import parse_bytes, parse_flops, parse_latency_s, parse_params

if TYPE_CHECKING:
    from typing import Unpack

    from detector.model.net import DetectorNet
    from maenas.nas.evolution import State
    from maenas.profiler.verify import Verified


class SearchOptions(TypedDict, total=False):
    """What `search` and `pareto` both understand; the defaults are those of `maenas.nas.request.Request`."""

    space: str  # a shipped space, or a YAML file; for `search` also "all" shipped ones, or several with commas between
    scope: Scope  # what budgets count: the whole detector, or the backbone
    score: str
    precision: Precision | None  # None: a measured table's own, else fp16
    batch: int  # images at once
    input_size: int | None  # side of the square input in pixels; None: the space's
    classes: int
    neck: str | None  # "auto", if not given, searches it, too; "preset" or None: the space's own; or a neck by name
    backbone_share: str | None  # "0.35..0.55": what the search for the neck aims at; a prior, if not given
    max_params: str | None  # "10M"
    max_flops: str | None  # "20G"
    max_activations: str | None  # "60MB"
    max_layers: int | None
    max_effectiveness: float | None


def _ignore(*_: object) -> None:
    """What a caller who wants to hear nothing passes."""


@dataclass(frozen=True)
class Watch:
    """What a caller hears while a search runs."""

    on_spaces: Callable[[tuple[SpaceBest, ...]], None] = _ignore  # where there are several: the best of each
    on_setup: Callable[[Setup], None] = _ignore
    on_generation: Callable[[State], None] = _ignore
    on_proof: Callable[[], None] = _ignore  # the exact solver begins
    on_found: Callable[[Found], None] = _ignore
    on_measured: Callable[[Verified], None] = _ignore


@dataclass(frozen=True, repr=False)
class Design:
    """One detector that a search found, with everything that its file says about where it comes from."""

    candidate: Candidate
    provenance: dict[str, Any]

    @property
    def spec(self) -> DetectorSpec:
        """The whole detector: backbone, neck and head."""
        return self.candidate.spec

    @property
    def score(self) -> float:
        """Value of the score that was searched for."""
        return self.candidate.score

    @property
    def params(self) -> int:
        """Parameters of what the budgets count."""
        return self.candidate.params

    @property
    def flops(self) -> int:
        """Operations of what the budgets count, a multiply-add as 2."""
        return self.candidate.flops

    @property
    def latency_ms(self) -> float:
        """Predicted milliseconds on the first device of the search."""
        return self.candidate.predictions[0].seconds * 1e3

    def save(self, path: str | Path) -> Path:
        """Write the spec file that `maenas train` takes; raises `MaenasError`."""
        path = Path(path)
        write_spec(path, self.spec, path.stem, self.provenance)
        return path

    def build(self) -> DetectorNet:
        """The network with random weights, in its training form: a `torch.nn.Module`. Raises `MaenasError`."""
        try:
            from detector.model.net import DetectorNet
        except ModuleNotFoundError as error:
            raise MaenasError(f"building needs {error.name}: pip install 'maenas[detector]'") from None
        return DetectorNet(self.spec)

    def __repr__(self) -> str:
        size, backbone = self.spec.input, self.spec.backbone
        return (
            f"<Design {self.spec.id}: {size.height}x{size.width}, widths {backbone.widths_text}, "
            f"{self.candidate.layers} layers, {self.latency_ms:.3f} ms, score {self.score:.4f}>"
        )


@dataclass(frozen=True, repr=False)
class SearchResult:
    """What a search found, best first, and what is known about how good it could be."""

    found: Found
    candidates: tuple[Design, ...]

    @property
    def best(self) -> Design:
        """The first candidate."""
        return self.candidates[0]

    @property
    def gap(self) -> float | None:
        """Relative distance of the best score to the proven optimum, or to an upper bound; None: no bound is known."""
        return self.found.gap

    @property
    def proven(self) -> bool:
        """Whether the optimum is proven."""
        return self.found.proven

    def save(self, folder: str | Path, name: str, *, count: int = 1) -> list[Path]:
        """Write the `count` best as NAME.json, NAME-2.json ...; raises `MaenasError`."""
        ensure_folder(Path(folder))
        chosen = self.candidates[:count]
        stems = [name if index == 0 else f"{name}-{index + 1}" for index in range(len(chosen))]
        return [design.save(Path(folder) / f"{stem}.json") for design, stem in zip(chosen, stems, strict=True)]

    def __iter__(self) -> Iterator[Design]:
        return iter(self.candidates)

    def __repr__(self) -> str:
        return f"{format_setup(self.found.setup)}\n\n{format_result(self.found)}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def search(
    budget: str | Sequence[str] = (),
    *,
    device: str | Path | Sequence[str | Path] = "t4",
    solver: Solver = "evolution",
    population: int = 512,
    generations: int = 120,
    seed: int = 0,
    top_k: int = 1,
    verify: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    watch: Watch = Watch(),
    **options: Unpack[SearchOptions],
) -> SearchResult:
    """The detectors with the highest score within the budgets.

    `budget` is a latency with its unit ("3ms"), one for each `device`; a device is a name (see `maenas devices`), "cpu"
    or a table's file. `top_k` candidates are returned, best first. With `verify` that many are measured on this
    machine, those within the budget are kept, and the fastest comes first. `checkpoint` is a file that an interrupted
    search leaves; with `resume` it goes on from there, if there is one, to the result of an uninterrupted one.

    Options: space, scope, score, precision, batch, input_size, classes, neck, max_params, max_flops, max_activations,
    backbone_share, max_layers, max_effectiveness. Raises `MaenasError` for an impossible request.
    """
    request = make_request(
        budget,
        device,
        solver=solver,
        population=population,
        generations=generations,
        seed=seed,
        top_k=max(top_k, verify),
        **options,
    )
    setup = _prepare(request, watch)
    clock = None
    if verify:
        from maenas.profiler.verify import clock_of

        clock = clock_of(setup)
    found = _run(setup, checkpoint, resume, watch)
    watch.on_found(found)
    measured: list[dict[str, Any] | None] = [None] * len(found.candidates)
    if clock is not None:
        from maenas.profiler.verify import verify as measure

        found, rows = measure(found, clock, watch.on_measured)
        measured = [row.document(clock) for row in rows]
    asked = request_id(request)
    designs = [
        Design(candidate, provenance(found, index, measured[index], asked))
        for index, candidate in enumerate(found.candidates)
    ]
    return SearchResult(found, tuple(designs[: max(top_k, 1)]))


def _prepare(request: Request, watch: Watch) -> Setup:
    """The search in the space of the request; in the best one, where it names several."""
    names = named_spaces(request.space)
    if len(names) == 1:
        return prepare(request)
    rows = compare_spaces(request, names)
    watch.on_spaces(rows)
    return in_best_space(rows)


def _run(setup: Setup, checkpoint: Path | None, resume: bool, watch: Watch) -> Found:
    """The search itself, with its checkpoint if there is to be one."""
    state = None
    if checkpoint is not None and checkpoint.exists():
        if resume:
            state = read_checkpoint(checkpoint, setup)
        else:
            refuse_foreign(checkpoint, setup)
    watch.on_setup(setup)
    if checkpoint is None:
        return run(setup, on_generation=watch.on_generation, on_proof=watch.on_proof)
    return run_with_checkpoint(
        setup, checkpoint, state=state, on_generation=watch.on_generation, on_proof=watch.on_proof
    )


def pareto(
    budget: str, *, device: str | Path = "t4", low: str | None = None, **options: Unpack[SearchOptions]
) -> Front:
    """The best architecture for every latency up to `budget`, exactly; `low` is the lowest latency of interest.

    Options as in `search`. Raises `MaenasError`.
    """
    setup = prepare(make_request(budget, device, **options))
    return pareto_front(setup, 0.0 if low is None else parse_latency_s(low))


def make_request(
    budget: str | Sequence[str],
    device: str | Path | Sequence[str | Path],
    *,
    solver: Solver = "evolution",
    population: int = 512,
    generations: int = 120,
    seed: int = 0,
    top_k: int = 1,
    **options: Unpack[SearchOptions],
) -> Request:
    """The request of a search; texts with units become numbers. Raises `MaenasError`."""
    limits: dict[str, Any] = dict(options)
    if limits.get("score", DEFAULT_SCORE) not in SCORES:
        raise MaenasError(f"--score is {limits['score']!r}; choose {', '.join(SCORES)}")
    params, flops, memory = (limits.pop(name, None) for name in ("max_params", "max_flops", "max_activations"))
    share = limits.pop("backbone_share", None)
    limits.setdefault("neck", AUTO)
    if "classes" in limits:
        limits["num_classes"] = limits.pop("classes")
    return Request(
        devices=texts(device),
        latency_s=tuple(parse_latency_s(text) for text in texts(budget)),
        max_params=None if params is None else parse_params(params),
        max_flops=None if flops is None else parse_flops(flops),
        max_activation_bytes=None if memory is None else parse_bytes(memory),
        backbone_share=None if share is None else parse_share(share),
        solver=solver,
        population=population,
        generations=generations,
        seed=seed,
        top_k=top_k,
        **limits,
    )
