"""Interactive figures as plain data: what plotly.js draws from, `{"data": [...], "layout": {...}}`.

Colours are left to the page, which has one set for light and one for dark. Names are escaped here, because plotly reads
its texts as a small HTML of its own.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from maenas.errors import printable_line
from maenas.latency.predictor import AnyPredictor
from maenas.nas.genome import Genome
from maenas.nas.space import SearchSpace
from maenas.reports.label_places import Label, place_labels
from maenas.reports.landscape import Landscape, Place, Progress
from maenas.reports.network import Part, op_name, shape_text
from maenas.reports.networks import Summary

Figure = dict[str, Any]
View = dict[str, list[float]]  # ranges of the axes

NEAR = 1.25  # times the front's highest latency: published detectors up to there are shown at first
LOG_TICKS = [digit * 10.0**power for power in range(-6, 10) for digit in (1, 2, 5)]
WIDE, NARROW = (940.0, 400.0), (255.0, 360.0)  # pixels of the front's plot on a screen and on a phone
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}  # in a row above the plot
PLACE_HOVER = "%{text}<br>%{x:.4g} ms, score %{y:.6g}<extra></extra>"


def plain(text: str) -> str:
    """`text` for plotly, which would take some of it for markup and what stands between two dollars for a formula."""
    return html.escape(printable_line(text)).replace("$", "&#36;")


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
    (_, near), (_, far) = front_views(landscape)
    places = [*landscape.networks, *landscape.published]
    wide, narrow = (_labels(landscape, places, (near, far), size) for size in (WIDE, NARROW))
    count = len(landscape.networks)
    chosen = _places(places[:count], "this report", "star", 15, wide[:count], narrow[:count])
    published = _places(places[count:], "published", "diamond", 9, wide[count:], narrow[count:])
    return {
        "data": [line, published, chosen],
        "layout": {
            "xaxis": {"title": {"text": f"latency in ms, {plain(word)}"}, "range": near["xaxis.range"]},
            "yaxis": {"title": {"text": f"{plain(score)} score"}, "range": near["yaxis.range"]},
            "legend": LEGEND,
        },
    }


def front_views(landscape: Landscape) -> list[tuple[str, View]]:
    """Ranges of the axes: around the front, and with all that is published."""
    near = [place for place in landscape.published if place.seconds <= NEAR * landscape.front.high_s]
    return [
        ("near the front", _window(landscape, [*landscape.networks, *near])),
        ("all published", _window(landscape, [*landscape.networks, *landscape.published])),
    ]


def architecture_text(space: SearchSpace, genome: Genome) -> str:
    """Widths and units of an architecture of `space`."""
    backbone = space.spec_of(genome)
    return f"widths {backbone.widths_text}, units {'/'.join(str(stage.depth) for stage in backbone.stages)}"


def _places(
    places: Sequence[Place], name: str, symbol: str, size: int, wide: Sequence[Label], narrow: Sequence[Label]
) -> Figure:
    """Points with their names; under `meta`, where the names stand on a narrow screen."""
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "x": [place.seconds * 1e3 for place in places],
        "y": [place.score for place in places],
        "text": ["<br>".join(map(plain, label.lines)) for label in wide],
        "textposition": [label.side for label in wide],
        "meta": {"narrow": [label.side for label in narrow]},
        "customdata": [plain(place.name) for place in places],
        "cliponaxis": False,
        "marker": {"symbol": symbol, "size": size},
        "hovertemplate": PLACE_HOVER.replace("%{text}", "%{customdata}"),
    }


def _labels(
    landscape: Landscape, places: Sequence[Place], views: Sequence[View], size: tuple[float, float]
) -> list[Label]:
    """Where the names stand in a plot of `size`: in the first view that holds the point."""
    labels: dict[int, Label] = {}
    for view in views:
        chosen = [index for index, place in enumerate(places) if index not in labels and _inside(place, view)]
        points = [_pixel(places[index].seconds, places[index].score, view, size) for index in chosen]
        curve = [_pixel(point.latency_s, point.score, view, size) for point in landscape.front.points]
        placed = place_labels(points, [places[index].name for index in chosen], curve, size)
        labels |= dict(zip(chosen, placed, strict=True))
    return [labels[index] for index in range(len(places))]


def _inside(place: Place, view: View) -> bool:
    (left, right), (low, high) = view["xaxis.range"], view["yaxis.range"]
    return left <= place.seconds * 1e3 <= right and low <= place.score <= high


def _pixel(seconds: float, score: float, view: View, size: tuple[float, float]) -> tuple[float, float]:
    (left, right), (low, high) = view["xaxis.range"], view["yaxis.range"]
    return (seconds * 1e3 - left) / (right - left) * size[0], (high - score) / (high - low) * size[1]


def _window(landscape: Landscape, places: Sequence[Place]) -> View:
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
