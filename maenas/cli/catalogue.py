"""`maenas spaces`, `devices`, `calibrate` and `doctor`: what there is to search in and for, and on what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maenas.cli import options


def spaces_command(as_json: options.AsJson = False) -> None:
    """List the shipped search spaces with their sizes and depth bounds."""
    from maenas.nas.space import load_space, space_names
    from maenas.reports.text import columns

    loaded = [load_space(name) for name in space_names()]
    if as_json:
        rows = [{"name": s.name, "architectures": s.size, "block": s.block, "input": s.input_size} for s in loaded]
        options.print_json("spaces", spaces=rows)
        return
    table = [["space", "block", "input", "neck", "architectures", "layers"]]
    for s in loaded:
        layers = "by budget" if s.depth_bound.max_layers == "published" else str(s.depth_bound.max_layers)
        table.append([s.name, s.block, str(s.input_size), s.neck, f"{s.size:.2e}", layers])
    print(columns(table, left=2))
    print("\n" + "\n".join(f"{s.name}: {s.description}" for s in loaded))


def devices_command(as_json: options.AsJson = False) -> None:
    """List the device catalogue, and which devices are calibrated."""
    from maenas.latency.device import load_devices
    from maenas.latency.table import SETUPS
    from maenas.reports.text import columns

    catalogue = load_devices()
    if as_json:
        options.print_json("devices", devices={name: SETUPS.get(name, []) for name in catalogue})
        return
    table = [["device", "name", "SMs", "GB/s", "fp16 TFLOPS", "calibrated setups"]]
    for name, entry in catalogue.items():
        rate = "-" if entry.fp16_tflops is None else f"{entry.fp16_tflops.value:g}"
        setups = ", ".join(SETUPS.get(name, [])) or "none: constants that devices share"
        table.append(
            [name, entry.name, f"{entry.sm_count.value:g}", f"{entry.memory_bandwidth_gbs.value:g}", rate, setups]
        )
    print(columns(table, left=2))


def calibrate_command(
    data: Annotated[
        Path | None, typer.Argument(help="File of whole networks' latencies.", show_default="the shipped T4 one")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the tables.", show_default="only print", callback=options.output_folder),
    ] = None,
) -> None:
    """Fit the latency model to measured whole networks; print residuals and leave-one-out errors."""
    from maenas.latency.published import read_published
    from maenas.latency.table import calibrate_all, table_name, write_table
    from maenas.reports.calibration_text import format_calibration

    published = read_published(data)
    for table in calibrate_all(published):
        print(format_calibration(table), end="\n\n")
        if out is not None:
            path = out / f"{table_name(table)}.json"
            write_table(path, table)
            print(f"wrote {path}\n")


def doctor_command(as_json: options.AsJson = False) -> None:
    """Print versions, devices, what is installed, and what each missing part would give: for bug reports."""
    from dataclasses import asdict

    from maenas.api.doctor import diagnose, format_diagnosis

    found = diagnose()
    if as_json:
        options.print_json("doctor", **asdict(found))
        return
    print(format_diagnosis(found))
