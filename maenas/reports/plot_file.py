"""A figure of matplotlib as a file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from maenas.files import write_atomic
from maenas.outputs import check_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a .png, .svg or .pdf file. Raises `MaenasError` for another kind, and if the file cannot be written."""
    check_plot(path)
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150)
    write_atomic(path, buffer.getvalue())
