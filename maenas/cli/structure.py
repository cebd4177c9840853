"""`maenas structure`: structure text of the published tools, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from maenas.choices import Family, Spelling
from maenas.cli import options

structure_app = typer.Typer(help="Structure text of the published tools.", no_args_is_help=True)


@structure_app.command("import")
def structure_import(
    file: Annotated[Path, typer.Argument(help="Text with the list of entries.")],
    family: Annotated[Family, typer.Option("--family", help="How the text is read.")],
    out: Annotated[Path, typer.Option("--out", help="Spec file to write.", callback=options.output_file)],
    neck: Annotated[str, typer.Option("--neck", help="Neck and head preset.")] = "s",
    act: Annotated[Literal["relu", "silu"], typer.Option("--act", help="Activation.")] = "relu",
    stem: Annotated[Literal["focus", "conv"], typer.Option("--stem", help="conv has stride 2.")] = "focus",
    input_size: Annotated[int, typer.Option("--input", help="Side of the square input.", min=32, max=8192)] = 640,
    classes: options.Classes = 80,
) -> None:
    """Turn the structure text of a published search into a detector spec."""
    from maenas.files import read_text
    from maenas.spec import write_spec
    from maenas.structure import structure_detector

    detector = structure_detector(
        read_text(file, what="structure"),
        family=family,
        focus=stem == "focus",
        act=act,
        neck=neck,
        input_size=input_size,
        num_classes=classes,
        where=str(file),
    )
    write_spec(out, detector, out.stem, {"source": f"structure text {file.name}, read as {family}"})
    print(f"wrote {out} (id {detector.id})")


@structure_app.command("export")
def structure_export(
    spec: Annotated[str, typer.Argument(help="A spec file, or the name of a shipped one.")],
    spelling: Annotated[Spelling, typer.Option("--spelling", help="Tool whose words to use.")] = "damo-yolo",
) -> None:
    """Print the backbone of a spec as structure text."""
    from maenas.spec import load_spec
    from maenas.structure import format_structure

    print(format_structure(load_spec(spec).detector.backbone, spelling=spelling), end="")
