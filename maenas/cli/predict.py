"""`maenas predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from maenas.cli import options
from maenas.cli.extras import require_extra


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
        int | None,
        typer.Option("--input", help="Side of the input of an ONNX file whose shapes are symbolic.", min=1, max=8192),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Print one line per kernel.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Predict the latency of a detector or of any ONNX network: its parts, and every kernel with --layers."""
    if network.lower().endswith(".onnx"):
        require_extra("export")
    from maenas.api.predict import predict

    rows = [predict(network, device=name, precision=precision, batch=batch, input_size=input_size) for name in device]
    if as_json:
        documents = [row.document(layers=layers) for row in rows]
        options.print_json("predict", network=rows[0].title, predictions=documents)
        return
    print("\n\n".join(row.text(layers=layers) for row in rows))
