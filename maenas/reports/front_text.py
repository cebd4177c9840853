"""A Pareto front as text."""

from __future__ import annotations

import numpy as np

from maenas.latency.predictor import provenance_word
from maenas.nas.pareto import Front
from maenas.reports.text import columns


def format_front(front: Front, count: int) -> str:
    """At most `count` points, evenly spread, and what the front is."""
    picked = np.unique(np.linspace(0, len(front.points) - 1, max(2, count)).round().astype(int))
    latency, score = f"ms {provenance_word(front.setup.predictors[0])}", front.setup.request.score
    rows = [[latency, score, "layers up to", "widths", "units"]]
    for index in picked:
        point = front.points[index]
        backbone = front.setup.space.spec_of(point.solution.genome)
        units = "/".join(str(stage.depth) for stage in backbone.stages)
        layers = "-" if point.max_layers is None else str(point.max_layers)
        values = [f"{point.latency_s * 1e3:.4f}", f"{point.score:.4f}", layers]
        rows.append([*values, backbone.widths_text, units])
    status = "proven" if front.proven else "found, but not proven: the search grew too large somewhere"
    necks = front.setup.necks
    found = "" if necks is None else f" (chosen at the highest budget: {necks.reason})"
    return (
        f"{front.setup.predictors[0].description}\n"
        f"neck {front.setup.space.neck}{found}\n"
        f"{len(front.points)} points on the front of {front.setup.space.name} ({status}); {len(picked)} of them:\n\n"
        + columns(rows)
    )
