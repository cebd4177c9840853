"""A shortlist as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from maenas.nas.shortlist import ShortlistEntry
from maenas.reports.text import columns


def format_shortlist(entries: Sequence[ShortlistEntry]) -> str:
    """Latency, layers, MAE score and the backbone's share of every entry, and why it is there."""
    rows = [["", "ms", "layers", "mae", "backbone"]]
    for number, entry in enumerate(entries, start=1):
        cells = [f"{entry.seconds * 1e3:.3f}", str(entry.layers), f"{entry.mae:.2f}", f"{entry.share:.0%}"]
        rows.append([str(number), *cells])
    lines = columns(rows).splitlines()
    return "\n".join([lines[0] + "  why", *(f"{line}  {e.reason}" for line, e in zip(lines[1:], entries, strict=True))])
