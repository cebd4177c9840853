"""`maenas validate`: predicted latencies against whole networks measured on this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maenas.cli import options
from maenas.cli.extras import require_extra
from maenas.errors import MaenasError

if TYPE_CHECKING:
    from maenas.api.measure import Validation
    from maenas.profiler.validate import Checked


@dataclass(frozen=True)
class Drawn:
    """Which detectors are measured; field by field as in `networks_to_validate`."""

    random: Annotated[int, typer.Option("--random", help="How many random detectors.", min=0, max=10_000)] = 16
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input", help="Side of the square input.", show_default="the space's or spec's", min=32, max=8192
        ),
    ] = None
    seed: options.Seed = 0


def validate_command(
    *,
    device: Annotated[str, typer.Option("--device", help="cpu, or a table measured on this machine.")] = "cpu",
    precision: options.AnyPrecision = None,
    spec: Annotated[
        list[str] | None,
        typer.Option("--spec", help="Spec file, or a shipped name. Repeatable.", show_default="published"),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space", help="Draw random detectors from this space. Repeatable.", show_default="all shipped ones"
        ),
    ] = None,
    drawn: Drawn,
    scope: options.AnyScope = "detector",
    plot: options.Plot = None,
    out: options.OutFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure whole detectors and compare with their predictions from a table measured on this machine."""
    if plot is not None:
        require_extra("plot")
    from maenas.api.measure import validate
    from maenas.files import write_atomic
    from maenas.latency.predictor import load_predictor
    from maenas.profiler.validate import networks_to_validate
    from maenas.profiler.verify import measured_predictor_of
    from maenas.reports.scatter import scatter

    predictor = measured_predictor_of(load_predictor(device, precision=precision))
    require_extra("openvino" if "openvino" in str(predictor.conditions["runtime"]) else "export")
    specs = networks_to_validate(spec or (), space or (), **vars(drawn))
    done: list[Checked] = []

    def on_measured(row: Checked) -> None:
        done.append(row)
        if not as_json:
            if len(done) == 1:  # the table is of this machine
                _print_head(predictor.description)
            _print_row(row)

    def on_rows(so_far: Validation) -> None:
        if out is not None:
            write_atomic(out, json.dumps(so_far.document(), indent=1) + "\n")

    try:
        result = validate(
            specs, device=device, precision=precision, scope=scope, on_measured=on_measured, on_rows=on_rows
        )
    except KeyboardInterrupt:
        kept = f"; {out} holds them" if out is not None and done else ""
        raise MaenasError(f"interrupted after {len(done)} of {len(specs)} networks{kept}") from None
    if plot is not None:
        scatter(plot, result.rows, f"{result.device_name}, {result.runtime}")
    if as_json:
        print(json.dumps(result.document()))
        return
    _print_summary(result)
    _print_written(out, plot)


def _print_head(description: str) -> None:
    print(description, end="\n\n")
    print(f"{'network':<20}{'id':<14}{'measured':>12}{'predicted':>12}{'error':>9}  90 % interval")


def _print_summary(result: Validation) -> None:
    summary = result.agreement
    print(
        f"\n{summary.count} networks: mean error {summary.mean_error:.1%}, worst {summary.worst_error:.1%}, "
        f"Kendall tau {summary.kendall_tau:.3f} (by FLOPs {summary.flops_tau:.3f}); "
        f"{summary.inside:.0%} inside their 90 % interval"
    )


def _print_written(*paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            print(f"wrote {path}")


def _print_row(row: Checked) -> None:
    seconds, low, high = (
        f"{s * 1e3:.3f} ms" for s in (row.prediction.seconds, row.prediction.low, row.prediction.high)
    )
    inside = "" if row.is_inside else "  outside"
    print(
        f"{row.name:<20}{row.spec.id:<14}{row.timing.median_s * 1e3:>9.3f} ms{seconds:>12}{row.ratio - 1:>+9.1%}"
        f"  {low} to {high}{inside}",
        flush=True,
    )
