"""Networks side by side: a table, JSON data, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maenas.cost import Cost
from maenas.errors import MaenasError, printable_line
from maenas.latency.onnx.predict import predict_graph
from maenas.latency.predictor import AnyPredictor, Prediction, provenance_word
from maenas.reports.networks import Graph, Network, summarise
from maenas.reports.plot_file import save_figure
from maenas.reports.text import columns
from maenas.spec import DetectorSpec
from maenas.units import format_count

LEGEND_LETTERS = 90  # of the names in one row of a legend
LONGEST_NAME = 32


@dataclass(frozen=True)
class Row:
    """A network in numbers; None for what an ONNX file that maenas did not write does not tell.

    `predictors` are those that were asked for, each with what it is worth for this network.
    """

    name: str
    spec: DetectorSpec | None
    cost: Cost
    score: float | None
    effectiveness: float | None
    ap: float | None
    data: str | None
    predictions: tuple[Prediction, ...]
    predictors: tuple[AnyPredictor, ...]


def compared(network: Network | Graph, predictors: Sequence[AnyPredictor]) -> Row:
    """The numbers of one network; raises `MaenasError` where a predictor cannot tell its latency."""
    if isinstance(network, Network):
        s = summarise(network, predictors)
        known = (network.ap, network.data, s.predictions, tuple(predictors))
        return Row(network.name, network.spec, s.cost, s.score, s.effectiveness, *known)
    graphs = [predict_graph(network.lowered, predictor) for predictor in predictors]
    found = tuple(graph.prediction for graph in graphs), tuple(graph.predictor for graph in graphs)
    return Row(network.name, None, network.lowered.cost, None, None, None, None, *found)


def format_compare(rows: Sequence[Row], names: Sequence[str], predictors: Sequence[AnyPredictor]) -> str:
    """A table with one line a network, and below it what each latency is worth and what each AP is of."""
    rated = [row for row in rows if row.ap is not None]
    header = ["network", "input", "params", "FLOPs", "layers", "MAE score", *(["AP"] if rated else [])]
    for name, predictor in zip(names, predictors, strict=True):
        header += [f"ms on {name}", "90 % interval" if predictor.calibrated else "90 % range"]
    table = [header]
    for row in rows:
        cost, size = row.cost, None if row.spec is None else row.spec.input
        shape = "" if size is None else f"{size.height}x{size.width}"
        cells = [row.name, shape, format_count(cost.params), format_count(cost.flops)]
        cells += ["" if row.spec is None else str(cost.layers), "" if row.score is None else f"{row.score:.2f}"]
        cells += ["" if row.ap is None else f"{row.ap:.3f}"] if rated else []
        for prediction in row.predictions:
            cells += [f"{prediction.seconds * 1e3:.3f}", _span(prediction)]
        table.append(cells)
    notes = [f"{name}: {predictor.description}" for name, predictor in zip(names, predictors, strict=True)]
    notes += [
        f"{printable_line(row.name)} on {name}: {own.description}"
        for row in rows
        for name, predictor, own in zip(names, predictors, row.predictors, strict=True)
        if own.description != predictor.description
    ]
    notes += [
        f"AP of {printable_line(row.name)}: on the validation images of its training{_of(row.data)}" for row in rated
    ]
    return "\n".join([columns(table), "", *notes])


def _of(data: str | None) -> str:
    return "" if data is None else f" ({printable_line(data)})"


def _span(prediction: Prediction) -> str:
    return f"{prediction.low * 1e3:.3f} to {prediction.high * 1e3:.3f}"


def compare_document(rows: Sequence[Row], names: Sequence[str], predictors: Sequence[AnyPredictor]) -> dict[str, Any]:
    """What `format_compare` prints, as JSON data with all digits."""
    return {
        "networks": [
            {
                "name": row.name,
                "id": None if row.spec is None else row.spec.id,
                "input": None if row.spec is None else [row.spec.input.height, row.spec.input.width],
                "classes": None if row.spec is None else row.spec.head.num_classes,
                "params": row.cost.params,
                "flops": row.cost.flops,
                "layers": None if row.spec is None else row.cost.layers,
                "mae_score": row.score,
                "effectiveness": row.effectiveness,
                "ap": row.ap,
                "latency": [
                    {
                        "device": name,
                        "kind": provenance_word(predictor),
                        "calibrated": predictor.calibrated,
                        "ms": prediction.seconds * 1e3,
                        "interval_90_ms": [prediction.low * 1e3, prediction.high * 1e3],
                    }
                    for name, predictor, prediction in zip(names, row.predictors, row.predictions, strict=True)
                ],
            }
            for row in rows
        ],
        "conditions": {name: predictor.conditions for name, predictor in zip(names, predictors, strict=True)},
    }


def plot_compare(rows: Sequence[Row], predictors: Sequence[AnyPredictor], path: Path) -> None:
    """Draw the latencies with their intervals into a .png, .svg or .pdf file.

    Raises `MaenasError` for another kind of file, without matplotlib, and if the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MaenasError("plots need matplotlib: pip install matplotlib") from None
    count = len(predictors)
    columns = max(1, min(count, LEGEND_LETTERS // max(len(_legend(predictor)) for predictor in predictors)))
    height = 1.2 + 0.25 * -(-count // columns) + 0.45 * len(rows) * max(1.0, 0.5 * count)
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    for number, predictor in enumerate(predictors):
        predictions = [row.predictions[number] for row in rows]
        seconds = [p.seconds * 1e3 for p in predictions]
        spread = ([(p.seconds - p.low) * 1e3 for p in predictions], [(p.high - p.seconds) * 1e3 for p in predictions])
        places = [place + 0.16 * (number - (count - 1) / 2) for place in range(len(rows))]
        style = {"fmt": "o", "markersize": 5, "elinewidth": 1.2, "capsize": 3}
        axes.errorbar(seconds, places, xerr=spread, label=_legend(predictor), **style)
    # A dollar sign would begin a formula.
    axes.set_yticks(range(len(rows)), [_tick(row.name) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("latency, ms, with 90 % interval")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=columns, frameon=False)
    save_figure(figure, path)


def _legend(predictor: AnyPredictor) -> str:
    return f"{predictor.device.name}, {provenance_word(predictor)}"


def _tick(name: str) -> str:
    """A name beside an axis: cut where it is long; a dollar sign would begin a formula."""
    name = printable_line(name)
    return (name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…").replace("$", r"\$")
