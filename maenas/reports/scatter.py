"""Predicted against measured latencies as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maenas.errors import MaenasError
from maenas.reports.plot_file import save_figure

if TYPE_CHECKING:
    from maenas.profiler.validate import Checked


def scatter(path: Path, rows: Sequence[Checked], title: str) -> None:
    """Write a log-log scatter plot of the rows with their 90 % intervals; the ending names the format.

    Raises `MaenasError` where matplotlib is missing, and as `save_figure` does.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import ScalarFormatter
    except ModuleNotFoundError:
        raise MaenasError("plots need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    measured = [row.timing.median_s * 1e3 for row in rows]
    predicted = [row.prediction.seconds * 1e3 for row in rows]
    below = [(row.prediction.seconds - row.prediction.low) * 1e3 for row in rows]
    above = [(row.prediction.high - row.prediction.seconds) * 1e3 for row in rows]
    ends = (min(measured + predicted) * 0.9, max(measured + predicted) * 1.1)
    axes.plot(ends, ends, color="0.6", linewidth=1, label="equal")
    axes.errorbar(measured, predicted, yerr=(below, above), fmt="o", markersize=4, elinewidth=1, label="90 % interval")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured, ms", ylabel="predicted, ms")
    axes.set(title=title, aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(ScalarFormatter())
    axes.legend()
    save_figure(figure, path)
