"""Latency tables: constants of the kernel model with the conditions and residuals they were fitted under.

`kind` says where the numbers come from; "modelled" is the only one so far.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from maenas.errors import MaenasError
from maenas.files import read_text, shipped_file, write_atomic
from maenas.latency.calibration import CONSTANT_NAMES, FREE_NAMES, PULL, START, Calibration, Residual, calibrate
from maenas.latency.device import Precision, get_device
from maenas.latency.kernel_model import Constants
from maenas.latency.published import Published, measured_networks
from maenas.strict import STRICT, dump_json, parse_json

# Shipped tables, those of fp16 but for `PRECISIONS`; the first setup of a device is its default.
SETUPS: dict[str, tuple[str, ...]] = {
    "t4": ("tensorrt10", "damo-yolo-report", "detr-papers"),
    "a100": ("ultralytics",),
    "rtx3090": ("trtutils",),
    "rtx3080ti": ("trtutils",),
    "titan-rtx": ("trtutils",),
    "orin-agx": ("trtutils",),
    "orin-nx": ("trtutils",),
    "orin-nano": ("trtutils",),
    "orin-nano-super": ("ultralytics",),
    "xavier-nx": ("trtutils",),
}
PRECISIONS: dict[str, tuple[Precision, ...]] = {"orin-nano-super@ultralytics": ("fp16", "int8")}
# The largest share of a network's time that is attention, or what it consists of, among those that a setup is
# calibrated on; elsewhere the usual one.
ATTENTION: dict[str, float] = {"t4@detr-papers": 0.4}
USUAL_ATTENTION = 0.1  # 0.09 as the setups' own models say
FREE_NETWORKS = 8  # two for each constant


@dataclass(frozen=True)
class CalibrationRecord:
    """How the constants came about. `tied` lists constants taken over from the table `tied_to` instead of fitted.

    A constant in neither has its default. `pulled`: the fit was drawn to what devices share (`calibration.PULL`).
    """

    __pydantic_config__: ClassVar = STRICT
    source: str
    fitted: tuple[str, ...]
    tied: tuple[str, ...]
    tied_to: str | None
    mean_error_fit: float
    mean_error_left_out: float
    residuals: tuple[Residual, ...]
    pulled: bool = False

    def __post_init__(self) -> None:
        stated = (*self.fitted, *self.tied)
        if len(set(stated)) < len(stated) or not set(FREE_NAMES) <= set(stated) <= set(CONSTANT_NAMES):
            raise MaenasError(
                f"fitted and tied together must hold each of {', '.join(FREE_NAMES)} once, "
                f"and of {', '.join(CONSTANT_NAMES)} no other"
            )
        if bool(self.tied) != (self.tied_to is not None):
            raise MaenasError("tied_to names a table exactly when some constants are tied")
        if len(self.scored) < 2:
            raise MaenasError("a calibration has at least two scored networks")
        if any(not 1e-4 <= ms <= 1e7 for r in self.residuals for ms in (r.measured_ms, r.fitted_ms, r.left_out_ms)):
            raise MaenasError("every latency must be 1e-4 to 1e7 ms")

    @property
    def scored(self) -> tuple[Residual, ...]:
        """Residuals that count in the errors."""
        return tuple(r for r in self.residuals if r.scored)

    @property
    def families(self) -> int:
        """Scored families: as many networks as are independent of each other."""
        return len({r.family for r in self.scored})


@dataclass(frozen=True)
class LatencyTable:
    """One device in one setup. Latencies are of one batch, in the named precision."""

    __pydantic_config__: ClassVar = STRICT
    schema: Literal["maenas/latency-table@1"]
    kind: Literal["modelled"]
    id: str
    device: str
    setup: str
    runtime: str
    precision: Precision
    batch: int
    nms_included: bool
    conditions: str
    constants: Constants
    calibration: CalibrationRecord

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise MaenasError(f"batch is {self.batch}; it must be at least 1")
        if self.id != content_id(self):
            raise MaenasError(f"id is {self.id!r:.40}, but the content's is {content_id(self)}: the file was edited")


def content_id(table: LatencyTable) -> str:
    """First 12 hex digits of the SHA-256 of everything but the id, as canonical JSON."""
    return _hash({name: value for name, value in dataclasses.asdict(table).items() if name != "id"})


def _hash(fields: dict) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def table_from_json(text: str, where: str = "latency table") -> LatencyTable:
    """Strict inverse of `table_to_json`; raises `MaenasError`."""
    return parse_json(text, LatencyTable, where=where)


def table_to_json(table: LatencyTable) -> str:
    """The table's file, byte for byte the same for the same table."""
    return dump_json(table)


