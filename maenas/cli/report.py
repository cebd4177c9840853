"""`maenas report` and `maenas compare`: networks as a page, as a table, as a plot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from maenas.choices import Precision
from maenas.cli import options
from maenas.cli.extras import require_extra

Networks = Annotated[
    list[str], typer.Argument(help="Spec files, published names, weights, folders of runs, ONNX files.")
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device", help="Device (see `maenas devices`) or a table. Repeatable.", show_default="the search's, or t4"
    ),
]
ReportPrecision = Annotated[
    Precision | None,
    typer.Option("--precision", help="Arithmetic.", show_default="the search's or table's own, else fp16"),
]
ReportBatch = Annotated[
    int | None,
    typer.Option("--batch", help="Images at once.", show_default="the search's, or 1", min=1, max=options.MAX_BATCH),
]


def report_command(
    networks: Annotated[
        list[str],
        typer.Argument(help="Spec files, published names, weights, folders of runs, ONNX files; or a race's folder."),
    ],
    device: Devices = None,
    precision: ReportPrecision = None,
    batch: ReportBatch = None,
    space: Annotated[
        str | None,
        typer.Option("--space", help="Space of the front: shipped, or a YAML file.", show_default="the search's"),
    ] = None,
    low: Annotated[
        str | None,
        typer.Option("--from", help="Lowest latency of the front, e.g. 2ms.", show_default="below the networks"),
    ] = None,
    high: Annotated[
        str | None,
        typer.Option("--to", help="Highest latency of the front, e.g. 4ms.", show_default="above the networks"),
    ] = None,
    detections: Annotated[
        Path | None, typer.Option("--detections", help="Folder of `maenas detect`: some of its pictures are shown.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="File of the page.", callback=options.output_file)] = Path(
        "report.html"
    ),
) -> None:
    """Write one HTML page: Pareto front, where the time goes, optimality, drawing; losses and AP of trained weights."""
    require_extra("report")
    from maenas.api.report import report
    from maenas.units import format_bytes

    path = report(
        networks,
        device=device or (),
        precision=precision,
        batch=batch,
        space=space,
        low=low,
        high=high,
        detections=detections,
        out=out,
        on_step=lambda text: print(f"report: {text} ...", file=sys.stderr, flush=True),
    )
    print(f"wrote {path} ({format_bytes(path.stat().st_size)}; open it in a browser)")


def compare_command(
    networks: Networks,
    device: Devices = None,
    precision: ReportPrecision = None,
    batch: ReportBatch = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Plot of the latencies (.png, .svg, .pdf).", callback=options.output_plot),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare networks: latency on each device, parameters, FLOPs, layers, score."""
    if plot is not None:
        require_extra("plot")
    from maenas.api.report import compare
    from maenas.reports.compare import compare_document, format_compare, plot_compare

    found = compare(networks, device=device or (), precision=precision, batch=batch)
    rows, devices = list(found.rows), found.devices
    if plot is not None:
        plot_compare(rows, devices.predictors, plot)
    if as_json:
        options.print_json("compare", **compare_document(rows, devices.names, devices.predictors))
        return
    print(format_compare(rows, devices.names, devices.predictors))
    if plot is not None:
        print(f"\nwrote {plot}")
