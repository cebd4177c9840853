"""The sections of a report about networks that are predicted on devices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maenas.latency.predictor import provenance_word
from maenas.lowering import lower
from maenas.reports.blocks import Block, Facts, Note, Plot, Section, Table
from maenas.reports.drawing import drawing_figure
from maenas.reports.figures import (
    architecture_text,
    front_figure,
    front_views,
    interval_figure,
    layers_figure,
    parts_figure,
)
from maenas.reports.landscape import Landscape, Place, excess_over_front, setup_text
from maenas.reports.network import Part, op_name, parts_of, shape_text
from maenas.reports.networks import Devices, Summary
from maenas.reports.prediction_text import format_prediction
from maenas.spec import DetectorSpec
from maenas.units import format_count, format_latency, number_of

FRONT_ROWS = 24
SAME = 1e-6  # relative difference up to which two numbers are the same


# Overview -----------------------------------------------------------------------------------------------------------


def overview(rows: Sequence[Summary], devices: Devices) -> Section:
    """All networks in numbers, their latencies with intervals, and under which conditions these hold."""
    figure = interval_figure(rows, devices.predictors)
    names = ", ".join(row.network.name for row in rows)
    plot = Plot(
        "Predicted latency and its 90 % interval",
        f"Latency of {names}; the numbers are in the table above.",
        figure,
        height=170 + 44 * len(rows) * len(devices.predictors),
    )
    uncalibrated = [p.device.name for p in devices.predictors if not p.calibrated]
    notes = (
        [Note(f"No error is known on {', '.join(uncalibrated)}: the interval is a guess, not 90 %.")]
        if uncalibrated
        else []
    )
    conditions = Facts([(name, p.description) for name, p in zip(devices.names, devices.predictors, strict=True)])
    return Section("Overview", [networks_table(rows, devices), conditions, *notes, plot])


def networks_table(rows: Sequence[Summary], devices: Devices) -> Table:
    """One row a network."""
    latencies = [
        f"ms on {name}, {provenance_word(p)}" for name, p in zip(devices.names, devices.predictors, strict=True)
    ]
    header = [
        "network",
        "id",
        "input",
        "classes",
        "params",
        "FLOPs",
        "layers",
        "MAE score",
        *latencies,
    ]
    cells = []
    for row in rows:
        spec, cost = row.network.spec, row.cost
        numbers = [format_count(cost.params), format_count(cost.flops), str(cost.layers)]
        times = [f"{p.seconds * 1e3:.4f} ({p.low * 1e3:.3f} to {p.high * 1e3:.3f})" for p in row.predictions]
        size = f"{spec.input.height}x{spec.input.width}"
        cells.append(
            [row.network.name, spec.id, size, str(spec.head.num_classes), *numbers, f"{row.score:.4f}", *times]
        )
    return Table(
        "Whole detectors, without NMS unless the conditions say otherwise; in parentheses the 90 % interval",
        header,
        cells,
        left=2,
    )


def conditions_section(devices: Devices) -> Section:
    """Under which conditions the latencies are predicted, one column a device."""
    keys = list(dict.fromkeys(key for p in devices.predictors for key in p.conditions))
    rows = [["description", *(p.description for p in devices.predictors)]]
    rows += [[key.replace("_", " "), *(_plain(p.conditions.get(key)) for p in devices.predictors)] for key in keys]
    table = Table("Of the predicted latencies", ["condition", *devices.names], rows, left=1 + len(devices.names))
    return Section("Conditions", [table])


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# Front --------------------------------------------------------------------------------------------------------------


def front_section(landscape: Landscape) -> Section:
    """Latency against score: the front, the networks, the published detectors."""
    front = landscape.front
    setup, points = front.setup, front.points
    word, score = provenance_word(setup.predictors[0]), setup.request.score
    counted = "backbone, neck and head" if setup.request.scope == "detector" else "the backbone only"
    proof = (
        "Proven: at no latency in between is there a better one."
        if front.proven
        else "Found, but not proven everywhere."
    )
    ends = f"{format_latency(points[0].latency_s)} to {format_latency(front.high_s)}"
    classes = number_of(setup.request.num_classes, "class")
    about = (
        f"The best score of the space for every latency budget from {ends}, computed exactly: {len(points)} "
        f"architectures. {proof} Latency counts {counted} on {setup.predictors[0].device.name}. The published "
        f"detectors are rebuilt at {setup.input_size}x{setup.input_size} with {classes}."
    )
    picked = np.unique(np.linspace(0, len(points) - 1, FRONT_ROWS).round().astype(int))
    rows = [
        [
            f"{points[i].latency_s * 1e3:.4f}",
            f"{points[i].score:.4f}",
            str(points[i].max_layers or "no limit"),
            architecture_text(setup.space, points[i].solution.genome),
        ]
        for i in picked
    ]
    header = [f"ms {word}", score, "layers up to", "architecture"]
    table = Table(f"{len(rows)} of the {len(points)} points of the front", header, rows)
    plot = Plot(
        "Latency and score",
        f"Step curve of {len(points)} points. {about}",
        front_figure(landscape, word, score),
        table,
        height=520,
        views=front_views(landscape),
    )
    return Section("Pareto front", [Note(setup_text(setup)), Note(about), plot, _places_table(landscape)])


def _places_table(landscape: Landscape) -> Table:
    rows = [_place_row(landscape, place, "this report") for place in landscape.networks]
    rows += [
        _place_row(landscape, place, "published")
        for place in sorted(landscape.published, key=lambda place: place.seconds)
    ]
    request = landscape.front.setup.request
    word = provenance_word(landscape.front.setup.predictors[0])
    header = ["network", "from", f"ms {word}", "90 % interval", request.score, "layers", "against the front"]
    return Table("Networks beside the front", header, rows, left=2)


def _place_row(landscape: Landscape, place: Place, source: str) -> list[str]:
    numbers = [f"{place.seconds * 1e3:.4f}", f"{place.low * 1e3:.3f} to {place.high * 1e3:.3f}", f"{place.score:.4f}"]
    return [place.name, source, *numbers, str(place.layers), _against(landscape, place)]


def _against(landscape: Landscape, place: Place) -> str:
    if not landscape.front.points[0].latency_s <= place.seconds <= landscape.front.high_s:
        return "outside the range"
    excess = excess_over_front(landscape, place)
    if abs(excess) < SAME:
        return "on it"
    return f"{excess:.2%} above: outside its space or depth bound" if excess > 0 else f"{-excess:.2%} below"


# One network --------------------------------------------------------------------------------------------------------


def network_section(row: Summary, devices: Devices, search: Sequence[Block], inner: Sequence[Section] = ()) -> Section:
    """Where the time of one network goes and what it looks like; `search` and `inner` say where it comes from."""
    network = row.network
    spec = network.spec
    kernels = lower(spec)
    pairs = zip(devices.predictors, row.predictions, strict=True)
    classes = number_of(spec.head.num_classes, "class")
    size = f"{spec.input.height}x{spec.input.width}, {spec.input.channel_order.upper()}, {classes}"
    facts = Facts(
        [
            ("id", spec.id),
            ("input", size),
            ("cost", f"{format_count(row.cost.params)} parameters, {format_count(row.cost.flops)} FLOPs"),
            ("score", f"MAE {row.score:.4f}; effectiveness {row.effectiveness:.4f}; {row.cost.layers} layers"),
            *(("latency", format_prediction(kernels, predictor, prediction)) for predictor, prediction in pairs),
        ]
    )
    parts = parts_of(spec, devices.predictors[0])
    drawing = Plot(
        "The network",
        f"Graph of the {len(kernels)} kernels of {network.name}: the backbone with its residual links, neck and head.",
        drawing_figure(parts, spec.input.height),
        height=460,
        wide=True,
    )
    caption = (
        "A disc is a kernel: from left to right its depth, its row the resolution of its output, its area its latency."
    )
    return Section(network.name, [facts, *search, *_time_blocks(spec, devices, parts), drawing, Note(caption)], inner)


def _time_blocks(spec: DetectorSpec, devices: Devices, parts: Sequence[Part]) -> list[Block]:
    seconds = {
        name: [part.seconds for part in parts_of(spec, predictor)]
        for name, predictor in zip(devices.names, devices.predictors, strict=True)
    }
    shares = {name: [100 * value / sum(values) for value in values] for name, values in seconds.items()}
    names = [part.name for part in parts]
    header = ["part", "kernels", "params", "FLOPs", *(text for name in seconds for text in (f"ms on {name}", "share"))]
    rows = []
    for number, part in enumerate(parts):
        times = [
            text for name in seconds for text in (f"{seconds[name][number] * 1e3:.4f}", f"{shares[name][number]:.1f} %")
        ]
        rows.append([part.name, str(len(part.layers)), format_count(part.params), format_count(part.flops), *times])
    table = Table("Latency by part", header, rows)
    top = max(zip(next(iter(shares.values())), names, strict=True))
    text = f"Bars of the share of latency of each part; the largest is {top[1]} with {top[0]:.1f} %."
    return [
        Plot("Where the time goes, by part", text, parts_figure(shares, names), table, height=340),
        _layers_plot(parts, devices.names[0]),
    ]


def _layers_plot(parts: Sequence[Part], device: str) -> Plot:
    layers = [(part.name, layer) for part in parts for layer in part.layers]
    total = sum(layer.seconds for _, layer in layers)
    rows = [
        [
            layer.kernel.name,
            op_name(layer.kernel),
            str(layer.kernel.in_channels),
            shape_text(layer.kernel),
            f"{layer.kernel.kernel}/{layer.kernel.stride}",
            format_count(layer.flops) if layer.flops else "",
            f"{layer.seconds * 1e6:.2f}",
            f"{layer.seconds / total:.1%}",
        ]
        for _, layer in layers
    ]
    header = ["kernel", "operator", "in", "out", "k/s", "FLOPs", f"µs on {device}", "share"]
    slowest = max((layer for _, layer in layers), key=lambda layer: layer.seconds)
    most = f"{slowest.kernel.name}, {slowest.seconds * 1e6:.1f} µs"
    text = f"Bars of the latency of {len(layers)} kernels; the slowest is {most}."
    table = Table("Every kernel in execution order", header, rows, left=2)
    return Plot(f"Where the time goes, by kernel, on {device}", text, layers_figure(parts), table, height=380)