def read_table(path: str | Path) -> LatencyTable:
    """Read a table file; raises `MaenasError`."""
    return table_from_json(read_text(path, what="latency table"), str(path))


def write_table(path: str | Path, table: LatencyTable) -> None:
    """Write a table file atomically; raises `MaenasError`."""
    write_atomic(path, table_to_json(table))


def shipped_table(device: str, setup: str, precision: Precision = "fp16") -> LatencyTable:
    """The shipped table of a device (its catalogue id) in a setup; raises `MaenasError` listing the known setups."""
    if setup not in SETUPS.get(device, ()):
        names = ", ".join(f"{name}@{s}" for name, setups in SETUPS.items() for s in setups)
        raise MaenasError(f"there is no setup {setup!r} of {device}; the known ones are {names}")
    return read_table(shipped_file("latency_tables", f"{device}-{setup}-{precision}-b1.json"))


def shipped_precisions(device: str, setup: str) -> tuple[Precision, ...]:
    """Precisions that a shipped setup was calibrated in."""
    return PRECISIONS.get(f"{device}@{setup}", ("fp16",))


def familiar_attention(device: str, setup: str) -> float:
    """The largest share of a network's time that may be attention where a setup's error is to hold."""
    return ATTENTION.get(f"{device}@{setup}", USUAL_ATTENTION)


def calibrate_table(
    published: Published, setup: str, *, fitted: tuple[str, ...] = FREE_NAMES, base: LatencyTable | None = None
) -> LatencyTable:
    """Table fitted to the published latencies of `setup`; constants not in `fitted` are those of `base`.

    Without a base, families too few to tell the constants apart are pulled to what devices share.
    """
    if base is None and set(fitted) != set(FREE_NAMES):
        raise MaenasError("constants that are not fitted need a base table to come from")
    conditions = published.find_setup(setup)
    networks = measured_networks(published, setup)
    pulled = base is None and len({network.family for network in networks}) < len(FREE_NAMES) + 2
    calibration = calibrate(
        networks,
        device=get_device(conditions.device),
        precision=conditions.precision,
        batch=conditions.batch,
        fitted=fitted,
        start=START if base is None else base.constants,
        pull=PULL if pulled else None,
    )
    record = _record(calibration, conditions.source, base, pulled)
    fields = {
        "schema": "maenas/latency-table@1",
        "kind": "modelled",
        "device": conditions.device,
        "setup": (setup.partition("@")[2] or setup).removesuffix(f"-{conditions.precision}"),
        "runtime": conditions.runtime,
        "precision": conditions.precision,
        "batch": conditions.batch,
        "nms_included": conditions.nms_included,
        "conditions": conditions.conditions,
        "constants": calibration.constants,
        "calibration": record,
    }
    return LatencyTable(**fields, id=_hash(fields))


def calibrate_all(published: Published) -> tuple[LatencyTable, ...]:
    """A table for every setup, the one with most networks first.

    A setup with too few networks to tell all constants apart (`FREE_NETWORKS`) fits its compute rate and launch
    floor only and takes the others from the first table of the same device.
    """
    scored = {
        s.setup: sum(row.setup == s.setup and row.scored for row in published.measurements) for s in published.setups
    }
    tables: list[LatencyTable] = []
    for setup in sorted(published.setups, key=lambda s: -scored[s.setup]):
        base = next((table for table in tables if table.device == setup.device), None)
        if base is not None and scored[setup.setup] < FREE_NETWORKS:
            tables.append(calibrate_table(published, setup.setup, fitted=("compute_efficiency", "launch_s"), base=base))
        else:
            tables.append(calibrate_table(published, setup.setup))
    return tuple(tables)


def table_name(table: LatencyTable) -> str:
    """File name of a table, without .json."""
    return f"{get_device(table.device).id}-{table.setup}-{table.precision}-b{table.batch}"


def _record(calibration: Calibration, source: str, base: LatencyTable | None, pulled: bool) -> CalibrationRecord:
    tied = tuple(name for name in FREE_NAMES if name not in calibration.fitted)
    return CalibrationRecord(
        source,
        calibration.fitted,
        tied,
        base.id if base is not None and tied else None,
        round(calibration.fit_mean_error, 5),
        round(calibration.left_out_mean_error, 5),
        calibration.residuals,
        pulled,
    )
