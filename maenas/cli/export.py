"""`maenas export`: weights -> ONNX file or TensorRT engine, in fp32, fp16 or int8."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detector.choices import Format, Method, Nms, Rest, Sensitive
from maenas.choices import FilePrecision, Int8Form
from maenas.cli.detector_options import Conf, Iou, Side
from maenas.cli.extras import require_extra
from maenas.cli.options import output_file
from maenas.errors import MaenasError
from maenas.units import number_of

if TYPE_CHECKING:
    from detector.export.export import ExportReport
    from detector.export.int8 import Int8Result
    from detector.export.parity import Parity


@dataclass(frozen=True)
class Network:
    """What the file computes; field by field as in `maenas.export`."""

    precision: Annotated[
        FilePrecision,
        typer.Option(
            "--precision",
            help="Precision of the convolutions; boxes are always fp32. bf16 on CPUs is not of the file: run it with "
            "--runtime openvino-bf16.",
        ),
    ] = "fp32"
    nms: Annotated[
        Nms, typer.Option("--nms", help="none: the file gives all scores and boxes. in-graph: detections.")
    ] = "none"
    size: Side = None
    conf: Conf = 0.05
    iou: Iou = 0.7
    max_det: Annotated[
        int,
        typer.Option(
            "--max-det", help="Largest number of detections in an image (with --nms in-graph).", min=1, max=3839
        ),
    ] = 100
    candidates: Annotated[
        int,
        typer.Option("--candidates", help="Best pairs of box and class that enter the suppression.", min=1, max=3839),
    ] = 512
    images: Annotated[
        str | None, typer.Option("--images", help="Images to check the export on, and to calibrate int8 with.")
    ] = None
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write.", show_default="named after the weights", callback=output_file),
    ] = None


@dataclass(frozen=True)
class Int8:
    """How int8 is calibrated and what it leaves; field by field as in `maenas.export`."""

    data: Annotated[
        str | None,
        typer.Option("--data", help="Data set: int8 is calibrated on its training images, AP measured on the others."),
    ] = None
    calibration: Annotated[Method, typer.Option("--calibration", help="How the ranges of int8 are chosen.")] = (
        "percentile"
    )
    calibration_images: Annotated[
        int, typer.Option("--calibration-images", help="Images to calibrate with.", min=1, max=100_000)
    ] = 32
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop", help="int8: leave sensitive convolutions out until AP drops by at most this.", min=0, max=1
        ),
    ] = None
    sensitivity: Annotated[
        Sensitive,
        typer.Option(
            "--sensitivity",
            help="How --max-drop ranks layers: output (by its error), or also ap (on the calibration images; slow).",
        ),
    ] = "output"
    target: Annotated[
        Int8Form,
        typer.Option("--target", help="Runtime of the int8 file: tensorrt, or cpu for OpenVINO and ONNX Runtime."),
    ] = "tensorrt"
    rest: Annotated[
        Rest | None,
        typer.Option(
            "--rest", help="Precision of the layers that int8 leaves out.", show_default="fp16, with --target cpu fp32"
        ),
    ] = None


@dataclass(frozen=True)
class Builder:
    """How TensorRT builds an engine; field by field as in `maenas.export`."""

    opt_level: Annotated[
        int, typer.Option("--opt-level", help="Optimisation level of the TensorRT builder.", min=0, max=5)
    ] = 3
    workspace: Annotated[str, typer.Option("--workspace", help="Memory for TensorRT's tactics.")] = "2GiB"
    timing_cache: Annotated[
        Path | None,
        typer.Option("--timing-cache", help="TensorRT's timing cache; it is created if missing.", callback=output_file),
    ] = None


def export_command(
    *,
    weights: Annotated[Path, typer.Argument(help="Weights (.safetensors), or the folder of a run.")],
    format_: Annotated[
        Format, typer.Option("--format", help="An engine is built by TensorRT, for this machine's GPU.")
    ] = "onnx",
    network: Network,
    batch: Annotated[str, typer.Option("--batch", help="Images at once: 1 to 256, or (onnx) dynamic.")] = "1",
    int8: Int8,
    builder: Builder,
) -> None:
    """Write a detector as an ONNX file or an engine, after checking that it computes what torch computes."""
    require_extra("detector", "export")
    from tqdm import tqdm

    from detector.export.export import Watch, export

    with tqdm(unit=" layers", desc="sensitivity", disable=not sys.stderr.isatty(), leave=False, delay=1) as bar:

        def on_layer(layers: int) -> None:
            bar.total = layers
            bar.update()

        report = export(
            weights,
            format=format_,
            batch=_batch(batch),
            watch=Watch(_print_parity, on_layer),
            **vars(network),
            **vars(int8),
            **vars(builder),
        )
    _print_report(report)


def _batch(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise MaenasError(f"--batch is {text!r}; it must be 1 to 256, or dynamic")
    return int(text)


def _print_parity(parity: Parity) -> None:
    compared = f"boxes within {parity.boxes:.1e} of the input's side, scores within {parity.scores:.1e}"
    if parity.detections:
        found = number_of(parity.detections, "detection")
        compared += f", the same {found} as torchvision's suppression"
    elif parity.detections is not None:
        compared += ", the same candidates for suppression, none above the threshold"
    print(f"checked against torch on {parity.images} images ({parity.precision}): {compared}", flush=True)


def _print_report(report: ExportReport) -> None:
    from detector.export.engine import card_path
    from detector.export.int8 import report_path
    from maenas.units import format_bytes

    if report.int8 is not None:
        print(_int8_text(report.int8))
        print(f"wrote {report_path(report.path)}")
    size, card = format_bytes(report.bytes), report.card
    if card is None:
        nodes = f"{sum(report.nodes.values())} nodes ({report.nodes['Conv']} convolutions)"
        print(f"wrote {report.path}: {size}, {nodes}")
    else:
        read_from = "the engine" if card.precision_read_from == "engine" else "the network that TensorRT parsed"
        print(f"wrote {report.path} and {card_path(report.path).name}: {size}, {card.runtime}, {card.gpu or 'no GPU'}")
        print(f"convolutions are {card.export.precision}, read from {read_from}")
    print(report.ends)


def _int8_text(result: Int8Result) -> str:
    from maenas.reports.text import columns

    found, before, after = result.found, result.ap_before, result.ap_after
    lines = [
        f"int8: {result.layers - len(found.keep)} of {result.layers} convolutions, the rest {result.settings.rest}; "
        f"ranges by {found.method} of {found.images} images; outputs change by {found.error:.3g}"
    ]
    if before is not None and after is not None:
        lines.append(f"AP {before:.4f} in fp32, {after:.4f} in this file ({after - before:+.4f}), by ONNX Runtime")
    if found.trades:
        rows = [["layers kept", "AP"], *([str(trade.kept), f"{trade.ap:.4f}"] for trade in found.trades)]
        lines += [columns(rows, left=0)]
        rows = [["most sensitive", "change", "AP alone"]]
        for row in found.sensitivities[:8]:
            rows.append([row.layer, f"{row.error:.3g}", "" if row.ap is None else f"{row.ap:.4f}"])
        shown = 2 if found.sensitivities[0].ap is None else 3
        lines += [columns([row[:shown] for row in rows])]
    return "\n".join(lines)
