"""What the labels of a data set hold: classes, where their boxes lie, and how large they are, as PNG."""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detector.data.dataset import Dataset, class_counts
from detector.draw import figure_png, short
from maenas.palette import class_colour, hex_colour
from maenas.units import number_of

_MOST_CLASSES: Final = 30
_BINS: Final = 48
_SIZES: Final = (32, 96)  # COCO's limits of small and medium, in pixels of the root of the area
_MAP: Final = "viridis"


def label_plot(dataset: Dataset) -> bytes:
    """Boxes of each class, centres, widths and heights as shares of their image, sizes in pixels, boxes an image."""
    figure = Figure(figsize=(14, 8), layout="constrained")
    classes, centres, shapes, sizes, counts, pictures = figure.subplots(2, 3).flat
    _draw_classes(classes, dataset)
    boxes, image = _boxes(dataset)
    if len(boxes):
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / image
        extent = (boxes[:, 2:] - boxes[:, :2]) / image
        _draw_density(centres, middle, "centres of the boxes", ("x, share of the width", "y, share of the height"))
        centres.invert_yaxis()
        _draw_density(shapes, extent, "width and height of the boxes", ("share of the width", "share of the height"))
        _draw_sizes(sizes, np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)))
    _draw_counts(counts, np.array([len(sample.labels) for sample in dataset.samples]))
    _draw_pictures(pictures, dataset)
    total = int(class_counts(dataset).sum())
    title = f"{number_of(len(dataset), 'image')}, {number_of(total, 'box')}, {number_of(len(dataset.names), 'class')}"
    figure.suptitle(title)
    return figure_png(figure, dpi=100)


def _boxes(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All boxes `[N, 4]` and width and height of the image of each `[N, 2]`."""
    boxes = [sample.boxes for sample in dataset.samples]
    images = [np.tile([[sample.width, sample.height]], (len(sample.boxes), 1)) for sample in dataset.samples]
    return np.concatenate([np.zeros((0, 4), np.float32), *boxes]), np.concatenate([np.zeros((0, 2)), *images])


def _draw_classes(axes: Axes, dataset: Dataset) -> None:
    counts = class_counts(dataset)
    order = np.argsort(-counts, kind="stable")[:_MOST_CLASSES]
    names = [short(dataset.names[index], 18).replace("$", r"\$") for index in order]
    colours = [hex_colour(class_colour(int(index))) for index in order]
    places = range(len(order))
    axes.barh(places, counts[order], color=colours)
    axes.set_yticks(places, names, fontsize="small" if len(order) <= 15 else 6)
    axes.invert_yaxis()
    for place, index in zip(places, order, strict=True):
        axes.text(float(counts[index]), place, f" {counts[index]}", va="center", fontsize="small")
    axes.margins(x=0.15)
    rest = len(counts) - len(order)
    axes.set(title=f"boxes by class{f', the largest of {len(counts)}' if rest else ''}", xlabel="boxes")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_density(axes: Axes, points: np.ndarray, title: str, labels: tuple[str, str]) -> None:
    """How often each place of the unit square occurs, `points` `[N, 2]`."""
    axes.hist2d(points[:, 0], points[:, 1], bins=_BINS, range=((0, 1), (0, 1)), cmap=_MAP)
    axes.set(title=title, xlabel=labels[0], ylabel=labels[1], aspect="equal")


def _draw_sizes(axes: Axes, sides: np.ndarray) -> None:
    edges = np.geomspace(max(1.0, sides.min()) * 0.99, max(sides.max(), 2.0) * 1.01, 40)
    axes.hist(sides, edges.tolist(), color="#4477aa")
    axes.set(
        title="size of the boxes", xlabel="root of the area, pixels (lines: COCO's small, medium, large)", xscale="log"
    )
    for limit in _SIZES:
        axes.axvline(limit, color="0.35", linewidth=1, linestyle="--")
    ticks = [side for side in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048) if edges[0] <= side <= edges[-1]]
    axes.set_xticks(ticks, [str(side) for side in ticks])
    axes.set_xticks([], minor=True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_counts(axes: Axes, counts: np.ndarray) -> None:
    most = int(counts.max(initial=0))
    edges = np.arange(most + 2) - 0.5 if most <= 60 else np.linspace(-0.5, most + 0.5, 61)
    axes.hist(counts, edges.tolist(), color="#4477aa")
    axes.set(title=f"boxes in an image ({int((counts == 0).sum())} images without)", xlabel="boxes", ylabel="images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _draw_pictures(axes: Axes, dataset: Dataset) -> None:
    """Sizes of the images; the larger a disc, the more of them."""
    sizes, counts = np.unique([(s.width, s.height) for s in dataset.samples], axis=0, return_counts=True)
    axes.scatter(sizes[:, 0], sizes[:, 1], s=20 + 380 * counts / counts.max(), color="#4477aa", alpha=0.5)
    axes.set(title="size of the images", xlabel="width, pixels", ylabel="height, pixels")
    axes.set_xlim(0, 1.15 * float(sizes[:, 0].max()))
    axes.set_ylim(0, 1.15 * float(sizes[:, 1].max()))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
