"""A figure of matplotlib as a file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from maenas.errors import MaenasError
from maenas.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".png", ".svg")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a .png, .svg or .pdf file. Raises `MaenasError` for another kind, and if the file cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise MaenasError(f"--plot {path}: the file must end in {', '.join(FORMATS)}")
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150)
    write_atomic(path, buffer.getvalue())
