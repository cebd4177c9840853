"""Interactive figures of a training run and its evaluation, as plain data: see `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maenas.palette import class_colour, hex_colour
from maenas.reports.figures import LEGEND, LOG_TICKS, Figure, plain
from maenas.run_files import OverConfidence

MOST_MARKERS = 60  # points of a curve up to which each is marked
MOST_NUMBERS = 25  # classes up to which a confusion matrix shows its counts
LONGEST_NAME = 24  # of a class in a legend or at an axis
GREY = "rgb(128, 128, 128)"  # seen on light and dark


def curves_figure(
    x: Sequence[int],
    values: Mapping[str, Sequence[float | None]],
    title: str,
    *,
    log: bool = False,
    axis: str = "epoch",
) -> Figure:
    """One curve a name over the epochs or steps; on a logarithmic axis with `log`, else on one that begins at 0."""
    scale: Figure = {"type": "log", "tickvals": LOG_TICKS, "tickformat": "~g"} if log else {"rangemode": "tozero"}
    mode = "lines+markers" if len(x) <= MOST_MARKERS else "lines"
    whole = {"dtick": 1} if len(x) <= 12 and axis == "epoch" else {"tickformat": "~s"}
    return {
        "data": [
            {"type": "scatter", "mode": mode, "name": plain(name), "x": list(x), "y": list(row)}
            for name, row in values.items()
        ],
        "layout": {
            "xaxis": {"title": {"text": axis}, **whole},
            "yaxis": {"title": {"text": title}, **scale},
            "legend": LEGEND,
            "showlegend": len(values) > 1,
        },
    }


def precision_figure(
    recalls: Sequence[float], classes: Mapping[int, tuple[str, Sequence[float]]], mean: Sequence[float]
) -> Figure:
    """Precision over recall: one curve a class, by its index with its name, in the colour of the class; and `mean`."""
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": plain(_short(name)),
            "x": list(recalls),
            "y": list(row),
            "line": {"width": 1.5, "color": hex_colour(class_colour(label))},
        }
        for label, (name, row) in classes.items()
    ]
    if mean:
        line = {"width": 3, "color": GREY}
        data.append(
            {"type": "scatter", "mode": "lines", "name": "mean", "x": list(recalls), "y": list(mean), "line": line}
        )
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "recall"}, "range": [0, 1]},
            "yaxis": {"title": {"text": "precision"}, "range": [0, 1.02]},
            "legend": LEGEND,
            "showlegend": True,
        },
    }


def confidence_figure(curves: OverConfidence) -> Figure:
    """Precision, recall and F1 over the least confidence that counts; the best F1 marked."""
    rows = {"precision": curves.precision, "recall": curves.recall, "F1": curves.f1}
    data: list[Figure] = [
        {"type": "scatter", "mode": "lines", "name": name, "x": list(curves.confidences), "y": list(row)}
        for name, row in rows.items()
    ]
    best = curves.best
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "best F1",
            "x": [curves.confidences[best]],
            "y": [curves.f1[best]],
            "marker": {"symbol": "star", "size": 13, "color": GREY},
        }
    )
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "confidence"}, "range": [0, 1]},
            "yaxis": {"title": {"text": "mean over the classes"}, "range": [0, 1.02]},
            "legend": LEGEND,
        },
    }


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def confusion_figure(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Truth by prediction as shares of each row, with the counts."""
    labels = [plain(_short(name)) for name in _distinct(names)]
    shares = [[count / max(sum(row), 1) for count in row] for row in matrix]
    heat = {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": shares,
        "text": [[str(count) for count in row] for row in matrix],
        "texttemplate": "%{text}" if len(names) <= MOST_NUMBERS else "",
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "rgba(47, 111, 196, 0.06)"], [1, "rgb(47, 111, 196)"]],
        "colorbar": {"title": {"text": "share of row"}, "thickness": 12},
        "hovertemplate": "%{y} found as %{x}: %{text} (%{z:.1%})<extra></extra>",
    }
    return {
        "data": [heat],
        "layout": {
            "xaxis": {"title": {"text": "found as"}, "type": "category"},
            "yaxis": {"title": {"text": "is"}, "type": "category", "autorange": "reversed"},
            "showlegend": False,
        },
    }


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where they would be the same when shortened: an axis takes equal labels for one."""
    short = [_short(name) for name in names]
    return [name if short.count(_short(name)) == 1 else f"{index} {name}" for index, name in enumerate(names)]
