"""A network layer by layer: shapes, parameters, operations, and where its latency goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maenas.cost import total_cost
from maenas.kernels import Kernel, is_depthwise
from maenas.latency.predictor import AnyPredictor, predict, provenance_word
from maenas.lowering import lower
from maenas.reports.text import columns
from maenas.spec import DetectorSpec
from maenas.units import format_count, format_latency, number_of


@dataclass(frozen=True)
class Layer:
    """A deployed kernel with its cost (batch 1) and latency in seconds."""

    kernel: Kernel
    params: int
    flops: int
    seconds: float


@dataclass(frozen=True)
class Part:
    """Layers that belong together: the stem, a stage, the neck, the head."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def seconds(self) -> float:
        return sum(layer.seconds for layer in self.layers)


def parts_of(spec: DetectorSpec, predictor: AnyPredictor) -> tuple[Part, ...]:
    """The parts of a detector in execution order."""
    kernels = lower(spec)
    times = predict(kernels, predictor).kernel_seconds
    parts: dict[str, list[Layer]] = {}
    for kernel, seconds in zip(kernels, times, strict=True):
        cost = total_cost([kernel])
        parts.setdefault(_part(kernel), []).append(Layer(kernel, cost.params, cost.flops, seconds))
    return tuple(Part(name, tuple(layers)) for name, layers in parts.items())


def _part(kernel: Kernel) -> str:
    words = kernel.name.split(".")
    return words[1] if words[0] == "backbone" else words[0]


def format_layers(name: str, spec: DetectorSpec, predictor: AnyPredictor) -> str:
    """Every layer, and a summary by part."""
    parts = parts_of(spec, predictor)
    total = sum(part.seconds for part in parts)
    rows = [["layer", "op", "in", "out", "k", "s", "groups", "then", "params", "FLOPs", "share"]]
    rows += [_layer_row(layer, total) for part in parts for layer in part.layers]
    summary = [["part", "layers", "out", "params", "FLOPs", f"ms {provenance_word(predictor)}", "share"]]
    for part in parts:
        last = shape_text(part.layers[-1].kernel) if part.name not in ("neck", "head") else ""
        summary.append([part.name, str(len(part.layers)), last, *_costs([part], total)])
    summary.append(["detector", str(len(rows) - 1), "", *_costs(parts, total)])
    size = spec.input
    title = f"{name} (id {spec.id}), {size.height}x{size.width}, {number_of(spec.head.num_classes, 'class')}"
    return "\n\n".join([title, columns(rows, left=2), columns(summary), f"latency: {predictor.description}"])


def _layer_row(layer: Layer, total: float) -> list[str]:
    k = layer.kernel
    params, flops = (format_count(value) if value else "" for value in (layer.params, layer.flops))
    shape = [str(k.kernel), str(k.stride), str(k.groups)] if k.op in ("conv", "maxpool") else [""] * 3
    ends = [_in_text(k), shape_text(k)]
    return [k.name, op_name(k), *ends, *shape, " ".join(k.epilogue), params, flops, f"{layer.seconds / total:.1%}"]


def _costs(parts: Sequence[Part], total: float) -> list[str]:
    seconds = sum(part.seconds for part in parts)
    params, flops = sum(part.params for part in parts), sum(part.flops for part in parts)
    return [format_count(params), format_count(flops), f"{seconds * 1e3:.4f}", f"{seconds / total:.1%}"]


def op_name(kernel: Kernel) -> str:
    """The operator, depthwise convolutions apart."""
    return "dwconv" if is_depthwise(kernel) else kernel.op


def shape_text(kernel: Kernel) -> str:
    """Output as CxHxW."""
    return f"{kernel.out_channels}x{kernel.out_height}x{kernel.out_width}"


def _in_text(kernel: Kernel) -> str:
    return f"{kernel.in_channels}x{kernel.in_height}x{kernel.in_width}"


def network_title(name: str, spec: DetectorSpec, parts: Sequence[Part], predictor: AnyPredictor) -> str:
    """One line: size, parameters, operations, latency."""
    params, flops = sum(part.params for part in parts), sum(part.flops for part in parts)
    seconds = sum(part.seconds for part in parts) + predictor.network_seconds
    latency = f"{format_latency(seconds)} {provenance_word(predictor)} on {predictor.device.name}"
    size = f"{spec.input.height}x{spec.input.width}"
    return f"{name}, {size}: {format_count(params)} parameters, {format_count(flops)} FLOPs, {latency}"


def layers_document(spec: DetectorSpec, predictor: AnyPredictor) -> dict[str, Any]:
    """What `format_layers` prints, as JSON data."""
    return {
        "id": spec.id,
        "kind": provenance_word(predictor),
        "conditions": predictor.conditions,
        "layers": [
            {
                "name": layer.kernel.name,
                "part": part.name,
                "op": op_name(layer.kernel),
                "in": [layer.kernel.in_channels, layer.kernel.in_height, layer.kernel.in_width],
                "out": [layer.kernel.out_channels, layer.kernel.out_height, layer.kernel.out_width],
                "kernel": layer.kernel.kernel,
                "stride": layer.kernel.stride,
                "groups": layer.kernel.groups,
                "epilogue": list(layer.kernel.epilogue),
                "params": layer.params,
                "flops": layer.flops,
                "us": layer.seconds * 1e6,
            }
            for part in parts_of(spec, predictor)
            for layer in part.layers
        ],
    }
