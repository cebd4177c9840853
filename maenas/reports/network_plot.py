"""A drawing of a network: its kernels as a graph, and the latency of its parts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maenas.latency.predictor import AnyPredictor
from maenas.reports.network import Layer, Part, network_title, op_name, parts_of
from maenas.reports.plot_file import save_figure
from maenas.spec import DetectorSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "conv": "#4477aa",
    "dwconv": "#66ccee",
    "maxpool": "#228833",
    "concat": "#ccbb44",
    "resize": "#aa3377",
    "space_to_depth": "#bbbbbb",
    "integral": "#ee6677",
    "decode": "#ee6677",
}  # Paul Tol's "bright" scheme: distinct for the colour-blind too
LARGEST = 420.0  # area of the slowest kernel's disc, in square points
SMALLEST = 12.0
APART = 0.16  # between kernels of one depth and stride, in rows


def plot_network(name: str, spec: DetectorSpec, predictor: AnyPredictor, path: Path) -> None:
    """Draw the network into a .png, .svg or .pdf file.

    A disc is a kernel: its place from left to right is its depth, its row the stride of its output, its area its
    latency. Raises `MaenasError` for another kind of file and if it cannot be written.
    """
    from matplotlib.figure import Figure

    parts = parts_of(spec, predictor)
    figure = Figure(figsize=(16, 8), layout="constrained")
    graph, bars = figure.subplots(2, 1, height_ratios=(3, 1))
    _draw_graph(graph, parts, spec.input.height)
    _draw_parts(bars, parts)
    figure.suptitle(network_title(name, spec, parts, predictor), parse_math=False)
    save_figure(figure, path)


def depths_of(layers: Sequence[Layer]) -> list[int]:
    """Length of the longest path from the image to each kernel."""
    depths: list[int] = []
    for layer in layers:
        residual = () if layer.kernel.residual is None else (layer.kernel.residual,)
        sources = [index for index in (*layer.kernel.inputs, *residual) if index >= 0]
        depths.append(1 + max((depths[index] for index in sources), default=-1))
    return depths


def places_of(layers: Sequence[Layer], height: int) -> list[tuple[float, float]]:
    """Depth and log2 of the output's stride of each kernel; those that would coincide are moved apart.

    A kernel that joins all levels stands between them.
    """
    rows: list[float] = []
    for layer in layers:
        kernel = layer.kernel
        if kernel.out_width == 1 and len(kernel.inputs) > 1:
            rows.append(sum(rows[index] for index in kernel.inputs) / len(kernel.inputs))
        else:
            rows.append(math.log2(height / kernel.out_height))
    places = list(zip(depths_of(layers), rows, strict=True))
    shared = Counter(places)
    seen: Counter[tuple[int, float]] = Counter()
    spread = []
    for depth, row in places:
        spread.append((depth, row + APART * (seen[depth, row] - (shared[depth, row] - 1) / 2)))
        seen[depth, row] += 1
    return spread


def _draw_graph(axes: Axes, parts: Sequence[Part], height: int) -> None:
    layers = [layer for part in parts for layer in part.layers]
    places = places_of(layers, height)
    for layer, place in zip(layers, places, strict=True):
        for index in layer.kernel.inputs:
            if index >= 0:
                _draw_link(axes, places[index], place, colour="#999999")
        if layer.kernel.residual is not None and layer.kernel.residual >= 0:
            _draw_link(axes, places[layer.kernel.residual], place, colour="#cc3311")
    slowest = max(layer.seconds for layer in layers)
    for op, colour in COLOURS.items():
        chosen = [number for number, layer in enumerate(layers) if op_name(layer.kernel) == op]
        if chosen:
            areas = [max(SMALLEST, LARGEST * layers[number].seconds / slowest) for number in chosen]
            x, y = zip(*(places[number] for number in chosen), strict=True)
            axes.scatter(x, y, s=areas, c=colour, label=op, edgecolors="white", linewidths=0.5, zorder=2)
    axes.invert_yaxis()
    axes.set_yticks(range(1, 6), [f"1/{2**level}" for level in range(1, 6)])
    axes.set_xlabel("depth in kernels (red: residual links; area of a disc: latency)")
    axes.set_ylabel("resolution")
    legend = axes.legend(loc="upper right", ncols=4, frameon=False)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_sizes([60.0])  # type: ignore[attr-defined]


def _draw_link(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, colour: str) -> None:
    """A straight line, or an arc over the kernels that stand between."""
    skips = abs(start[1] - end[1]) < 1 and end[0] - start[0] > 1
    bend = min(0.4, 2 / (end[0] - start[0])) if skips else 0.0
    style = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "connectionstyle": f"arc3,rad={-bend}"}
    axes.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0}, zorder=1)


def _draw_parts(axes: Axes, parts: Sequence[Part]) -> None:
    total = sum(part.seconds for part in parts)
    bars = axes.bar([part.name for part in parts], [100 * part.seconds / total for part in parts], color="#4477aa")
    axes.bar_label(bars, fmt="%.1f %%", padding=2)
    axes.margins(y=0.2)
    axes.set_ylabel("share of latency, %")
