"""A profile as it is asked for: what to measure, with which backend, into which table."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maenas.deploy.clock import TimingSettings
from maenas.errors import MaenasError
from maenas.files import ensure_folder, output_target, shipped_names
from maenas.latency.find import FOLDER, cpu_name
from maenas.locks import locked
from maenas.nas.space import load_space, space_names
from maenas.outputs import check_file, check_name
from maenas.profiler.backends import make_backend
from maenas.profiler.general import general_samples
from maenas.profiler.plan import describe, estimate_s, plan
from maenas.profiler.profile import Progress, profile
from maenas.profiler.setup import Setup
from maenas.spec import load_spec, published_specs, resized
from maenas.unused import refuse_unused

if TYPE_CHECKING:
    from maenas.choices import Clock, Hardware, KernelRuntime, Method, Precision
    from maenas.latency.measured import MeasuredTable
    from maenas.profiler.probe import Item

OWN = "-own"  # ends the name of a table that a shipped one has already
GPU_WARM_UP_S = 0.002  # a captured graph has chosen its algorithms; what is left are caches
PRECISIONS: dict[KernelRuntime, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "fp16"),
    "openvino": ("fp32", "bf16", "int8"),
    "torch": ("fp32", "fp16"),
    "tensorrt": ("fp32", "fp16", "int8"),
}
REFERENCE_RATE = {"cpu": 5e10, "cuda": 5e12}  # FLOP/s to estimate with before the reference kernel has been timed


@dataclass(frozen=True)
class ProfileRequest:
    """What is measured and how. Without spaces and specs: the kernels of all shipped spaces and published detectors,
    and some that networks of others have.

    `input_size` is the side of the square input in pixels, None for each space's or spec's own; `batch` images at once.
    """

    device: Hardware = "cpu"
    runtime: KernelRuntime = "onnxruntime"
    threads: int = 1
    spaces: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    precision: Precision = "fp32"
    batch: int = 1
    input_size: int | None = None
    clock: Clock = "wall"
    method: Method = "in-graph"
    opt_level: int = 3
    timing_cache: Path | None = None
    name: str | None = None  # id of the device in the table; None: from the hardware

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS[self.runtime]:
            raise MaenasError(
                f"--precision is {self.precision!r}; {self.runtime} measures {', '.join(PRECISIONS[self.runtime])}"
            )
        if self.device != "cpu":
            refuse_unused(ProfileRequest, vars(self), ("threads", "clock"), needs="--device cpu")
        if self.runtime != "tensorrt":
            refuse_unused(ProfileRequest, vars(self), ("opt_level", "timing_cache"), needs="--runtime tensorrt")
        if self.batch < 1:
            raise MaenasError(f"--batch is {self.batch}; it must be at least 1")
        if self.name is not None and _slug(self.name) != self.name:
            raise MaenasError(
                f"--name is {self.name!r}; write it with a-z, 0-9 and '-', for example {_slug(self.name)}"
            )


@dataclass(frozen=True)
class ProfileJob:
    """A request with its items listed and its backend open; `path` is the table's file."""

    items: tuple[Item, ...]
    setup: Setup
    device: str
    path: Path


def items_of(request: ProfileRequest) -> tuple[Item, ...]:
    """The kernels, blocks and networks to measure. Raises `MaenasError` for an unknown space or spec."""
    detectors = [resized(load_spec(name).detector, request.input_size) for name in request.specs]
    spaces, others = request.spaces, ()
    if not spaces and not detectors:
        spaces, detectors = tuple(space_names()), list(published_specs(request.input_size).values())
        others = general_samples()
    return plan([load_space(name) for name in spaces], detectors, others=others, input_size=request.input_size)


def plan_text(request: ProfileRequest) -> str:
    """What would be measured, and about how long that takes."""
    items, rate = items_of(request), REFERENCE_RATE[request.device]
    seconds = estimate_s(
        items, flops_per_s=rate, batch=request.batch, settings=TimingSettings(), runtime=request.runtime
    )
    counts = ", ".join(f"{count} {op}" for op, count in describe(items).items())
    return (
        f"{len(items)} to measure: {counts}\nabout {seconds / 60:.1f} minutes on a device with {rate / 1e9:g} GFLOP/s"
    )


def open_job(request: ProfileRequest, path: Path | None = None) -> ProfileJob:
    """Open the backend and list the items; `path` defaults to a file in `latency_tables` named after the setup, and
    "own" where maenas ships a table of that name.

    Raises `MaenasError` where the runtime is missing or cannot measure this device.
    """
    backend = make_backend(
        request.device,
        request.runtime,
        threads=request.threads,
        clock=request.clock,
        opt_level=request.opt_level,
        timing_cache=request.timing_cache,
    )
    settings = TimingSettings() if request.device == "cpu" else TimingSettings(warm_up_s=GPU_WARM_UP_S)
    setup = Setup(backend, request.precision, request.batch, settings, request.method)
    name = request.name or _slug(f"cpu {cpu_name()}" if request.device == "cpu" else backend.device_name)
    threads = f"t{request.threads}-" if request.device == "cpu" else ""
    stem = f"{name}-{request.runtime}-{threads}{request.precision}-b{request.batch}"
    check_name(name, "--name")
    if stem in shipped_names("latency_tables", ".json"):
        stem += OWN  # a clone has the shipped table in this folder, measured elsewhere
    target = path or FOLDER / f"{stem}.json"
    check_file(target)
    return ProfileJob(items_of(request), setup, name, target)


def run_job(
    job: ProfileJob, *, minutes: float, on_progress: Callable[[Progress], None] = lambda progress: None
) -> MeasuredTable:
    """Measure for at most `minutes`, going on where the table's file stops; see `profile`."""
    ensure_folder(output_target(job.path).parent)
    end = time.monotonic() + 60 * minutes
    with locked(job.path):
        return profile(
            job.items,
            job.setup,
            device=job.device,
            path=job.path,
            stop=lambda: time.monotonic() > end,
            on_progress=on_progress,
        )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"
