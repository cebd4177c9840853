"""What a backend offers: it builds a program once and runs it again and again."""

from __future__ import annotations

from typing import Protocol

from maenas.deploy.program import Program
from maenas.latency.device import Precision


class Runner(Protocol):
    """A program that is ready to run on inputs that stay where they are."""

    def time_once(self) -> float:
        """Run once and return the seconds it took, by the device's own clock where it has one."""
        ...

    def close(self) -> None:
        """Free what the program holds; it cannot run any more."""
        ...


class Backend(Protocol):
    """One runtime on one device in one setup."""

    @property
    def merges(self) -> bool:
        """Whether it makes one of convolutions that read the same, so that copies have to be `apart`."""
        ...

    @property
    def runtime(self) -> str:
        """Name and version, for example "onnxruntime-cpu 1.32.0"."""
        ...

    @property
    def device_name(self) -> str:
        """What the device calls itself."""
        ...

    @property
    def gpu(self) -> str | None:
        """UUID of the GPU that is used, None for a CPU and where nothing tells."""
        ...

    @property
    def conditions(self) -> dict[str, str]:
        """What else a latency depends on: threads, driver, clocks."""
        ...

    def build(self, program: Program, *, precision: Precision, batch: int) -> Runner:
        """Raises `MaenasError` where the runtime cannot take the program."""
        ...
