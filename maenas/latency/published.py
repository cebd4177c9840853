"""Published whole-network latencies: the file the kernel model is calibrated on (`latency_tables/published/`).

A network is a spec in `searched_models/` (with another neck, for the published ablations), an ONNX file, or a list of
kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from maenas.errors import MaenasError
from maenas.files import read_packed_text, shipped_file
from maenas.kernels import Epilogue, Kernel, Op
from maenas.latency.calibration import Measured
from maenas.lowering import lower
from maenas.spec import published_spec
from maenas.strict import STRICT, parse_json

Size = tuple[int, int]
# op, inputs, in and out channels, (height, width) in and out, kernel, stride, groups, epilogue, residual
KernelRow = tuple[Op, tuple[int, ...], int, int, Size, Size, int, int, int, Epilogue, int | None]
MAX_SIDE = 1 << 24


@dataclass(frozen=True)
class PublishedSetup:
    """Conditions that several measurements share."""

    __pydantic_config__: ClassVar = STRICT
    setup: str
    device: str
    runtime: str
    precision: Literal["fp32", "fp16", "int8"]
    batch: int
    nms_included: bool
    conditions: str
    source: str


@dataclass(frozen=True)
class NeckVariant:
    """What differs from the spec's neck."""

    __pydantic_config__: ClassVar = STRICT
    depth: int
    hidden_ratio: float


@dataclass(frozen=True)
class PublishedNetwork:
    """`spec` names a file in `searched_models/` (without .json); exactly one of `spec` and `kernels` is given.

    `kernels` may name the ONNX file to read them from, relative to the folder of the file that says so.
    """

    __pydantic_config__: ClassVar = STRICT
    name: str
    spec: str | None = None
    neck: NeckVariant | None = None
    kernels: tuple[KernelRow, ...] | str | None = None

    def __post_init__(self) -> None:
        if (self.spec is None) == (self.kernels is None):
            raise MaenasError(f"network {self.name}: give either spec or kernels")
        if self.neck is not None and self.spec is None:
            raise MaenasError(f"network {self.name}: a neck variant needs a spec")
        for index, row in enumerate(self.kernels if isinstance(self.kernels, tuple) else ()):
            sides = (*row[2:4], *row[4], *row[5], *row[6:9])
            sources = (*row[1], *(() if row[10] is None else (row[10],)))
            if any(not 0 < side < MAX_SIDE for side in sides) or any(not -1 <= i < index for i in sources):
                raise MaenasError(f"network {self.name}: kernel {index} has a size or an input out of range")
            if row[2] % row[8] or row[3] % row[8]:
                raise MaenasError(f"network {self.name}: kernel {index}: the groups do not divide the channels")


@dataclass(frozen=True, kw_only=True)
class PublishedLatency:
    """One measurement; see `calibration.Measured` for `scored` and `family`, which is the network's name if empty."""

    __pydantic_config__: ClassVar = STRICT
    setup: str
    network: str
    family: str = ""
    scored: bool = True
    latency_ms: float

    def __post_init__(self) -> None:
        if not 0 < self.latency_ms < 1e6:
            raise MaenasError(f"latency_ms is {self.latency_ms}; it must be more than 0 and less than 1e6")


@dataclass(frozen=True)
class Published:
    """The whole file."""

    __pydantic_config__: ClassVar = STRICT
    schema: Literal["maenas/published-latencies@1"]
    setups: tuple[PublishedSetup, ...]
    networks: tuple[PublishedNetwork, ...]
    measurements: tuple[PublishedLatency, ...]

    def __post_init__(self) -> None:
        setups, networks = [s.setup for s in self.setups], [n.name for n in self.networks]
        for names in (setups, networks):
            if len(set(names)) < len(names):
                raise MaenasError(f"a name appears twice in {', '.join(names)}")
        for row in self.measurements:
            if row.setup not in setups:
                raise MaenasError(f"unknown setup {row.setup!r}; the file has {', '.join(setups)}")
            if row.network not in networks:
                raise MaenasError(f"unknown network {row.network!r}; the file has {', '.join(networks)}")

    def find_setup(self, setup: str) -> PublishedSetup:
        """The setup of this name; raises `MaenasError` listing the known ones."""
        for known in self.setups:
            if known.setup == setup:
                return known
        raise MaenasError(f"unknown setup {setup!r}; the known ones are {', '.join(s.setup for s in self.setups)}")


def read_published(path: str | Path | None = None) -> Published:
    """Read a file of published latencies (.json or .json.gz), and the ONNX files that it names; the shipped T4 file if
    `path` is None.

    Raises `MaenasError`, also for an ONNX file much of which is operators that have no rule.
    """
    path = shipped_file("latency_tables", "published/t4.json") if path is None else Path(path)
    published = parse_json(read_packed_text(path, what="published latencies"), Published, where=str(path))
    return dataclasses.replace(published, networks=tuple(_read(n, path.parent) for n in published.networks))


def _read(network: PublishedNetwork, folder: Path) -> PublishedNetwork:
    if not isinstance(network.kernels, str):
        return network
    from maenas.latency.onnx.lower import kernels_from_onnx  # a search needs none of it

    return dataclasses.replace(network, kernels=kernel_rows(kernels_from_onnx(folder / network.kernels)))


def measured_networks(published: Published, setup: str) -> tuple[Measured, ...]:
    """The networks of one setup with their kernels, ready for `calibration.calibrate`."""
    published.find_setup(setup)
    networks = {network.name: network for network in published.networks}
    return tuple(
        Measured(
            row.network,
            network_kernels(networks[row.network]),
            row.latency_ms / 1e3,
            row.family or row.network,
            row.scored,
        )
        for row in published.measurements
        if row.setup == setup
    )


def network_kernels(network: PublishedNetwork) -> tuple[Kernel, ...]:
    """Deployed kernels of a published network, as `read_published` gives it."""
    assert not isinstance(network.kernels, str)
    if network.spec is None:
        return tuple(_kernel(index, row) for index, row in enumerate(network.kernels or ()))
    spec = published_spec(network.spec)
    if network.neck is not None:
        neck = dataclasses.replace(spec.neck, depth=network.neck.depth, hidden_ratio=network.neck.hidden_ratio)
        spec = dataclasses.replace(spec, neck=neck)
    return lower(spec)


def kernel_rows(kernels: Sequence[Kernel]) -> tuple[KernelRow, ...]:
    """Compact form of scalar kernels; names, stages and signal fan-ins are dropped."""
    return tuple(
        (
            k.op,
            k.inputs,
            k.in_channels,
            k.out_channels,
            (k.in_height, k.in_width),
            (k.out_height, k.out_width),
            k.kernel,
            k.stride,
            k.groups,
            k.epilogue,
            k.residual,
        )
        for k in kernels
    )


def _kernel(index: int, row: KernelRow) -> Kernel:
    op, inputs, cin, cout, size_in, size_out, kernel, stride, groups, epilogue, residual = row
    return Kernel(
        op, f"{op}{index}", inputs, cin, cout, *size_in, *size_out, kernel, stride, groups, epilogue, residual
    )
