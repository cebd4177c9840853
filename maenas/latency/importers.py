"""Foreign latency data -> files of this project.

`import_published` reads the collected T4 latencies (whole networks, with ONNX-like graphs where a network is not a
DAMO-YOLO) and gives what is shipped as `latency_tables/published/t4.json`.

`import_kernels` reads published tables of single convolutions, as columns (`.csv`, `.csv.gz`) or as text lines

    {Regular,1,64,56,56,64,3,1,0} 0.0169

= {conv type, batch, input channels, height, width, output channels, kernel, stride, residual add} milliseconds.

A residual add becomes the epilogue "add": the added tensor has the shape of the output, whatever stride and widths (in
TensorRT fp16 on a V100, batch 1, the rows that write at least 20 MB grow by 0.5 to 0.9 of the time in which 900 GB/s
read such a tensor). Which activation was fused, if any, was not published, so none is recorded.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.files import read_packed_text, read_text
from maenas.latency.device import Precision
from maenas.latency.measured import MAX_SIZE, MAX_TABLE_BYTES, KernelKey, MeasuredTable, Row, make_table
from maenas.latency.onnx.lower import kernels_from_json
from maenas.latency.published import (
    NeckVariant,
    Published,
    PublishedLatency,
    PublishedNetwork,
    PublishedSetup,
    kernel_rows,
    network_kernels,
)
from maenas.spec import published_spec
from maenas.strict import STRICT, parse_json

GFLOPS_TOLERANCE = 0.01  # the published counts include biases
COLUMNS = (
    *("conv", "batch", "in_channels", "in_height", "in_width"),
    *("out_channels", "kernel", "stride", "residual_add", "latency_ms"),
)
TEXT_LINE = re.compile(r"\{([^{}]*)\}\s+(\S+)")


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
        network = PublishedNetwork(row.model, row.model if rows is None else None, kernels=rows)
        if networks.setdefault(row.model, network) != network:
            raise MaenasError(f"{path}: {row.model} is there with two different graphs")
        latencies.append(
            PublishedLatency(setup=row.setup, network=row.model, family=row.model, latency_ms=row.latency_ms)
        )
    for network, latency_ms in _neck_variants(source.ablations):
        networks[network.name] = network
        setup, family = source.ablations.setup, str(network.spec)
        latencies.append(
            PublishedLatency(setup=setup, network=network.name, family=family, scored=False, latency_ms=latency_ms)
        )
    return Published("maenas/published-latencies@1", setups, tuple(networks.values()), tuple(latencies))


def _neck_variants(ablations: _Ablations) -> list[tuple[PublishedNetwork, float]]:
    """The neck ablations that a `NeckSpec` can express: hidden widths in one ratio to the output widths.

    The variant that is the released model is measured already and left out.
    """
    spec = "damo-yolo-s"
    neck = published_spec(spec).neck
    variants = []
    for depth, hidden, latency_ms, gflops, _ in ablations.neck_depth_width:
        ratios = {width / out for width, out in zip(hidden, neck.out_channels, strict=True)}
        if len(ratios) > 1:
            continue
        variant = NeckVariant(depth, ratios.pop())
        if dataclasses.replace(neck, depth=variant.depth, hidden_ratio=variant.hidden_ratio) == neck:
            continue
        name = f"{spec}-neck-depth{depth}-hidden{variant.hidden_ratio:g}"
        network = PublishedNetwork(name, spec, variant)
        ours = total_cost(network_kernels(network)).flops / 1e9
        if abs(ours / gflops - 1) > GFLOPS_TOLERANCE:
            raise MaenasError(f"{name}: {gflops} GFLOPs published, {ours:.2f} lowered; it is another network")
        variants.append((network, latency_ms))
    return variants


def import_kernels(
    path: str | Path,
    *,
    precision: Precision,
    device: str = "v100",
    runtime: str = "TensorRT (version not published)",
    source: str = "published kernel table",
    licence: str = "Apache-2.0",
) -> dict[int, MeasuredTable]:
    """Tables by batch from a published kernel table. Rows for one kernel are merged into one: the median of their
    times, their interquartile range (none for a single row), and their number. Raises `MaenasError` with file and line.
    """
    found: dict[int, dict[KernelKey, list[float]]] = {}
    for place, fields in _kernel_lines(Path(path)):
        batch, key, seconds = _kernel_row(fields, place)
        found.setdefault(batch, {}).setdefault(key, []).append(seconds)
    if not found:
        raise MaenasError(f"{path}: there is no kernel in it")
    conditions = {
        "timing": "lone launches of single kernels; inside a network a kernel does not pay its launch in full",
        "epilogue": "add where a residual was added; the activation was not published",
        "source": source,
        "licence": licence,
    }
    method = {
        "imported_from": Path(path).name,
        "spread": "not published; where a kernel is there several times, median and interquartile range of its rows",
    }
    return {
        batch: make_table(
            device=device,
            runtime=runtime,
            precision=precision,
            batch=batch,
            conditions=conditions,
            method=method,
            rows=tuple(_merged(key, times) for key, times in sorted(kernels.items())),
        )
        for batch, kernels in sorted(found.items())
    }


def _merged(key: KernelKey, times: list[float]) -> Row:
    if len(times) == 1:
        return Row(*key, times[0], None, 1)
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Row(*key, round(median, 12), round(high - low, 12), len(times))


def _kernel_lines(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Place and the fields in the order of `COLUMNS` of every row; blank lines are skipped."""
    is_columns = path.name.lower().endswith((".csv", ".csv.gz"))
    lines = io.StringIO(read_packed_text(path, what="kernel table", max_bytes=MAX_TABLE_BYTES), newline=None)
    for number, line in enumerate(lines, start=1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        if is_columns:
            fields = tuple(field.strip() for field in line.split(","))
            if number == 1:
                if fields != COLUMNS:
                    raise MaenasError(f"{place}: the columns must be {','.join(COLUMNS)}")
                continue
        else:
            match = TEXT_LINE.fullmatch(line.strip())
            if match is None:
                raise MaenasError(f"{place}: not of the form {{{','.join(COLUMNS[:-1])}}} {COLUMNS[-1]}: {line!a:.80}")
            fields = (*(field.strip() for field in match[1].split(",")), match[2])
        if len(fields) != len(COLUMNS):
            raise MaenasError(f"{place}: {len(fields)} values, but {len(COLUMNS)} are needed: {', '.join(COLUMNS)}")
        yield place, fields


def _kernel_row(fields: tuple[str, ...], place: str) -> tuple[int, KernelKey, float]:
    """Batch, kernel and seconds of one row."""
    kind = fields[0].lower()
    if kind not in ("regular", "depthwise"):
        raise MaenasError(f"{place}: conv is {fields[0]!a:.40}; it must be regular or depthwise")
    named = zip(COLUMNS[1:-1], fields[1:-1], strict=True)
    sizes = {name: _whole(text, name, place) for name, text in named}
    residual = sizes["residual_add"]
    if residual not in (0, 1):
        raise MaenasError(f"{place}: residual_add is {residual}; it must be 0 or 1")
    inputs, outputs = sizes["in_channels"], sizes["out_channels"]
    if kind == "depthwise" and inputs != outputs:
        raise MaenasError(f"{place}: a depthwise convolution of {inputs} to {outputs} channels; they must be equal")
    try:
        milliseconds = float(fields[-1])
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < 1e6:
        raise MaenasError(f"{place}: latency_ms is {fields[-1]!a:.40}; it must be a number above 0")
    groups = inputs if kind == "depthwise" else 1
    shape = (inputs, outputs, sizes["in_height"], sizes["in_width"], sizes["kernel"], sizes["stride"], groups)
    key = KernelKey("conv", *shape, "add" if residual else "")
    return sizes["batch"], key, float(f"{milliseconds * 1e-3:.9g}")


def _whole(text: str, name: str, place: str) -> int:
    least = 0 if name == "residual_add" else 1
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= MAX_SIZE):
        raise MaenasError(f"{place}: {name} is {text!a:.40}; it must be a whole number of {least} to {MAX_SIZE}")
    return int(text)
