"""What a searched spec's file says about where it comes from: declared once, for writing and for reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Literal, get_args

import numpy as np

from maenas import __version__
from maenas.choices import Precision
from maenas.errors import MaenasError
from maenas.latency.predictor import provenance_word
from maenas.nas.necks import NeckSearch
from maenas.nas.run import SearchResult
from maenas.nas.stage_tables import Scope
from maenas.run_files import PART
from maenas.score_names import ScoreName
from maenas.strict import parse_json

PRECISIONS: Final = get_args(Precision)


@dataclass(frozen=True)
class StatedScore:
    """Name and value of the score that was searched for."""

    __pydantic_config__: ClassVar = PART
    name: ScoreName
    value: float


@dataclass(frozen=True)
class StatedLatency:
    """A prediction; `device` as it was asked for, `conditions` as the predictor states them."""

    __pydantic_config__: ClassVar = PART
    kind: str
    device: str
    ms: float
    interval_90_ms: tuple[float, float]
    parts_ms: Mapping[str, float]
    conditions: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.conditions.get("precision") not in PRECISIONS:
            raise MaenasError(f"conditions.precision must be one of {', '.join(PRECISIONS)}")
        if type(self.conditions.get("batch")) is not int or self.conditions["batch"] < 1:
            raise MaenasError("conditions.batch must be a whole number from 1")

    @property
    def precision(self) -> Precision:
        """Of the kernels."""
        return self.conditions["precision"]

    @property
    def batch(self) -> int:
        """Images at once."""
        return self.conditions["batch"]


@dataclass(frozen=True)
class StatedNeck:
    """How the neck was chosen; the share is the backbone's of the predicted time on the first device."""

    __pydantic_config__: ClassVar = PART
    name: str
    backbone_share: float
    prior: tuple[float, float]
    reason: str


@dataclass(frozen=True)
class StatedDepths:
    """The bound on depth in force, and which limits the winner reached."""

    __pydantic_config__: ClassVar = PART
    max_layers: int | None
    max_depth: tuple[int, ...]
    max_effectiveness: float | None
    reason: str
    reached: tuple[str, ...] | None


@dataclass(frozen=True)
class StatedOptimality:
    """Relative `gap` to `bound`, which is the optimum if `proven`; None where there is no bound."""

    __pydantic_config__: ClassVar = PART
    gap: float | None
    proven: bool
    bound: float | None


@dataclass(frozen=True)
class StatedMeasurement:
    """The whole network measured where it was searched."""

    __pydantic_config__: ClassVar = PART
    ms: float
    iqr_ms: float
    samples: int
    runtime: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a searched spec's file says about its origin; limits in seconds, counts and bytes.

    `measured` has the keys of `StatedMeasurement`, and the conditions of the measurement beside them.
    """

    __pydantic_config__: ClassVar = PART
    made_by: str = ""
    numpy: str = ""
    request: str = ""  # a file of an older version does not state it
    rank: int
    space: str
    space_id: str
    scope: Scope
    score: StatedScore
    mae: float | None = None  # a file of an older version does not state it
    effectiveness: float
    params: int
    flops: int
    activation_bytes: int
    layers: int
    latency: tuple[StatedLatency, ...]
    measured: Mapping[str, Any] | None = None
    budgets: Mapping[str, float]
    neck: StatedNeck | None = None
    depth_bound: StatedDepths
    solver: Literal["evolution", "exact"]
    seed: int
    population: int
    generations: int
    optimality: StatedOptimality

    def __post_init__(self) -> None:
        if not self.latency:
            raise MaenasError("latency is empty; a search states one for each device")
        self.measurement  # noqa: B018 - refused here rather than where it is shown

    @property
    def measurement(self) -> StatedMeasurement | None:
        """What was measured; raises `MaenasError` for another kind of value."""
        if self.measured is None:
            return None
        return parse_json(json.dumps(dict(self.measured)), StatedMeasurement, where="measured")

    def document(self) -> dict[str, Any]:
        """As plain data for JSON; no key for a measurement that was not made, and the like."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        optional = ("measured", "neck", "request")
        return {key: value for key, value in data.items() if value not in (None, "") or key not in optional}


def provenance(
    result: SearchResult, index: int, measured: Mapping[str, Any] | None = None, asked: str = ""
) -> dict[str, Any]:
    """What the spec file of candidate `index` says about where it comes from; the same for the same request.

    `measured` is what measuring the whole network gave, where that was done; `asked` is `request_id` of what the user
    asked for.
    """
    setup, winner = result.setup, result.candidates[index]
    request, depths = setup.request, setup.depths
    gap, bound = (None if value is None else _rounded(value) for value in (result.gap, result.optimum))
    return Provenance(
        made_by=f"maenas {__version__}",
        numpy=np.__version__,
        request=asked,
        rank=index + 1,
        space=setup.space.name,
        space_id=setup.space_id,
        scope=request.scope,
        score=StatedScore(request.score, _rounded(winner.score)),
        mae=_rounded(winner.mae),
        effectiveness=_rounded(winner.effectiveness),
        params=winner.params,
        flops=winner.flops,
        activation_bytes=winner.activation_bytes,
        layers=winner.layers,
        latency=_latencies(result, index),
        measured=measured,
        budgets={budget.name: _rounded(budget.limit) for budget in result.budgets},
        neck=None if setup.necks is None else _neck(setup.necks),
        depth_bound=StatedDepths(
            depths.max_layers,
            tuple(depths.max_depth),
            depths.max_effectiveness,
            depths.reason,
            tuple(result.on_bound) if index == 0 else None,
        ),
        solver=request.solver if setup.problem.objective is not None else "evolution",
        seed=request.seed,
        population=request.population,
        generations=request.generations,
        optimality=StatedOptimality(gap, result.proven, bound),
    ).document()


def _neck(necks: NeckSearch) -> StatedNeck:
    chosen, window = necks.chosen, necks.window
    return StatedNeck(chosen.name, _rounded(chosen.share), (window.low, window.high), necks.reason)


def _latencies(result: SearchResult, index: int) -> tuple[StatedLatency, ...]:
    setup, winner = result.setup, result.candidates[index]
    return tuple(
        StatedLatency(
            kind=provenance_word(predictor),
            device=device,
            ms=_rounded(prediction.seconds * 1e3),
            interval_90_ms=(_rounded(prediction.low * 1e3), _rounded(prediction.high * 1e3)),
            parts_ms={part: _rounded(value * 1e3) for part, value in prediction.parts.items()},
            conditions=predictor.conditions,
        )
        for device, predictor, prediction in zip(
            setup.request.devices, setup.predictors, winner.predictions, strict=True
        )
    )


def _rounded(value: float) -> float:
    """Eight significant digits: what a file states does not depend on the last bit of a machine's logarithm."""
    return float(f"{value:.8g}")
