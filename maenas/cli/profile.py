"""`maenas profile`: measure the kernels of this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maenas.choices import Clock, Hardware, KernelRuntime, Method, Precision
from maenas.cli.extras import require_extra
from maenas.cli.options import output_file, output_name
from maenas.errors import MaenasError

if TYPE_CHECKING:
    from maenas.deploy.clock import Timing
    from maenas.latency.measured import MeasuredTable
    from maenas.profiler.job import ProfileJob
    from maenas.profiler.profile import Progress


STEADY = 0.15  # interquartile range of the reference kernel's time; 0.03 to 0.12 when the shipped tables were measured


@dataclass(frozen=True)
class Setup:
    """What is measured and how; field by field as in `ProfileRequest`."""

    device: Annotated[Hardware, typer.Option("--device", help="Hardware to measure.")] = "cpu"
    runtime: Annotated[
        KernelRuntime, typer.Option("--runtime", help="openvino is for cpu, torch and tensorrt are for cuda.")
    ] = "onnxruntime"
    threads: Annotated[int, typer.Option("--threads", help="CPU threads of an operator.", min=1, max=1024)] = 1
    precision: Annotated[Precision, typer.Option("--precision", help="int8: openvino, tensorrt. bf16: openvino.")] = (
        "fp32"
    )
    batch: Annotated[
        int, typer.Option("--batch", help="Images at once; times are of the whole batch.", min=1, max=4096)
    ] = 1
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input", help="Side of the square input.", show_default="the space's or spec's", min=32, max=8192
        ),
    ] = None
    clock: Annotated[
        Clock, typer.Option("--clock", help="cpu: one thread's CPU time, for a machine that others use too.")
    ] = "wall"
    method: Annotated[Method, typer.Option("--method", help="How kernels are timed; alone is for comparison.")] = (
        "in-graph"
    )
    opt_level: Annotated[
        int, typer.Option("--opt-level", help="Optimisation level of the TensorRT builder.", min=0, max=5)
    ] = 3
    timing_cache: Annotated[
        Path | None,
        typer.Option("--timing-cache", help="TensorRT's timing cache; it is created if missing.", callback=output_file),
    ] = None
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="Device id for the table, e.g. h100.", show_default="from the hardware", callback=output_name
        ),
    ] = None


def profile_command(
    *,
    setup: Setup,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space", help="Search space whose kernels to measure. Repeatable.", show_default="all shipped ones"
        ),
    ] = None,
    spec: Annotated[
        list[str] | None,
        typer.Option(
            "--spec",
            help="Spec file, or a shipped name, measured exactly. Repeatable.",
            show_default="the published ones",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Table file.", show_default="in latency_tables, named after the setup", callback=output_file
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be measured, and stop.")] = False,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Stop after this long; the finest grid comes last.", min=0, max=1e6)
    ] = 14.0,
) -> None:
    """Measure this machine's kernels into a latency table; repeat the command to go on where it stopped."""
    from maenas.profiler.job import ProfileRequest, open_job, plan_text

    request = ProfileRequest(spaces=tuple(space or ()), specs=tuple(spec or ()), **vars(setup))
    if plan:
        print(plan_text(request))
        return
    if setup.runtime in ("onnxruntime", "openvino"):
        require_extra("openvino" if setup.runtime == "openvino" else "export")
    job = open_job(request, out)
    print(f"measuring {len(job.items)} items into {job.path}, for {minutes:g} minutes at most", flush=True)
    table, reference = _run(job, minutes)
    counts = f"{len(table.rows)} kernels, {len(table.blocks)} blocks, {len(table.networks)} networks"
    print(f"wrote {job.path} (id {table.id}): {counts} of {job.setup.backend.device_name}")
    for failure in table.failed:
        print(f"failed: {failure.what}: {failure.reason}")
    left = len(job.items) - sum(map(len, (table.rows, table.blocks, table.networks, table.failed)))
    if left > 0:
        print(f"{left} of {len(job.items)} items are left (--minutes {minutes:g}); repeat the command to go on")
    if reference is not None and reference.spread > STEADY:
        print(unsteady_text(reference), file=sys.stderr)


def unsteady_text(reference: Timing) -> str:
    """The warning about a machine on which even the reference kernel's time varies."""
    return (
        "warning: this machine is not steady: one and the same kernel, timed throughout, has an interquartile range of "
        f"{reference.spread:.0%}. The table is no better than that: stop what else runs, remove the table and measure "
        "again"
    )


def _run(job: ProfileJob, minutes: float) -> tuple[MeasuredTable, Timing | None]:
    """Profile with a progress bar; also the reference kernel's timing, if anything was left to measure.

    Ctrl-C leaves a table that the same command continues.
    """
    from tqdm import tqdm

    from maenas.profiler.job import run_job

    with tqdm(total=len(job.items), unit=" kernels", desc="profile", disable=not sys.stderr.isatty()) as bar:
        reference: list[Timing] = []

        def on_progress(progress: Progress) -> None:
            reference[:] = [progress.reference]
            bar.n = len(job.items) - progress.remaining
            bar.set_postfix(reference=f"{progress.reference.median_s * 1e3:.3g} ms", refresh=False)
            bar.refresh()

        try:
            table = run_job(job, minutes=minutes, on_progress=on_progress)
        except KeyboardInterrupt:
            kept = f"{job.path} is stored" if job.path.exists() else "nothing was measured yet"
            raise MaenasError(f"interrupted; {kept}: repeat the command to go on") from None
    return table, reference[0] if reference else None
