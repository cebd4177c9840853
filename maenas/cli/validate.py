"""`maenas validate`: predicted latencies against whole networks measured on this machine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from maenas.errors import MaenasError


def validate_command(
    device: Annotated[str, typer.Option("--device", help="cpu, or a table measured on this machine.")] = "cpu",
    spec: Annotated[
        list[str] | None, typer.Option("--spec", help="Spec file, or a shipped name. Repeatable. [default: published]")
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option("--space", help="Draw random detectors from this space. Repeatable. [default: all shipped ones]"),
    ] = None,
    random: Annotated[int, typer.Option("--random", help="How many random detectors.")] = 16,
    input_size: Annotated[
        int | None, typer.Option("--input", help="Side of the square input. [default: the space's or spec's]")
    ] = None,
    scope: Annotated[str, typer.Option("--scope", help="What is measured: detector or backbone.")] = "detector",
    seed: Annotated[int, typer.Option("--seed", help="Of the random detectors.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Scatter plot to write (.png, .svg, .pdf).")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for the results as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but one JSON document.")] = False,
) -> None:
    """Measure whole detectors and compare with their predictions from a table measured on this machine."""
    from maenas.files import write_atomic
    from maenas.latency.predictor import load_predictor
    from maenas.profiler.validate import agreement, validate
    from maenas.profiler.verify import clock_of_table

    if scope not in ("detector", "backbone"):
        raise MaenasError(f"--scope is {scope!r}; choose detector, backbone")
    specs = _specs(spec or [], space or [], random, input_size, seed)
    predictor = load_predictor(device)
    setup = clock_of_table(predictor)
    if not as_json:
        print(predictor.description, end="\n\n")
        print(f"{'network':<20}{'id':<14}{'measured':>12}{'predicted':>12}{'error':>9}  90 % interval")
    on_measured = (lambda row: None) if as_json else _print_row
    rows = validate(specs, predictor, setup, scope, on_measured)  # type: ignore[arg-type]
    summary = agreement(rows)
    document = _document(rows, summary, predictor, scope)
    if out is not None:
        write_atomic(out, json.dumps(document, indent=1) + "\n")
    if plot is not None:
        from maenas.reports.scatter import scatter

        scatter(plot, rows, f"{predictor.device.name}, {setup.backend.runtime}")
    if as_json:
        print(json.dumps(document))
        return
    print(
        f"\n{summary.count} networks: mean error {summary.mean_error:.1%}, worst {summary.worst_error:.1%}, "
        f"Kendall tau {summary.kendall_tau:.3f} (by FLOPs {summary.flops_tau:.3f}); "
        f"{summary.inside:.0%} inside their 90 % interval"
    )
    for path in (out, plot):
        if path is not None:
            print(f"wrote {path}")


def _specs(names: list[str], spaces: list[str], count: int, input_size: int | None, seed: int) -> dict[str, Any]:
    from maenas.nas.sampling import random_detectors
    from maenas.nas.space import load_space, space_names
    from maenas.profiler.plan import DRAW_SEED
    from maenas.spec import InputSpec, load_spec, published_specs

    if seed == DRAW_SEED:
        raise MaenasError(f"--seed {seed} draws the networks that are in the table; choose another")
    if names:
        specs = {}
        for name in names:
            stored = load_spec(name)
            size = stored.detector.input if input_size is None else InputSpec(input_size, input_size)
            specs[name if stored.name in specs else stored.name] = dataclasses.replace(stored.detector, input=size)
    else:
        specs = published_specs(input_size)
    drawn = random_detectors(
        [load_space(name) for name in spaces or space_names()], count, seed=seed, input_size=input_size
    )
    return specs | dict(drawn)


def _print_row(row: Any) -> None:
    seconds, low, high = (
        f"{s * 1e3:.3f} ms" for s in (row.prediction.seconds, row.prediction.low, row.prediction.high)
    )
    inside = "" if row.is_inside else "  outside"
    print(
        f"{row.name:<20}{row.spec.id:<14}{row.timing.median_s * 1e3:>9.3f} ms{seconds:>12}{row.ratio - 1:>+9.1%}"
        f"  {low} to {high}{inside}",
        flush=True,
    )


def _document(rows: Any, summary: Any, predictor: Any, scope: str) -> dict[str, Any]:
    networks = [
        {
            "name": row.name,
            "id": row.spec.id,
            "gflops": row.flops / 1e9,
            "measured_ms": row.timing.median_s * 1e3,
            "iqr_ms": row.timing.iqr_s * 1e3,
            "predicted_ms": row.prediction.seconds * 1e3,
            "low_ms": row.prediction.low * 1e3,
            "high_ms": row.prediction.high * 1e3,
        }
        for row in rows
    ]
    return {
        "command": "validate",
        "scope": scope,
        "conditions": predictor.conditions,
        "summary": dataclasses.asdict(summary),
        "networks": networks,
    }
