"""Plots of an evaluation, as PNG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

_LONGEST_NAME = 40
_MOST_CURVES = 20
_MOST_NUMBERS = 25


def precision_plot(precision: np.ndarray, recalls: Sequence[float], names: Sequence[str]) -> bytes:
    """Precision over recall at IoU 0.5, one curve a class and their mean, from `[C, R]` (nan: no such class)."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    rated = [(row, name) for row, name in zip(precision, names, strict=True) if not np.isnan(row).any()]
    if len(rated) <= _MOST_CURVES:
        for row, name in rated:
            axes.plot(recalls, row, linewidth=1, label=f"{_shown(name)} {row.mean():.3f}")
    if rated:
        mean = np.mean([row for row, _ in rated], axis=0)
        axes.plot(recalls, mean, color="black", linewidth=2, label=f"all classes {mean.mean():.3f}")
        axes.legend(title="AP50", fontsize="small")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="IoU 0.5")
    return _png(figure)


def confusion_plot(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """The confusion matrix `[C + 1, C + 1]`, coloured by its share of the row's boxes."""
    labels = [*map(_shown, names), "background"]
    side = min(4 + 0.35 * len(labels), 20)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, label="share of the row")
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=90)
    axes.set_yticks(places, labels)
    axes.set(xlabel="detected as", ylabel="is")
    if len(labels) <= _MOST_NUMBERS:
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize="small")
    return _png(figure)


def _shown(name: str) -> str:
    """A class name as a label: a dollar sign would begin a formula."""
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
    return short.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the font lacks a letter, or the names leave no room
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
