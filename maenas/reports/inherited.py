"""What a network inherits, as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maenas.reports.text import columns

if TYPE_CHECKING:
    from detector.model.inherit import Inherited


def format_inherited(rows: Sequence[Inherited]) -> str:
    """Every layer with the shape of its weights, the layer they come from, and that one's shape; and a summary."""
    table = [["layer", "from", "shape", "of"]]
    for row in rows:
        origin = row.source if row.source != row.layer else "the same"
        table.append([row.layer, origin or "new", _shape(row.shape), _shape(row.source_shape)])
    known = sum(1 for row in rows if row.source)
    return f"{columns(table, left=2)}\n{known} of {len(rows)} layers inherit"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
