"""The networks that a report or a comparison is about, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from maenas.cost import Cost, total_cost
from maenas.errors import MaenasError
from maenas.files import refuse_pipe
from maenas.latency.predictor import AnyPredictor, Prediction, predict
from maenas.lowering import lower
from maenas.reports.origin import PART, Origin, read_origin
from maenas.score import effectiveness, mae_score, score_terms
from maenas.spec import DetectorSpec, SpecFile, load_spec
from maenas.strict import parse_json


@dataclass(frozen=True)
class Network:
    """A detector by name, with the search that it came from and the folder of its training run, where there is one."""

    name: str
    spec: DetectorSpec
    origin: Origin | None = None
    run: Path | None = None


@dataclass(frozen=True)
class Devices:
    """The devices of a report as they were asked for, and their predictors."""

    names: tuple[str, ...]
    predictors: tuple[AnyPredictor, ...]


@dataclass(frozen=True)
class Summary:
    """A network in numbers: costs at batch 1, MAE score with the published weights, one prediction a device."""

    network: Network
    cost: Cost
    score: float
    effectiveness: float
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class _Header:
    """What a weights file says about its network."""

    __pydantic_config__: ClassVar = PART
    detector: DetectorSpec


def read_network(name: str) -> Network:
    """The network of a spec file, a published name or a weights file; raises `MaenasError`."""
    return from_weights(Path(name)) if name.endswith(".safetensors") else from_spec(load_spec(name), name)


def from_spec(stored: SpecFile, where: str) -> Network:
    """The network of a spec file; raises `MaenasError` for a provenance that no search writes."""
    return Network(stored.name, stored.detector, read_origin(stored, where))


def from_weights(path: Path) -> Network:
    """The network of a weights file, read from its header alone; raises `MaenasError`."""
    try:
        import safetensors
    except ModuleNotFoundError:
        raise MaenasError(f"{path}: weights need safetensors: pip install safetensors") from None
    refuse_pipe(path, what="weights")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get("maenas")
    except OSError as error:
        raise MaenasError(f"weights {path}: cannot be read: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise MaenasError(f"weights {path}: not a whole safetensors file ({error})") from error
    if header is None:
        raise MaenasError(f"weights {path}: no network is described in it; it was not written by maenas")
    spec = parse_json(header, _Header, where=f"weights {path}").detector
    return Network(path.stem if path.stem != "weights" else path.resolve().parent.name, spec, run=path.parent)


def distinct_names(networks: Iterable[Network]) -> tuple[Network, ...]:
    """The networks, numbered where two have the same name."""
    seen: Counter[str] = Counter()
    named = []
    for network in networks:
        seen[network.name] += 1
        count = seen[network.name]
        named.append(network if count == 1 else replace(network, name=f"{network.name} ({count})"))
    return tuple(named)


def summarise(network: Network, predictors: Sequence[AnyPredictor]) -> Summary:
    """Costs, score and predicted latencies of the whole detector."""
    kernels = lower(network.spec)
    terms = score_terms(kernels)
    return Summary(
        network,
        total_cost(kernels),
        float(mae_score(terms)),
        float(effectiveness(terms)),
        tuple(predict(kernels, predictor) for predictor in predictors),
    )
