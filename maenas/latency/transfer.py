"""What devices share: constants for a device of which no latency is known, and how far off they were elsewhere.

The constants are the medians over calibrated devices, one setup each. A launch is counted in clock cycles, which vary
less from device to device than seconds do. The error that is claimed is that of devices left out whole, together with
all others of their kind (the same GPU architecture in the same class).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from maenas.errors import MaenasError
from maenas.files import read_text, shipped_file, write_atomic
from maenas.latency.calibration import Measured, network_work
from maenas.latency.device import Device, load_devices
from maenas.latency.intervals import student_t95
from maenas.latency.kernel_model import Constants, work_seconds
from maenas.latency.table import LatencyTable
from maenas.strict import STRICT, dump_json, parse_json

FILE = "shared-fp16-b1.json"


@dataclass(frozen=True)
class SharedConstants:
    """As `kernel_model.Constants`, but a launch is in clock cycles at boost, and the host is never waited for."""

    __pydantic_config__: ClassVar = STRICT
    compute_efficiency: float
    memory_efficiency: float
    launch_cycles: float
    serial_cycles: float
    concat_passes: float

    def on(self, device: Device) -> Constants:
        """For one device."""
        launch_s = self.launch_cycles / (device.boost_clock_mhz.value * 1e6)
        fields = (self.compute_efficiency, self.memory_efficiency, launch_s, self.serial_cycles)
        return Constants(*fields, concat_passes=self.concat_passes)


@dataclass(frozen=True)
class HeldOut:
    """One device, predicted by what those of other kinds share.

    `bias` is the mean log error, `rms` the root mean square of the log errors.
    """

    __pydantic_config__: ClassVar = STRICT
    device: str
    setup: str
    kind: str
    latencies: int
    mean_error: float
    bias: float
    rms: float

    def __post_init__(self) -> None:
        if not 0 <= self.rms < 10:
            raise MaenasError(f"rms is {self.rms}; it must be 0 to 10")


@dataclass(frozen=True)
class Transfer:
    """The file: ids of the tables whose medians the constants are, and the devices left out."""

    __pydantic_config__: ClassVar = STRICT
    schema: Literal["maenas/shared-constants@1"]
    tables: tuple[str, ...]
    constants: SharedConstants
    held_out: tuple[HeldOut, ...]

    def __post_init__(self) -> None:
        if len({row.kind for row in self.held_out}) < 2:
            raise MaenasError("shared constants need devices of at least two kinds that were held out")

    @property
    def mean_error(self) -> float:
        """Mean over the devices of their mean absolute relative error."""
        return statistics.fmean(row.mean_error for row in self.held_out)

    @property
    def log_half_width(self) -> float:
        """Of the 90 % range: t s sqrt(1 + 1/n) as for a calibrated table, n and s^2 counted by kind of device."""
        squares: dict[str, list[float]] = {}
        for row in self.held_out:
            squares.setdefault(row.kind, []).append(row.rms**2)
        n = len(squares)
        return student_t95(n) * math.sqrt(statistics.fmean(map(statistics.fmean, squares.values())) * (1 + 1 / n))


@dataclass(frozen=True)
class Source:
    """A calibrated device with the networks it was calibrated on; those of one `kind` are left out together."""

    table: LatencyTable
    networks: tuple[Measured, ...]
    kind: str


def read_transfer() -> Transfer:
    """The shipped file; raises `MaenasError`."""
    path = shipped_file("latency_tables", FILE)
    return parse_json(read_text(path, what="shared constants"), Transfer, where=str(path))


def write_transfer(path: str | Path, transfer: Transfer) -> None:
    """Write the file atomically; raises `MaenasError`."""
    write_atomic(path, dump_json(transfer))


def transfer_from(sources: Sequence[Source]) -> Transfer:
    """Shared constants of all sources, and each source predicted without those of its kind."""
    devices, held_out = load_devices(), []
    for source in sources:
        shared = shared_constants([other.table for other in sources if other.kind != source.kind], devices)
        held_out.append(_held_out(source, shared, devices[source.table.device]))
    tables = [source.table for source in sources]
    ids = tuple(table.id for table in tables)
    return Transfer("maenas/shared-constants@1", ids, shared_constants(tables, devices), tuple(held_out))


def shared_constants(tables: Sequence[LatencyTable], devices: Mapping[str, Device]) -> SharedConstants:
    """Medians over the tables, of `devices` by their ids."""

    def median(values: list[float]) -> float:
        return float(f"{statistics.median(values):.4g}")

    constants = [table.constants for table in tables]
    clocks = [devices[table.device].boost_clock_mhz.value * 1e6 for table in tables]
    return SharedConstants(
        median([c.compute_efficiency for c in constants]),
        median([c.memory_efficiency for c in constants]),
        median([c.launch_s * clock for c, clock in zip(constants, clocks, strict=True)]),
        median([c.serial_cycles for c in constants]),
        median([c.concat_passes for c in constants]),
    )


def _held_out(source: Source, shared: SharedConstants, device: Device) -> HeldOut:
    table = source.table
    constants, logs = shared.on(device), []
    for network in source.networks:
        work = network_work(network.kernels, device=device, precision=table.precision, batch=table.batch)
        logs.append(math.log(float(np.sum(work_seconds(work, constants))) / network.seconds))
    errors = np.array(logs)
    return HeldOut(
        table.device,
        table.setup,
        source.kind,
        len(errors),
        round(float(np.mean(np.abs(np.expm1(errors)))), 4),
        round(float(np.mean(errors)), 4),
        round(float(np.sqrt(np.mean(errors**2))), 4),
    )
