"""`maenas benchmark`: how long detection takes, stage by stage, measured and predicted."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maenas.cli.detector_options import AsJson, ConfOrOwn, Device, IouOrOwn, Runtime
from maenas.cli.extras import require_runtime
from maenas.cli.options import output_file
from maenas.errors import MaenasError

if TYPE_CHECKING:
    from maenas.api.benchmark import Benchmark

MAX_BATCH = MAX_THREADS = 1024


def benchmark_command(
    files: Annotated[
        list[str], typer.Argument(help="Weights, ONNX files, engines; a spec or shipped name runs with random weights.")
    ],
    batch: Annotated[str, typer.Option("--batch", help="Images at once, up to 1024; several: 1,8.")] = "1",
    threads: Annotated[
        str | None,
        typer.Option("--threads", help="CPU threads, up to 1024; several: 1,2.", show_default="all cores"),
    ] = None,
    device: Device = "auto",
    runtime: Runtime = None,
    images: Annotated[
        str | None,
        typer.Option("--images", help="Images to detect in.", show_default="synthetic ones, 640 x 480"),
    ] = None,
    conf: ConfOrOwn = None,
    iou: IouOrOwn = None,
    table: Annotated[
        str | None, typer.Option("--table", help="Also predict: a device, a table, or cpu (measured here).")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="How often everything is timed.", min=3, max=100_000)] = 21,
    out: Annotated[
        Path | None, typer.Option("--out", help="File for the results as JSON.", callback=output_file)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time preprocessing, network and postprocessing of detectors, side by side."""
    require_runtime(runtime)
    from tqdm import tqdm

    from maenas.api.benchmark import benchmark
    from maenas.files import write_atomic

    batches = _numbers("--batch", batch, MAX_BATCH)
    counts = None if threads is None else _numbers("--threads", threads, MAX_THREADS)
    with tqdm(desc="warm up", disable=as_json or not sys.stderr.isatty(), leave=False) as bar:
        timed = benchmark(
            files,
            batch=batches,
            threads=counts,
            device=device,
            runtime=runtime,
            images=images,
            conf=conf,
            iou=iou,
            table=table,
            rounds=rounds,
            on_begin=bar.reset,
            on_warm=bar.update,
            on_left_out=lambda message: print(f"left out: {message}", file=sys.stderr),
        )
    document = {"command": "benchmark", **timed.document()}
    if out is not None:
        write_atomic(out, json.dumps(document, indent=1) + "\n")
    if as_json:
        print(json.dumps(document))
        return
    print(_text(timed, predicted=table is not None))
    if out is not None:
        print(f"wrote {out}")


def _numbers(option: str, text: str, most: int) -> list[int]:
    parts = text.split(",")
    if not all(re.fullmatch(r"[0-9]{1,4}", part) and 1 <= int(part) <= most for part in parts):
        raise MaenasError(f"{option} is {text!r}; it must be numbers from 1 to {most}, such as 1 or 1,8")
    return list(dict.fromkeys(int(part) for part in parts))


def _text(timed: Benchmark, *, predicted: bool) -> str:
    from maenas.reports.text import columns

    documents = timed.document()["rows"]
    header = ["name", "runtime", "input", "precision", "batch", "threads", "pre ms", "network ms", "IQR", "post ms"]
    header += ["total ms", "images/s", "boxes", *(["predicted ms"] if predicted else [])]
    rows = [header]
    for row in documents:
        ms = {name: f"{stage['ms']:.2f}" for name, stage in row["stages"].items()}
        network = row["stages"]["network"]
        cells = [row["name"], row["runtime"], row["input"], row["precision"], str(row["batch"]), str(row["threads"])]
        cells += [ms["preprocessing"], ms["network"], f"{network['iqr_ms'] / network['ms']:.1%}", ms["postprocessing"]]
        cells += [ms["total"], f"{row['images_per_s']:.1f}", f"{row['detections_per_image']:.1f}"]
        if predicted:
            cells.append("-" if row["predicted"] is None else f"{row['predicted']['ms']:.2f}")
        rows.append(cells)
    return "\n".join([columns(rows, left=2), "", *_notes(timed)])


def _notes(timed: Benchmark) -> list[str]:
    conditions = timed.conditions
    where = conditions.get("gpu") or f"{conditions['cpu']}, {conditions['cores']} cores"
    lines = [f"{where}; images: {conditions['images']}; times are of a batch, boxes of an image"]
    found = [predicted for _, predicted in timed.rows if predicted is not None]
    kinds = {f"{p.kind} ({p.device}, {p.runtime}), NMS {'' if p.nms_included else 'not '}included" for p in found}
    lines += [f"predicted: {kind}" for kind in sorted(kinds)]
    networks = [row.stages["network"] for row, _ in timed.rows]
    if any(network.iqr_s > 0.05 * network.median_s for network in networks):
        lines.append("caution: an interquartile range above 5 % means that something else used the machine")
    return lines
