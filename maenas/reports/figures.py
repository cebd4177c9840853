"""Interactive figures as plain data: what plotly.js draws from, `{"data": [...], "layout": {...}}`.

Colours are left to the page, which has one set for light and one for dark. Names are escaped here, because plotly reads
its texts as a small HTML of its own.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from maenas.latency.predictor import AnyPredictor
from maenas.nas.space import SearchSpace
from maenas.reports.landscape import Landscape, Place, Progress
from maenas.reports.network import Part, op_name, shape_text
from maenas.reports.networks import Summary

Figure = dict[str, Any]

NEAR = 1.25  # times the front's highest latency: published detectors up to there are shown at first
LOG_TICKS = [digit * 10.0**power for power in range(-6, 10) for digit in (1, 2, 5)]
MOST_MARKERS = 60  # points of a curve up to which each is marked
MOST_NUMBERS = 25  # classes up to which a confusion matrix shows its counts
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}  # in a row above the plot
PLACE_HOVER = "%{text}<br>%{x:.4g} ms, score %{y:.6g}<extra></extra>"


def plain(text: str) -> str:
    """`text` for plotly, which would take some of it for markup and what stands between two dollars for a formula."""
    return html.escape(text).replace("$", "&#36;")


def front_figure(landscape: Landscape, word: str, score: str) -> Figure:
    """Best score for every latency, the networks and the published detectors."""
    front = landscape.front
    points = front.points
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "line": {"shape": "hv", "width": 2},
        "x": [*(point.latency_s * 1e3 for point in points), front.high_s * 1e3],
        "y": [*(point.score for point in points), points[-1].score],
        "text": [*(architecture_text(front.setup.space, point.solution.genome) for point in points), "end"],
        "hovertemplate": PLACE_HOVER,
    }
    published = _places(landscape.published, "published", "diamond", 9, "top center")
    chosen = _places(landscape.networks, "this report", "star", 15, "bottom right")
    (_, near), *_ = front_views(landscape)
    return {
        "data": [line, published, chosen],
        "layout": {
            "xaxis": {"title": {"text": f"latency in ms, {plain(word)}"}, "range": near["xaxis.range"]},
            "yaxis": {"title": {"text": f"{plain(score)} score"}, "range": near["yaxis.range"]},
            "legend": LEGEND,
        },
    }


def front_views(landscape: Landscape) -> list[tuple[str, dict[str, list[float]]]]:
    """Ranges of the axes: around the front, and with all that is published."""
    near = [place for place in landscape.published if place.seconds <= NEAR * landscape.front.high_s]
    return [
        ("near the front", _window(landscape, [*landscape.networks, *near])),
        ("all published", _window(landscape, [*landscape.networks, *landscape.published])),
    ]


def architecture_text(space: SearchSpace, genome: Any) -> str:
    """Widths and units of an architecture of `space`."""
    backbone = space.spec_of(genome)
    widths = "-".join(str(width) for width in (backbone.stem.out_channels, *(s.out_channels for s in backbone.stages)))
    return f"widths {widths}, units {'/'.join(str(stage.depth) for stage in backbone.stages)}"


def _places(places: Sequence[Place], name: str, symbol: str, size: int, side: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "x": [place.seconds * 1e3 for place in places],
        "y": [place.score for place in places],
        "text": [plain(place.name) for place in places],
        "textposition": side,
        "cliponaxis": False,
        "marker": {"symbol": symbol, "size": size},
        "hovertemplate": PLACE_HOVER,
    }


def _window(landscape: Landscape, places: Sequence[Place]) -> dict[str, list[float]]:
    """Axis ranges that hold the front and `places`."""
    points = landscape.front.points
    times = [point.latency_s * 1e3 for point in points] + [place.seconds * 1e3 for place in places]
    scores = [point.score for point in points] + [place.score for place in places]
    return {"xaxis.range": _with_margin(times), "yaxis.range": _with_margin(scores)}


def _with_margin(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return [low - margin, high + margin]


def interval_figure(rows: Sequence[Summary], predictors: Sequence[AnyPredictor]) -> Figure:
    """Predicted latency of each network on each device, with its interval."""
    names = [plain(row.network.name) for row in rows]
    data = []
    for number, predictor in enumerate(predictors):
        predictions = [row.predictions[number] for row in rows]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": plain(predictor.device.name),
                "x": [p.seconds * 1e3 for p in predictions],
                "y": names,
                "error_x": {
                    "type": "data",
                    "color": "rgba(128, 128, 128, 0.9)",
                    "symmetric": False,
                    "array": [(p.high - p.seconds) * 1e3 for p in predictions],
                    "arrayminus": [(p.seconds - p.low) * 1e3 for p in predictions],
                },
                "hovertemplate": "%{y}: %{x:.4g} ms<extra>%{fullData.name}</extra>",
            }
        )
    return {
        "data": data,
        "layout": {
            "barmode": "group",
            "bargap": 0.35,
            "xaxis": {"title": {"text": "latency in ms"}},
            "yaxis": {"autorange": "reversed", "type": "category"},
            "legend": LEGEND,
            "showlegend": True,
        },
    }


def parts_figure(shares: Mapping[str, Sequence[float]], names: Sequence[str]) -> Figure:
    """Percentages of the latency by part, for each device one group of bars."""
    return {
        "data": [
            {
                "type": "bar",
                "name": plain(device),
                "x": list(names),
                "y": list(values),
                "text": [f"{value:.1f}" for value in values],
                "textposition": "outside",
                "cliponaxis": False,
                "hovertemplate": "%{x}: %{y:.2f} %<extra>%{fullData.name}</extra>",
            }
            for device, values in shares.items()
        ],
        "layout": {
            "barmode": "group",
            "showlegend": len(shares) > 1,
            "yaxis": {"title": {"text": "share of latency in %"}},
            "legend": LEGEND,
        },
    }


def layers_figure(parts: Sequence[Part]) -> Figure:
    """Microseconds of every kernel in execution order, one colour a part."""
    data, place = [], 0
    for part in parts:
        layers = part.layers
        data.append(
            {
                "type": "bar",
                "name": part.name,
                "x": list(range(place, place + len(layers))),
                "y": [layer.seconds * 1e6 for layer in layers],
                "text": [
                    f"{layer.kernel.name}<br>{op_name(layer.kernel)} to {shape_text(layer.kernel)}" for layer in layers
                ],
                "textposition": "none",
                "hovertemplate": "%{text}<br>%{y:.3g} µs<extra></extra>",
            }
        )
        place += len(layers)
    return {
        "data": data,
        "layout": {
            "bargap": 0.1,
            "xaxis": {"title": {"text": "kernel, in execution order"}},
            "yaxis": {"title": {"text": "latency in µs"}},
            "legend": LEGEND,
        },
    }


def progress_figure(progress: Progress, bound: float | None, score: str) -> Figure:
    """Best score over the candidates tried, and the optimum where it is known."""
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far",
            "line": {"shape": "hv", "width": 2},
            "x": list(progress.evaluated),
            "y": list(progress.scores),
            "hovertemplate": "%{x:,} candidates: %{y:.6g}<extra></extra>",
        }
    ]
    if bound is not None:
        ends = [progress.evaluated[0], progress.evaluated[-1]]
        line = {"dash": "dash", "width": 1.5}
        data.append(
            {"type": "scatter", "mode": "lines", "name": "optimum", "line": line, "x": ends, "y": [bound, bound]}
        )
    return {
        "data": data,
        "layout": {
            "xaxis": {
                "title": {"text": "candidates evaluated"},
                "type": "log",
                "tickvals": LOG_TICKS,
                "tickformat": "~s",
            },
            "yaxis": {"title": {"text": f"{plain(score)} score"}},
            "legend": LEGEND,
        },
    }


def curves_figure(
    epochs: Sequence[int], values: Mapping[str, Sequence[float | None]], title: str, *, log: bool
) -> Figure:
    """One curve a name over the epochs; on a logarithmic axis with `log`, else from 0 to 1."""
    axis: Figure = {"type": "log", "tickvals": LOG_TICKS, "tickformat": "~g"} if log else {"range": [0, 1]}
    mode = "lines+markers" if len(epochs) <= MOST_MARKERS else "lines"
    return {
        "data": [
            {"type": "scatter", "mode": mode, "name": name, "x": list(epochs), "y": list(row)}
            for name, row in values.items()
        ],
        "layout": {
            "xaxis": {"title": {"text": "epoch"}},
            "yaxis": {"title": {"text": title}, **axis},
            "legend": LEGEND,
            "showlegend": True,
        },
    }


def precision_figure(recalls: Sequence[float], classes: Mapping[str, Sequence[float]]) -> Figure:
    """Precision over recall, one curve a class."""
    return {
        "data": [
            {"type": "scatter", "mode": "lines", "name": plain(name), "x": list(recalls), "y": list(row)}
            for name, row in classes.items()
        ],
        "layout": {
            "xaxis": {"title": {"text": "recall"}, "range": [0, 1]},
            "yaxis": {"title": {"text": "precision"}, "range": [0, 1.02]},
            "legend": LEGEND,
            "showlegend": True,
        },
    }


def confusion_figure(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Truth by prediction as shares of each row, with the counts."""
    labels = [plain(name) for name in names]
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
        },
    }
