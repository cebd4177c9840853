"""The networks that a report or a comparison is about, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from maenas.cost import Cost, total_cost
from maenas.errors import MaenasError
from maenas.files import refuse_pipe
from maenas.headers import KEY, Exported, WeightsHeader
from maenas.latency.onnx.lower import Lowered, lower_onnx
from maenas.latency.onnx.node_graph import read_properties
from maenas.latency.predictor import AnyPredictor, Prediction, predict
from maenas.lowering import lower
from maenas.nas.provenance import Provenance
from maenas.reports.origin import read_origin
from maenas.run_files import weights_path
from maenas.score import effectiveness, mae_score, score_terms
from maenas.spec import DetectorSpec, SpecFile, load_spec
from maenas.strict import parse_json


@dataclass(frozen=True)
class Network:
    """A detector by name, with the search that it came from and the folder of its training run, where there is one.

    `searched` is the detector that the search wrote: other classes or another input may have been trained. `ap` is the
    average precision that the weights state, on the data that were held out from their training.
    """

    name: str
    spec: DetectorSpec
    origin: Provenance | None = None
    run: Path | None = None
    searched: DetectorSpec | None = None
    ap: float | None = None
    data: str | None = None

    @property
    def changed(self) -> bool:
        """Whether the detector has other classes or another input than the one that was searched."""
        return self.searched is not None and self.searched != self.spec


@dataclass(frozen=True)
class Graph:
    """A network of which only the kernels are known: an ONNX file that maenas did not write."""

    name: str
    lowered: Lowered


Named = TypeVar("Named", Network, Graph, Network | Graph)


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


def from_spec(stored: SpecFile, where: str) -> Network:
    """The network of a spec file; raises `MaenasError` for a provenance that no search writes."""
    origin = read_origin(stored, where)
    return Network(stored.name, stored.detector, origin, searched=None if origin is None else stored.detector)


def from_weights(path: Path) -> Network:
    """The network of a weights file, read from its header alone; raises `MaenasError`."""
    try:
        import safetensors
    except ModuleNotFoundError:
        raise MaenasError(f"{path}: weights need safetensors: pip install safetensors") from None
    refuse_pipe(path, what="weights")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(KEY)
    except OSError as error:
        raise MaenasError(f"weights {path}: cannot be read: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise MaenasError(f"weights {path}: not a whole safetensors file ({error})") from error
    if header is None:
        raise MaenasError(f"weights {path}: no network is described in it; it was not written by maenas")
    where = f"weights {path}"
    found = parse_json(header, WeightsHeader, where=where)
    name = path.stem if path.stem != "weights" else path.resolve().parent.name
    network = _with_origin(Network(name, found.detector, run=path.parent), found.spec_file, where)
    return replace(network, ap=_stated_ap(found.metadata, where), data=found.metadata.get("data"))


def from_onnx(path: Path) -> Network | Graph:
    """The network of an ONNX file: the detector that it states if maenas wrote it, else its kernels.

    Raises `MaenasError` for a file that cannot be read.
    """
    properties = read_properties(path)
    if KEY not in properties:
        return Graph(path.stem, lower_onnx(path))
    found = parse_json(properties[KEY], Exported, where=str(path))
    return _with_origin(Network(path.stem, found.detector), found.spec_file, str(path))


def read_network(name: str) -> Network | Graph:
    """The network of weights (.safetensors), a run's folder, an ONNX file, a spec file or a shipped name.

    Raises `MaenasError`.
    """
    if Path(name).is_dir():
        return from_weights(weights_path(name))
    ending = Path(name).suffix.lower()
    if ending == ".safetensors":
        return from_weights(Path(name))
    return from_onnx(Path(name)) if ending == ".onnx" else from_spec(load_spec(name), name)


def described(network: Network | Graph) -> Network:
    """`network` where its detector is known; raises `MaenasError` for one of which only the kernels are."""
    if isinstance(network, Graph):
        raise MaenasError(
            f"{network.name}: a report needs the detector, and nothing in this ONNX file describes it: maenas did not "
            "write it. maenas compare, show and predict take any ONNX file"
        )
    return network


def _with_origin(network: Network, stored: SpecFile | None, where: str) -> Network:
    if stored is None:
        return network
    origin = read_origin(stored, where)
    return replace(network, origin=origin, searched=None if origin is None else stored.detector)


def _stated_ap(notes: Mapping[str, str], where: str) -> float | None:
    if "AP" not in notes:
        return None
    try:
        ap = float(notes["AP"])
    except ValueError:
        ap = -1.0
    if not 0 <= ap <= 1:
        raise MaenasError(f"{where}: its AP is {notes['AP']!r:.40}; it must be 0 to 1")
    return ap


def distinct_names(networks: Iterable[Named]) -> tuple[Named, ...]:
    """The networks, numbered where two have the same name."""
    seen: Counter[str] = Counter()
    named: list[Named] = []
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
