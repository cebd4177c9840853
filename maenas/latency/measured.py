"""Measured latency tables: one row a kernel, with its spread, and the conditions of the measurement.

A row stands for one fused kernel of one batch. Rows are compact JSON lists in the order of `Row`'s fields. Beside them
stand blocks and networks that were measured whole, which tell how far a sum of rows is from what it stands for, and the
kernels that could not be measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from maenas.errors import MaenasError
from maenas.files import read_text, write_atomic
from maenas.kernels import IMAGE, Graph, Kernel, Op, Tensor
from maenas.latency.caches import Caches
from maenas.latency.device import Precision
from maenas.lowering import lower_stage
from maenas.spec import Activation, Block, DetectorSpec, StageSpec
from maenas.strict import STRICT, dump_json, parse_json

SCHEMA = "maenas/measured-table@1"
MAX_TABLE_BYTES = 256 << 20
MAX_SIZE = 1 << 20


class KernelKey(NamedTuple):
    """What a kernel's time depends on. `epilogue` is joined by +; `height` and `width` are of the input."""

    op: Op
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int
    groups: int
    epilogue: str


class Row(NamedTuple):
    """One measurement: median and interquartile range in seconds of one batch, over `samples` timings."""

    op: Op
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int
    groups: int
    epilogue: str
    median_s: float
    iqr_s: float | None
    samples: int

    @property
    def key(self) -> KernelKey:
        return KernelKey(*self[:9])


class BlockKey(NamedTuple):
    """A backbone stage without SPP on an input of `height` x `width`: what a `StageSpec` says, in compact form."""

    block: Block
    act: Activation
    in_channels: int
    out_channels: int
    bottleneck: int
    height: int
    width: int
    kernel: int
    stride: int
    depth: int


class BlockRow(NamedTuple):
    """A stage measured whole, inside a graph; times as in `Row`."""

    block: Block
    act: Activation
    in_channels: int
    out_channels: int
    bottleneck: int
    height: int
    width: int
    kernel: int
    stride: int
    depth: int
    median_s: float
    iqr_s: float
    samples: int

    @property
    def key(self) -> BlockKey:
        return BlockKey(*self[:10])


@dataclass(frozen=True)
class NetworkRow:
    """A detector measured whole, from its input to its decoded outputs; times as in `Row`."""

    __pydantic_config__: ClassVar = STRICT
    detector: DetectorSpec
    median_s: float
    iqr_s: float
    samples: int


@dataclass(frozen=True)
class Failure:
    """Something that could not be measured, and what the runtime said."""

    __pydantic_config__: ClassVar = STRICT
    what: str
    reason: str


def block_kernels(key: BlockKey) -> tuple[Kernel, ...]:
    """The deployed kernels of a block; its input is `IMAGE`. Raises `MaenasError` where no stage is like that."""
    stage = StageSpec(key.block, key.in_channels, key.out_channels, key.bottleneck, key.kernel, key.stride, key.depth)
    graph = Graph()
    lower_stage(
        graph,
        Tensor(IMAGE, stage.in_channels, key.height, key.width),
        stage.out_channels,
        stage.bottleneck,
        number=1,
        block=stage.block,
        kernel=stage.kernel,
        stride=stage.stride,
        depth=stage.depth,
        act=key.act,
        spp=False,
    )
    return tuple(graph.kernels)


def key_of(kernel: Kernel) -> KernelKey:
    """Key of a kernel with scalar widths."""
    return KernelKey(
        kernel.op,
        int(kernel.in_channels),
        int(kernel.out_channels),
        kernel.in_height,
        kernel.in_width,
        kernel.kernel,
        kernel.stride,
        int(kernel.groups),
        "+".join(kernel.epilogue),
    )


