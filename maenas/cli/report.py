"""`maenas report` and `maenas compare`: networks as a page, as a table, as a plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Networks = Annotated[list[str], typer.Argument(help="Spec files, shipped names (damo-yolo-t), weights (.safetensors).")]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device", help="Device (see `maenas devices`) or a table. Repeatable. [default: the search's, or t4]"
    ),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="fp32, fp16 or int8. [default: the search's or table's own, else fp16]"),
]
Batch = Annotated[int | None, typer.Option("--batch", help="Images at once. [default: the search's, or 1]")]


def report_command(
    networks: Networks,
    device: Devices = None,
    precision: Precision = None,
    batch: Batch = None,
    space: Annotated[
        str | None, typer.Option("--space", help="Space of the front: shipped, or a YAML file. [default: the search's]")
    ] = None,
    low: Annotated[
        str | None, typer.Option("--from", help="Lowest latency of the front, e.g. 2ms. [default: below the networks]")
    ] = None,
    high: Annotated[
        str | None, typer.Option("--to", help="Highest latency of the front, e.g. 4ms. [default: above the networks]")
    ] = None,
    detections: Annotated[
        Path | None, typer.Option("--detections", help="Folder of `maenas detect`: some of its pictures are shown.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="File of the page.")] = Path("report.html"),
) -> None:
    """Write one HTML page: Pareto front, where the time goes, optimality, drawing; losses and AP of trained weights."""
    from maenas.files import ensure_folder, write_atomic
    from maenas.reports.html import render_page
    from maenas.reports.networks import Devices as ReportDevices
    from maenas.reports.report import report_sections
    from maenas.units import format_bytes, parse_latency_s

    chosen = _read(networks)
    names, predictors = _predictors(chosen, device, precision, batch)
    ensure_folder(out.resolve().parent)
    sections = report_sections(
        chosen,
        ReportDevices(names, predictors),
        space=space,
        low_s=None if low is None else parse_latency_s(low),
        high_s=None if high is None else parse_latency_s(high),
        detections=detections,
        on_step=lambda text: print(f"report: {text} ...", file=sys.stderr, flush=True),
    )
    page = render_page(", ".join(network.name for network in chosen), sections)
    write_atomic(out, page)
    print(f"wrote {out} ({format_bytes(len(page.encode()))}; open it in a browser)")


def compare_command(
    networks: Networks,
    device: Devices = None,
    precision: Precision = None,
    batch: Batch = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Plot of the latencies (.png, .svg, .pdf).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but one JSON document.")] = False,
) -> None:
    """Compare networks: latency on each device, parameters, FLOPs, layers, score."""
    from maenas.reports.compare import compare_document, format_compare, plot_compare
    from maenas.reports.networks import summarise

    chosen = _read(networks)
    names, predictors = _predictors(chosen, device, precision, batch)
    rows = [summarise(network, predictors) for network in chosen]
    if plot is not None:
        plot_compare(rows, predictors, plot)
    if as_json:
        print(json.dumps({"command": "compare", **compare_document(rows, names, predictors)}))
        return
    print(format_compare(rows, names, predictors))
    if plot is not None:
        print(f"\nwrote {plot}")


def _read(names: list[str]) -> Any:
    from maenas.reports.networks import distinct_names, from_spec, from_weights
    from maenas.spec import load_spec

    return distinct_names(
        from_weights(Path(name)) if name.endswith(".safetensors") else from_spec(load_spec(name), name)
        for name in names
    )


def _predictors(networks: Any, devices: list[str] | None, precision: str | None, batch: int | None) -> tuple[Any, Any]:
    """Names and predictors of the devices asked for, else of those that the first searched network was searched for."""
    from maenas.latency.predictor import DEFAULT_DEVICE, load_predictor

    origin = next((network.origin for network in networks if network.origin is not None), None)
    if devices is None and origin is not None:
        devices = [row.device for row in origin.latency]
        conditions = origin.latency[0].conditions
        precision, batch = precision or conditions.precision, batch or conditions.batch
    names = tuple(dict.fromkeys(devices or [DEFAULT_DEVICE]))
    return names, tuple(
        load_predictor(name, precision=precision, batch=1 if batch is None else batch) for name in names
    )
