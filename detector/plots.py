"""Plots of an evaluation, as PNG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detector.confidence import CONFIDENCES, f1_of, over_confidence
from detector.draw import figure_png, short
from maenas.palette import class_colour, hex_colour
from maenas.run_files import most_confused

_LONGEST_NAME = 24
_MOST_CURVES = 20
_MOST_NUMBERS = 25
_MOST_CONFUSED = 60


def precision_plot(precision: np.ndarray, recalls: Sequence[float], names: Sequence[str]) -> bytes:
    """Precision over recall at IoU 0.5, one curve a class and their mean, from `[C, R]` (nan: no such class)."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    rated = _rated(precision)
    for label in rated if len(rated) <= _MOST_CURVES else ():
        row = precision[label]
        axes.plot(recalls, row, color=_colour(label), linewidth=1, label=f"{_shown(names[label])} {row.mean():.3f}")
    if rated:
        mean = precision[rated].mean(axis=0)
        axes.plot(recalls, mean, color="black", linewidth=2, label=f"all classes {mean.mean():.3f}")
        axes.legend(title="AP50", fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="IoU 0.5")
    tidy(axes)
    return figure_png(figure)


def confidence_plot(scores: np.ndarray, boxes: np.ndarray, found: np.ndarray, names: Sequence[str]) -> bytes:
    """F1, precision and recall at IoU 0.5 over the least confidence that counts, by class and on average.

    From scores `[C, R]`, boxes `[C]` and found `[C, S]` as in `Metrics`.
    """
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    rated = np.flatnonzero(boxes).tolist()
    p, r = over_confidence(scores[rated], boxes[rated], found[rated])
    for axes, (name, rows) in zip(
        figure.subplots(1, 3), {"F1": f1_of(p, r), "precision": p, "recall": r}.items(), strict=True
    ):
        for label, row in zip(rated, rows, strict=True) if len(rated) <= _MOST_CURVES else ():
            axes.plot(CONFIDENCES, row, color=_colour(label), linewidth=1, label=_shown(names[label]))
        if rated:
            mean = rows.mean(axis=0)
            axes.plot(CONFIDENCES, mean, color="black", linewidth=2, label="all classes")
            if name == "F1":
                best = int(mean.argmax())
                axes.plot(CONFIDENCES[best], mean[best], "o", color="black")
                name = f"F1, at best {mean[best]:.3f} at confidence {CONFIDENCES[best]:.2f}"
        axes.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1.02), title=name)
        tidy(axes)
    if rated:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize="small", frameon=False)
    return figure_png(figure)


def confusion_plot(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """The confusion matrix `[C + 1, C + 1]`, coloured by its share of the row's boxes.

    Of many classes, those that are confused most; the others become one.
    """
    matrix, kept = most_confused(matrix, names, _MOST_CONFUSED)
    labels = list(map(_shown, kept))
    side = min(4 + 0.35 * len(labels), 20)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, label="share of the row", shrink=0.8)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=90)
    axes.set_yticks(places, labels)
    axes.set(xlabel="detected as", ylabel="is")
    if len(labels) <= _MOST_NUMBERS:
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize="small")
    return figure_png(figure)


def _rated(precision: np.ndarray) -> list[int]:
    return [label for label, row in enumerate(precision) if not np.isnan(row).any()]


def _colour(label: int) -> str:
    return hex_colour(class_colour(label))


def tidy(axes: Axes) -> None:
    """A light grid, and no frame above and on the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _shown(name: str) -> str:
    """A class name as a label: a dollar sign would begin a formula."""
    return short(name, _LONGEST_NAME).replace("$", r"\$")
