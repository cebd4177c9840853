"""`maenas.predict`: how long a network takes on a device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from maenas.api.search import Design
from maenas.choices import Precision
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.onnx.lower import Lowered, lower_onnx
from maenas.latency.onnx.predict import predict_graph
from maenas.latency.predictor import AnyPredictor, Prediction, load_predictor, provenance_word
from maenas.latency.predictor import predict as predict_kernels
from maenas.lowering import lower
from maenas.reports import graph, prediction_text
from maenas.reports.networks import described, read_network
from maenas.spec import DetectorSpec, SpecFile

Network = str | Path | Design | DetectorSpec | SpecFile


@dataclass(frozen=True, repr=False)
class Latency:
    """The latency of one network on one device in one setup, which says whether suppression (NMS) is in it."""

    title: str
    network: tuple[Kernel, ...] | Lowered  # deployed kernels of a spec, or the lowered graph of an ONNX file
    predictor: AnyPredictor

    @cached_property
    def prediction(self) -> Prediction:
        """Seconds, with the interval and the kernels'; raises `MaenasError` where the network cannot be predicted."""
        if isinstance(self.network, Lowered):
            return predict_graph(self.network, self.predictor).prediction
        return predict_kernels(self.network, self.predictor)

    @property
    def latency_ms(self) -> float:
        """Milliseconds of one batch."""
        return self.prediction.seconds * 1e3

    @property
    def loop_ms(self) -> float:
        """Milliseconds in a loop of its own, where a small network stays in a CPU's caches; else `latency_ms`."""
        return (self.prediction.warm_seconds or self.prediction.seconds) * 1e3

    @property
    def interval_ms(self) -> tuple[float, float]:
        """90 % interval, or a stated range where the device is not calibrated."""
        return self.prediction.low * 1e3, self.prediction.high * 1e3

    @property
    def parts_ms(self) -> dict[str, float]:
        """Milliseconds of backbone, neck and head; of an ONNX file, of each kind of kernel."""
        return {part: seconds * 1e3 for part, seconds in self.prediction.parts.items()}

    @property
    def kind(self) -> str:
        """ "modelled", or "predicted from measured kernels"."""
        return provenance_word(self.predictor)

    def text(self, *, layers: bool = False) -> str:
        """The prediction for people; with `layers` every kernel."""
        if isinstance(self.network, Lowered):
            return graph.format_graph(self.title, self.network, self.predictor, layers=layers)
        return prediction_text.format_network(self.title, self.network, self.predictor, layers=layers)

    def document(self, *, layers: bool = False) -> dict[str, Any]:
        """The prediction as JSON data."""
        if isinstance(self.network, Lowered):
            return graph.graph_document(self.network, self.predictor, layers=layers)
        return prediction_text.network_document(self.network, self.predictor, layers=layers)

    def __repr__(self) -> str:
        low, high = self.interval_ms
        return (
            f"<Latency of {self.title}: {self.latency_ms:.3f} ms ({low:.3f} to {high:.3f}) {self.kind} on "
            f"{self.predictor.device.name}>"
        )


def predict(
    network: Network,
    *,
    device: str | Path = "t4",
    precision: Precision | None = None,
    batch: int = 1,
    input_size: int | tuple[int, int] | None = None,
) -> Latency:
    """The latency of `network`: a spec's file, a published name, a searched design, a spec or what `load_spec` gives,
    weights or their run's folder, or an .onnx file.

    `device` as in `search`; `batch` images at once. `input_size` is for an ONNX file whose shapes are symbolic: the
    side in pixels, or (height, width). Raises `MaenasError` for a network or a device that cannot be used.
    """
    title, kernels = _kernels(network, input_size)
    return Latency(title, kernels, load_predictor(str(device), precision=precision, batch=batch))


def _kernels(network: Network, input_size: int | tuple[int, int] | None) -> tuple[str, tuple[Kernel, ...] | Lowered]:
    if isinstance(network, str | Path) and str(network).lower().endswith(".onnx"):
        sides = (input_size, input_size) if isinstance(input_size, int) else input_size
        if sides is not None and (not isinstance(sides, tuple) or [type(side) for side in sides] != [int, int]):
            raise MaenasError(f"input_size is {input_size!r:.60}; it must be the side in pixels, or (height, width)")
        return str(network), lower_onnx(str(network), sides=sides)
    if input_size is not None:
        raise MaenasError("--input is for ONNX files; a spec has its own input size")
    if isinstance(network, str | Path):
        found = described(read_network(str(network)))
        name, spec = found.name, found.spec
    elif isinstance(network, SpecFile):
        name, spec = network.name, network.detector
    else:
        name, spec = "detector", network.spec if isinstance(network, Design) else network
    return f"{name} (id {spec.id}), {spec.input.height}x{spec.input.width}", tuple(lower(spec))
