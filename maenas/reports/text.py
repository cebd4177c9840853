"""Plain text for a terminal: tables of cells, and lines with a label."""

from __future__ import annotations

from collections.abc import Sequence

from maenas.errors import printable_line

WIDTH = 11


def columns(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows of cells as aligned text: the first `left` columns to the left, the others to the right.

    Cells may come from any file: control characters are shown as escapes.
    """
    rows = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        text = [cell.ljust(w) if number < left else cell.rjust(w) for number, (cell, w) in enumerate(cells)]
        lines.append("  ".join(text).rstrip())
    return "\n".join(lines)


def labelled(label: str, text: str) -> str:
    """One line that begins with what it is about."""
    return f"{label:<{WIDTH}}{text}"
