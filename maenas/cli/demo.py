"""`maenas demo`: a detector from nothing, in three commands that it shows."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from maenas.cli.detector_options import Device
from maenas.cli.extras import require_extra
from maenas.cli.options import Limits, Target, output_folder
from maenas.cli.search import Effort, Written, search_command
from maenas.cli.train import Rating, Training, eval_command, train_command
from maenas.errors import MaenasError

SPACE, MOST_FLOPS, CLASSES = "demo", "350M", 4  # the built-in shapes have four classes


def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demonstration.", callback=output_folder)] = Path(
        "runs/demo"
    ),
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Length of the training.", show_default="10", min=1, max=1_000_000)
    ] = None,
    device: Device = "auto",
) -> None:
    """Search a small detector, train it on generated shapes, evaluate it: minutes on a CPU. Repeated, it goes on."""
    require_extra("detector")
    from detector.data.shapes import SHAPES, are_built_in
    from maenas.run_files import WEIGHTS_FILE

    if not are_built_in(SHAPES):
        raise MaenasError(f"the folder {SHAPES!r} here takes the place of the built-in shapes; go to another folder")

    spec, weights = out / "demo.json", out / WEIGHTS_FILE
    length = () if epochs is None else ("--epochs", epochs)
    _show(
        "search", "--space", SPACE, "--max-flops", MOST_FLOPS, "--classes", CLASSES, "--name", spec.stem, "--out", out
    )
    search_command(
        space=SPACE,
        target=Target(classes=CLASSES),
        limits=Limits(max_flops=MOST_FLOPS),
        effort=Effort(),
        written=Written(name=spec.stem, out=out),
    )
    _show("train", spec, "--data", SHAPES, "--out", out, "--device", device, *length, "--resume")
    training = Training(epochs=epochs, device=device)
    train_command(spec=str(spec), data="shapes", training=training, out=out, resume=True)
    _show("eval", weights, "--data", SHAPES, "--plots", out / "plots")
    eval_command(weights=weights, data="shapes", rating=Rating(device=device, plots=out / "plots"))


def _show(*words: object) -> None:
    print("\n$ maenas", shlex.join(map(str, words)), flush=True)
