"""The best detector of each of several spaces as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from maenas.nas.spaces import SpaceBest
from maenas.reports.text import columns
from maenas.units import format_count


def format_spaces(rows: Sequence[SpaceBest], score: str) -> str:
    """Score, latency, layers and neck of the best of each space, the chosen one first; then what does not fit."""
    table = [["space", "neck", score, "ms", "layers", "backbone", ""]]
    for row in rows:
        if row.best is not None:
            value = format_count(row.best.score) if score == "flops" else f"{row.best.score:.4f}"
            share = "" if row.share is None else f"{row.share:.0%}"
            latency = f"{row.best.predictions[0].seconds * 1e3:.3f}"
            note = "proven" if row.proven else "not proven"
            table.append([row.space, row.neck, value, latency, str(row.best.layers), share, note])
    outside = [f"{row.space}: nothing fits ({row.why_not})" for row in rows if row.best is None]
    return "\n".join([columns(table, left=2), *outside, f"chosen     {rows[0].space}: the highest {score} score"])
