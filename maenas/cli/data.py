"""`maenas data`: check a data set before training, cut one into splits, and write the built-in one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maenas.cli.detector_options import FORMS
from maenas.cli.extras import require_extra
from maenas.cli.options import output_folder, output_png
from maenas.errors import MaenasError, printable_line
from maenas.units import number_of

if TYPE_CHECKING:
    from detector.data.check import Kind, Report

MOST_CLASSES = 20  # shown with their boxes

data_app = typer.Typer(help="Data sets: check one, split one, write the built-in shapes.", no_args_is_help=True)


@data_app.command("check")
def data_check(
    path: Annotated[
        str,
        typer.Argument(help=f"A folder ({FORMS}), a COCO .json, a data.yaml, or shapes."),
    ],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="PNG file for some images with their boxes.", callback=output_png)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="PNG file: boxes by class, place and size, of the training split.", callback=output_png
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document as the last line, and nothing else.")
    ] = False,
) -> None:
    """Report every problem of a data set: images, boxes, classes, splits. Exits with 1 if it cannot be trained on."""
    require_extra("detector")
    from tqdm import tqdm

    from detector.data.check import check, contact_sheet
    from maenas.files import write_atomic

    with tqdm(unit=" images", desc="check", disable=not sys.stderr.isatty()) as bar:
        report = check(path, on_image=lambda: (bar.update(), None)[1])
    for picture in (sheet, labels):
        if picture is not None and picture.exists() and report.reads(picture):
            raise MaenasError(f"{picture} is an image of the data; choose another file to write")
    if sheet is not None:
        write_atomic(sheet, contact_sheet(report.splits["train"]))
    if labels is not None:
        from detector.data.label_plot import label_plot

        write_atomic(labels, label_plot(report.splits["train"]))
    written = [path for path in (sheet, labels) if path is not None]
    print(json.dumps({"command": "data check", **report.document()}) if as_json else _text(report, written))
    if not report.usable:
        raise typer.Exit(1)


@data_app.command("split")
def data_split(
    path: Annotated[
        str,
        typer.Argument(help=f"Folder of annotated images ({FORMS}), or file."),
    ],
    out: Annotated[
        Path, typer.Argument(help="New folder for images/ and annotations/ (COCO).", callback=output_folder)
    ],
    val: Annotated[float, typer.Option("--val", help="Share of the images for validation.", min=0.001, max=0.9)] = 0.2,
    test: Annotated[float, typer.Option("--test", help="Share of the images for a test.", min=0, max=0.9)] = 0.0,
    group: Annotated[
        str,
        typer.Option(
            "--group",
            help="Regular expression; images in whose path it finds the same text stay together, e.g. of a video.",
        ),
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same splits.", min=0, max=2**63 - 1)] = 0,
) -> None:
    """Cut annotated images into a training, a validation and, if wanted, a test split; the source stays as it is.

    Every class is shared out in proportion. Equal images stay together. The new folder gets hard links to the images
    where that is possible, else copies.
    """
    require_extra("detector")
    from tqdm import tqdm

    from detector.data.dataset import class_counts
    from detector.data.sample import summarise
    from detector.data.split import split_data

    with tqdm(unit=" images", desc="split", disable=not sys.stderr.isatty()) as bar:
        found = split_data(path, out, val=val, test=test, seed=seed, group=group, on_image=bar.update)
    for line in summarise(found.problems):
        print(f"left out {line}")
    for name, split in found.splits.items():
        print(f"{name:<6} {number_of(len(split), 'image')}, {_counts_text(split.names, class_counts(split).tolist())}")
    print(f"wrote  {out}")


@data_app.command("shapes")
def data_shapes(
    out: Annotated[
        Path, typer.Argument(help="New folder for images/ and annotations/ (COCO).", callback=output_folder)
    ],
    images: Annotated[
        int, typer.Option("--images", help="How many; every fifth is for validation.", min=2, max=1_000_000)
    ] = 1500,
    size: Annotated[int, typer.Option("--size", help="Side in pixels.", min=32, max=4096)] = 192,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same files.", min=0, max=2**63 - 1)] = 0,
) -> None:
    """Write the generated data set of coloured shapes that `--data shapes` stands for."""
    require_extra("detector")
    from detector.data.shapes import write_shapes

    write_shapes(out, images=images, size=size, seed=seed)
    print(f"wrote {out}: {number_of(images, 'image')} of {size}x{size}")


def _text(report: Report, written: Sequence[Path]) -> str:
    lines = []
    for name, split in report.summaries().items():
        lines.append(
            f"{name:<6} {number_of(split.images, 'image')} ({split.images_without_boxes} without boxes), "
            f"{number_of(split.boxes, 'box')}: {split.source}"
        )
        counts = _counts_text(list(split.classes), list(split.classes.values()))
        lines.append(f"       {number_of(len(split.classes), 'class')}: {counts}")
        lines += _problem_lines(split.problems)
    lines += _problem_lines(report.leak_kinds())
    lines += [f"{name:<6} {printable_line(why)}" for name, why in report.absent.items()]
    lines += [f"wrote  {path}" for path in written]
    if report.missing:
        from detector.data.dataset import how_to_split

        lines.append(how_to_split(report.path))
    lines.append("usable" if report.usable else "cannot be trained on: see above")
    return "\n".join(lines)


def _counts_text(names: Sequence[str], counts: Sequence[int]) -> str:
    """How many boxes every class has, for the first ones."""
    shown = [f"{printable_line(name)} {count}" for name, count in zip(names, counts, strict=True)]
    return ", ".join(shown[:MOST_CLASSES]) + (" ..." if len(shown) > MOST_CLASSES else "")


def _problem_lines(problems: dict[str, Kind]) -> list[str]:
    lines = []
    for kind, entry in problems.items():
        lines.append(f"       {entry.count} x {kind}")
        lines += [f"           {printable_line(example)}" for example in entry.examples]
    return lines