@dataclass(frozen=True)
class MeasuredTable:
    """Rows of one device, runtime, precision and batch. `conditions` and `method` are statements for people."""

    __pydantic_config__: ClassVar = STRICT
    schema: Literal["maenas/measured-table@1"]
    kind: Literal["measured"]
    id: str
    device: str
    runtime: str
    precision: Precision
    batch: int
    conditions: dict[str, str]
    method: dict[str, str]
    rows: tuple[Row, ...]
    blocks: tuple[BlockRow, ...] = ()
    networks: tuple[NetworkRow, ...] = ()
    failed: tuple[Failure, ...] = ()
    caches: Caches | None = None  # of a CPU: what its caches save a small network

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise MaenasError(f"batch is {self.batch}; it must be at least 1")
        for name in ("threads", "opt_level"):  # the conditions that a clock is set up by again
            if not re.fullmatch(r"[0-9]{1,4}", self.conditions.get(name, "1")):
                raise MaenasError(f"conditions: {name} is {self.conditions[name]!r:.40}; it must be a whole number")
        if not self.rows:
            raise MaenasError("the table has no rows")
        keys = [row.key for row in self.rows]
        if len(set(keys)) < len(keys):
            ((twice, _),) = Counter(keys).most_common(1)
            raise MaenasError(f"two rows for the kernel {tuple(twice)}")
        for kind, rows in (("row", self.rows), ("block", self.blocks), ("network", self.networks)):
            for number, row in enumerate(rows):
                if not (0 < row.median_s < 1e3 and (row.iqr_s is None or 0 <= row.iqr_s < 1e3) and row.samples >= 1):
                    raise MaenasError(f"{kind} {number}: a time or the number of samples is out of range")
        for number, row in enumerate(self.rows):
            if not all(0 < size <= MAX_SIZE for size in row[1:8]):
                raise MaenasError(f"row {number}: a size is out of range")
        for number, block in enumerate(self.blocks):
            if not (0 < block.height <= MAX_SIZE and 0 < block.width <= MAX_SIZE):
                raise MaenasError(f"block {number}: a size is out of range")
            block_kernels(block.key)
        if self.id != content_id(self):
            raise MaenasError(f"id is {self.id!r:.40}, but the content's is {content_id(self)}: the file was edited")


def make_table(
    *,
    device: str,
    runtime: str,
    precision: Precision,
    batch: int,
    conditions: dict[str, str],
    method: dict[str, str],
    rows: tuple[Row, ...],
    blocks: tuple[BlockRow, ...] = (),
    networks: tuple[NetworkRow, ...] = (),
    failed: tuple[Failure, ...] = (),
    caches: Caches | None = None,
) -> MeasuredTable:
    """A table with its id."""
    fields = (device, runtime, precision, batch, conditions, method, rows, blocks, networks, failed, caches)
    return MeasuredTable(SCHEMA, "measured", _hash(fields), *fields)


def content_id(table: MeasuredTable) -> str:
    """First 12 hex digits of the SHA-256 of everything but schema, kind and id, and `caches` where there are none."""
    return _hash(tuple(getattr(table, field.name) for field in dataclasses.fields(table))[3:])


def _hash(fields: tuple) -> str:
    known = fields if fields[-1] is not None else fields[:-1]
    text = json.dumps(known, sort_keys=True, separators=(",", ":"), default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def measured_from_json(text: str, where: str = "latency table") -> MeasuredTable:
    """Strict inverse of `measured_to_json`; raises `MaenasError`."""
    return parse_json(text, MeasuredTable, where=where)


def measured_to_json(table: MeasuredTable) -> str:
    """The table's file, byte for byte the same for the same table; without `caches` where there are none."""
    text = dump_json(table)
    return text if table.caches else text.replace(',\n  "caches": null\n}\n', "\n}\n")


def read_measured(path: str | Path) -> MeasuredTable:
    """Read a measured table; raises `MaenasError`."""
    return measured_from_json(read_text(Path(path), what="latency table", max_bytes=MAX_TABLE_BYTES), str(path))


def write_measured(path: str | Path, table: MeasuredTable) -> None:
    """Write a measured table atomically; raises `MaenasError`."""
    write_atomic(Path(path), measured_to_json(table))
