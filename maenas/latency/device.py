"""The device catalogue: peak rates and sizes of the hardware, each with its source."""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from maenas.choices import Precision
from maenas.errors import MaenasError
from maenas.files import read_text, shipped_file
from maenas.strict import STRICT, parse_yaml


@dataclass(frozen=True)
class Figure:
    """One number of a device and where it comes from; `verified` is false until a published source was checked."""

    __pydantic_config__ = STRICT

    value: float
    source: str
    verified: bool

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise MaenasError(f"the value must be more than zero, got {self.value}")
        if not self.source.strip():
            raise MaenasError("the source must not be empty")


@dataclass(frozen=True)
class Device:
    """A device. Rates are dense (no structured sparsity), in tera-operations a second; a multiply-add counts as two.

    `memory_bandwidth_gbs` is in 1e9 bytes a second, `l2_cache_mb` in MiB. A rate that the hardware does not have
    is None. `tf32_tflops` is the rate of fp32 convolutions where tensor cores take them (Ampere and later), as the
    runtimes do unless told not to; None where it is no higher than `fp32_tflops`.
    """

    __pydantic_config__ = STRICT

    id: str
    name: str
    sm_count: Figure
    boost_clock_mhz: Figure
    memory_bandwidth_gbs: Figure
    l2_cache_mb: Figure
    fp32_tflops: Figure
    fp16_tflops: Figure | None
    int8_tops: Figure | None
    tf32_tflops: Figure | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.id):
            raise MaenasError(f"the id {self.id!r} must be lower-case letters and digits, joined by single dashes")
        if self.sm_count.value != int(self.sm_count.value):
            raise MaenasError(f"sm_count must be a whole number, got {self.sm_count.value}")


@dataclass(frozen=True)
class _Catalogue:
    __pydantic_config__ = STRICT

    schema: Literal["maenas/devices@1"]
    devices: tuple[Device, ...]

    def __post_init__(self) -> None:
        if not self.devices:
            raise MaenasError("devices must not be empty")
        owners: dict[str, str] = {}
        for device in self.devices:
            for key in {_key(name) for name in (device.id, *device.aliases)}:
                if key in owners:
                    raise MaenasError(f"{owners[key]!r} and {device.id!r} share the name {key!r}")
                owners[key] = device.id


def load_devices(path: str | os.PathLike[str] | None = None) -> dict[str, Device]:
    """The devices of a catalogue file by id, in the order of the file; the shipped catalogue if `path` is None.

    Raises MaenasError, with the place in the file, for whatever is wrong with it.
    """
    path = shipped_file("latency_tables", "devices.yaml") if path is None else Path(path)
    return devices_from_yaml(read_text(path, what="device catalogue"), str(path))


def devices_from_yaml(text: str, where: str = "device catalogue") -> dict[str, Device]:
    """Strict reader of a catalogue's text; raises MaenasError naming `where`, line and key."""
    return {device.id: device for device in parse_yaml(text, _Catalogue, where=where).devices}


def get_device(name: str) -> Device:
    """The device with this id or alias, whatever its case, blanks and dashes; or the one in a YAML file.

    A file with several devices needs the id as well: ``my_devices.yaml#my-board``.

    Raises MaenasError for an unknown device, which lists the known ones.
    """
    file, _, id_ = name.partition("#")
    if file.lower().endswith((".yaml", ".yml")):
        return _from_file(file, id_)
    devices = load_devices()
    by_key = {_key(alias): device for device in devices.values() for alias in (device.id, *device.aliases)}
    if _key(name) in by_key:
        return by_key[_key(name)]
    nearest = difflib.get_close_matches(_key(name), by_key, n=1)
    hint = f"; did you mean {by_key[nearest[0]].id}?" if nearest else ""
    raise MaenasError(
        f"unknown device {name!r}{hint}\n"
        f"The known devices are {', '.join(devices)}. For another one, write a YAML file like "
        f"latency_tables/devices.yaml and pass its path."
    )


def peak_ops_per_s(device: Device, *, precision: Precision) -> float:
    """The peak dense rate in operations a second; fp32 means TF32 where the hardware has it, bf16 is as fast as fp16.

    Raises MaenasError if the hardware has none for this precision.
    """
    fp32 = device.tf32_tflops or device.fp32_tflops
    half = device.fp16_tflops
    figure = {"fp32": fp32, "bf16": half, "fp16": half, "int8": device.int8_tops}[precision]
    if figure is None:
        raise MaenasError(f"{device.name} has no {precision} arithmetic; choose another precision")
    return figure.value * 1e12


def _from_file(path: str, id_: str) -> Device:
    devices = load_devices(path)
    if not id_ and len(devices) == 1:
        return next(iter(devices.values()))
    if id_ in devices:
        return devices[id_]
    problem = f"there is no device {id_!r}" if id_ else "it holds several devices"
    raise MaenasError(f"{path}: {problem}; name one of {', '.join(f'{path}#{known}' for known in devices)}")


def _key(name: str) -> str:
    """What counts in a name: "NVIDIA GeForce RTX 4090", "RTX-4090" and "rtx4090" are the same."""
    words = re.findall(r"[a-z0-9]+", name.casefold())
    return "".join(word for word in words if word not in ("nvidia", "geforce", "tesla", "jetson"))
