"""`maenas predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from maenas.cli import options
from maenas.cli.extras import require_extra
from maenas.units import parse_sides


def predict_command(
    network: Annotated[
        str,
        typer.Argument(
            help="A spec file, a shipped name (damo-yolo-t), weights, the folder of a run, or an .onnx file."
        ),
    ],
    device: options.Devices = ["t4"],  # noqa: B006
    precision: options.AnyPrecision = None,
    batch: options.Batch = 1,
    input_size: Annotated[
        str | None,
        typer.Option(
            "--input", help="Input of an ONNX file whose shapes are symbolic: its side, or height x width (480x640)."
        ),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Print one line per kernel.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Predict the latency of a detector or of any ONNX network: its parts, and every kernel with --layers."""
    if network.lower().endswith(".onnx"):
        require_extra("export")
    from maenas.api.predict import predict

    sides = None if input_size is None else parse_sides(input_size)
    rows = [predict(network, device=name, precision=precision, batch=batch, input_size=sides) for name in device]
    if as_json:
        documents = [row.document(layers=layers) for row in rows]
        options.print_json("predict", network=rows[0].title, predictions=documents)
        return
    print("\n\n".join(row.text(layers=layers) for row in rows))
