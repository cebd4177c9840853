"""The network as a graph of its kernels, for plotly.js."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from maenas.reports.figures import LEGEND, Figure
from maenas.reports.network import Layer, Part, op_name, shape_text
from maenas.reports.network_plot import COLOURS, places_of

LARGEST, SMALLEST = 26.0, 5.0  # diameters of discs in pixels
CURVE = 12  # points of an arc
BEND = 0.35  # its height in rows
LINK, RESIDUAL = "rgba(128, 128, 128, 0.7)", "rgba(208, 80, 60, 0.8)"  # seen on light and dark

Point = tuple[float, float]


def drawing_figure(parts: Sequence[Part], height: int) -> Figure:
    """A disc is a kernel: from left to right its depth, its row the resolution of its output, its area its latency."""
    layers = [layer for part in parts for layer in part.layers]
    places = places_of(layers, height)
    slowest = max(layer.seconds for layer in layers)
    data = [
        _links(_input_links(layers), places, "link", LINK),
        _links(_residual_links(layers), places, "residual link", RESIDUAL),
    ]
    for op in COLOURS:
        chosen = [number for number, layer in enumerate(layers) if op_name(layer.kernel) == op]
        if chosen:
            data.append(_discs(op, [layers[n] for n in chosen], [places[n] for n in chosen], slowest))
    levels = list(range(1, 6))
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "depth in kernels"}, "showgrid": False, "zeroline": False},
            "yaxis": {
                "title": {"text": "resolution"},
                "autorange": "reversed",
                "tickvals": levels,
                "ticktext": [f"1/{2**level}" for level in levels],
                "zeroline": False,
            },
            "legend": {**LEGEND, "itemsizing": "constant"},
            "hovermode": "closest",
        },
    }


def _input_links(layers: Sequence[Layer]) -> Iterator[tuple[int, int]]:
    for number, layer in enumerate(layers):
        yield from ((index, number) for index in layer.kernel.inputs if index >= 0)


def _residual_links(layers: Sequence[Layer]) -> Iterator[tuple[int, int]]:
    for number, layer in enumerate(layers):
        if layer.kernel.residual is not None and layer.kernel.residual >= 0:
            yield layer.kernel.residual, number


def _links(pairs: Iterator[tuple[int, int]], places: Sequence[Point], name: str, colour: str) -> Figure:
    x: list[float | None] = []
    y: list[float | None] = []
    for start, end in pairs:
        for point in _path(places[start], places[end]):
            x.append(round(point[0], 3))
            y.append(round(point[1], 3))
        x.append(None)
        y.append(None)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "line": {"width": 1.2, "color": colour},
        "hoverinfo": "skip",
    }


def _path(start: Point, end: Point) -> list[Point]:
    """A straight line, or an arc over the kernels that stand between."""
    (x0, y0), (x1, y1) = start, end
    if abs(y1 - y0) >= 1 or x1 - x0 <= 1:
        return [start, end]
    steps = [number / CURVE for number in range(CURVE + 1)]
    return [(x0 + t * (x1 - x0), y0 + t * (y1 - y0) - 4 * BEND * t * (1 - t)) for t in steps]


def _discs(op: str, layers: Sequence[Layer], places: Sequence[Point], slowest: float) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": op,
        "x": [round(x, 3) for x, _ in places],
        "y": [round(y, 3) for _, y in places],
        "text": [
            f"{layer.kernel.name}<br>{shape_text(layer.kernel)}, {layer.seconds * 1e6:.3g} µs" for layer in layers
        ],
        "marker": {"size": [max(SMALLEST, LARGEST * (layer.seconds / slowest) ** 0.5) for layer in layers]},
        "hovertemplate": "%{text}<extra>%{fullData.name}</extra>",
    }
