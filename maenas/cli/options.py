"""Options that several commands share, each declared once; typer checks and shows their types."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from maenas.choices import Precision, Scope
from maenas.errors import MaenasError
from maenas.outputs import PLOT_FORMATS, check_file, check_folder, check_name, check_plot, same_file
from maenas.score_names import DEFAULT_SCORE, scores_help

MAX_BATCH: Final = 65536
FILE_ENDINGS: Final = (
    *(*PLOT_FORMATS, ".json", ".html", ".yaml", ".yml", ".csv", ".jpg", ".jpeg", ".mp4"),
    *(".onnx", ".engine", ".safetensors", ".pt", ".pth"),
)

SPACE_HELP = "A shipped space (see `maenas spaces`) or a YAML file."
OneSpace = Annotated[str, typer.Option("--space", help=SPACE_HELP)]
AnySpace = Annotated[
    str,
    typer.Option("--space", help=f"{SPACE_HELP} all, or several with commas between: the one with the best score."),
]
DEVICE_HELP = "Device (see `maenas devices`), DEVICE@SETUP, cpu (measured here), or a table."
Devices = Annotated[list[str], typer.Option("--device", help=f"{DEVICE_HELP} Repeatable.")]
OneDevice = Annotated[str, typer.Option("--device", help=DEVICE_HELP)]
AnyPrecision = Annotated[
    Precision | None,
    typer.Option("--precision", help="Arithmetic of the network.", show_default="a measured table's own, else fp16"),
]
Batch = Annotated[
    int, typer.Option("--batch", help="Images at once; latencies are of the whole batch.", min=1, max=MAX_BATCH)
]
Classes = Annotated[int, typer.Option("--classes", help="Number of object classes.", min=1, max=65536)]
AnyScope = Annotated[Scope, typer.Option("--scope", help="What budgets count: backbone, neck and head, or backbone.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same result.", min=0, max=2**63 - 1)]
AsJson = Annotated[bool, typer.Option("--json", help="Print nothing but one JSON document.")]


@dataclass(frozen=True)
class Target:
    """What a search looks for, besides its space and its device; field by field as in `SearchOptions`."""

    scope: AnyScope = "detector"
    score: Annotated[str, typer.Option("--score", help=scores_help())] = DEFAULT_SCORE
    precision: AnyPrecision = None
    batch: Batch = 1
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input", help="Side of the square input in pixels.", show_default="the space's", min=32, max=8192
        ),
    ] = None
    classes: Classes = 80
    neck: Annotated[
        str,
        typer.Option(
            "--neck",
            help="auto: the search chooses it; preset: the space's own; or a neck by name: t, s, m, l, nano, "
            "also with another depth and widths (s-d2-half).",
        ),
    ] = "auto"
    backbone_share: Annotated[
        str | None,
        typer.Option(
            "--backbone-share",
            help="The backbone's share of the modelled time that --neck auto aims at.",
            show_default="0.35..0.55, a prior from the published detectors",
        ),
    ] = None


@dataclass(frozen=True)
class Limits:
    """Budgets of a search other than its latency; field by field as in `SearchOptions`."""

    max_params: Annotated[str | None, typer.Option("--max-params", help="Largest number of parameters, e.g. 10M.")] = (
        None
    )
    max_flops: Annotated[str | None, typer.Option("--max-flops", help="Largest number of operations, e.g. 20G.")] = None
    max_activations: Annotated[
        str | None, typer.Option("--max-activations", help="Largest activation memory written, e.g. 60MB.")
    ] = None
    max_layers: Annotated[
        int | None,
        typer.Option(
            "--max-layers",
            help="Largest number of main-path convolutions.",
            show_default="the space's",
            min=1,
            max=16384,
        ),
    ] = None
    max_effectiveness: Annotated[
        float | None,
        typer.Option("--max-effectiveness", help="Highest DeepMAD effectiveness (depth / width).", min=0, max=1e6),
    ] = None


def output_file(path: Path | None) -> Path | None:
    """The callback of every option or argument that names a file to write: it is checked before any work starts.

    A file that another word of the command line names, too, is an input, and is not replaced.
    """
    if path is not None:
        _refuse_empty(path)
        check_file(path)
        if path.is_file() and sum(bool(word) and same_file(word, path) for word in _words()) > 1:
            raise MaenasError(f"{path} is an input of this command; choose another file to write")
    return path


def output_folder(path: Path | None) -> Path | None:
    """As `output_file`, for a folder to write into, which is not called like a file unless it exists."""
    if path is not None:
        _refuse_empty(path)
        check_folder(path)
        if path.suffix.lower() in FILE_ENDINGS and not path.is_dir():
            raise MaenasError(f"cannot write into {path}: a folder is asked for here, and this is the name of a file")
    return path


def output_specs(path: Path) -> Path:
    """As `output_folder`, for a folder of specs or the file of one."""
    if is_spec_file(path):
        check_file(path)
        check_name(path.stem, "--out")
        return path
    return output_folder(path) or path


def _words() -> list[str]:
    """The values on the command line; empty for options without one."""
    return [word.partition("=")[2] if re.match("--[^=]*=", word) else word for word in sys.argv[1:]]


def _refuse_empty(path: Path) -> None:
    """Raise `MaenasError` where the place of an output is "", which is no other path than "."."""
    if path == Path() and "" in _words():
        raise MaenasError("the place of an output is empty; is a variable of the shell not set? This folder is .")


def is_spec_file(path: Path) -> bool:
    """Whether what names the place of specs names a file."""
    return path.suffix.lower() == ".json" and not path.is_dir()


def output_plot(path: Path | None) -> Path | None:
    """As `output_file`, for a plot, whose kind follows from its name."""
    if path is not None:
        check_plot(path)
    return output_file(path)


def output_png(path: Path | None) -> Path | None:
    """As `output_file`, for a picture."""
    if path is not None and path.suffix.lower() != ".png":
        raise MaenasError(f"{path}: the picture is a PNG file, whose name must end in .png")
    return output_file(path)


def output_name(name: str | None) -> str | None:
    """The callback of every option from which names of files are made."""
    if name is not None:
        check_name(name, "--name")
    return name


OutFile = Annotated[Path | None, typer.Option("--out", help="File for the result as JSON.", callback=output_file)]
Plot = Annotated[Path | None, typer.Option("--plot", help="Plot to write (.png, .svg, .pdf).", callback=output_plot)]


def print_json(command: str, **fields: Any) -> None:
    """One JSON document on one line."""
    print(json.dumps({"command": command, **fields}))
