"""Foreign latency data -> files of this project.

`import_published` reads the collected T4 latencies (whole networks, with ONNX-like graphs where a network is not a
DAMO-YOLO) and gives what is shipped as `latency_tables/published/t4.json`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.files import data_dir, read_text
from maenas.latency.onnx_graph import kernels_from_json
from maenas.latency.published import (
    NeckVariant,
    Published,
    PublishedLatency,
    PublishedNetwork,
    PublishedSetup,
    kernel_rows,
    network_kernels,
)
from maenas.spec import read_spec
from maenas.strict import STRICT, parse_json

GFLOPS_TOLERANCE = 0.01  # the published counts include biases


@dataclass(frozen=True)
class _Setup:
    __pydantic_config__: ClassVar = STRICT
    setup: str
    device: str
    runtime: str
    precision: Literal["fp32", "fp16", "int8"]
    batch: int
    nms_included: bool
    source: str


@dataclass(frozen=True)
class _Measurement:
    __pydantic_config__: ClassVar = STRICT
    setup: str
    model: str
    input_size: int
    latency_ms: float
    graph: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Ablations:
    __pydantic_config__: ClassVar = STRICT
    setup: str
    note: str
    neck_depth_width: tuple[tuple[int, tuple[int, int, int], float, float, float], ...]
    columns: tuple[str, ...]
    queen_fusion: tuple[dict[str, Any], ...]
    backbone: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Collected:
    __pydantic_config__: ClassVar = STRICT
    setups: tuple[_Setup, ...]
    measurements: tuple[_Measurement, ...]
    ablations: _Ablations


def import_published(path: str | Path) -> Published:
    """Published latencies of the collected file at `path`. Raises `MaenasError`."""
    source = parse_json(read_text(path, what="collected latencies"), _Collected, where=str(path))
    setups = tuple(
        PublishedSetup(
            s.setup,
            s.device,
            s.runtime.replace("tensorrt", "TensorRT"),
            s.precision,
            s.batch,
            s.nms_included,
            "input 640x640",
            s.source,
        )
        for s in source.setups
    )
    networks: dict[str, PublishedNetwork] = {}
    latencies = []
    for row in source.measurements:
        rows = None if row.graph is None else kernel_rows(kernels_from_json(row.graph, row.model))
        network = PublishedNetwork(row.model, row.model if rows is None else None, None, rows)
        if networks.setdefault(row.model, network) != network:
            raise MaenasError(f"{path}: {row.model} is there with two different graphs")
        latencies.append(PublishedLatency(row.setup, row.model, row.model, True, row.latency_ms))
    for network, latency_ms in _neck_variants(source.ablations):
        networks[network.name] = network
        latencies.append(PublishedLatency(source.ablations.setup, network.name, str(network.spec), False, latency_ms))
    return Published("maenas/published-latencies@1", setups, tuple(networks.values()), tuple(latencies))


def _neck_variants(ablations: _Ablations, spec: str = "damo-yolo-s") -> list[tuple[PublishedNetwork, float]]:
    """The neck ablations that a `NeckSpec` can express: hidden widths in one ratio to the output widths.

    The variant that is the released model is measured already and left out.
    """
    neck = read_spec(data_dir("searched_models") / f"{spec}.json").detector.neck
    variants = []
    for depth, hidden, latency_ms, gflops, _ in ablations.neck_depth_width:
        ratios = {width / out for width, out in zip(hidden, neck.out_channels, strict=True)}
        if len(ratios) > 1:
            continue
        variant = NeckVariant(depth, ratios.pop())
        if dataclasses.replace(neck, depth=variant.depth, hidden_ratio=variant.hidden_ratio) == neck:
            continue
        name = f"{spec}-neck-depth{depth}-hidden{variant.hidden_ratio:g}"
        network = PublishedNetwork(name, spec, variant, None)
        ours = total_cost(network_kernels(network)).flops / 1e9
        if abs(ours / gflops - 1) > GFLOPS_TOLERANCE:
            raise MaenasError(f"{name}: {gflops} GFLOPs published, {ours:.2f} lowered; it is another network")
        variants.append((network, latency_ms))
    return variants
