"""Networks side by side: a table, JSON data, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from maenas.errors import MaenasError
from maenas.files import write_atomic
from maenas.latency.predictor import AnyPredictor, Prediction, provenance_word
from maenas.reports.network_plot import FORMATS
from maenas.reports.networks import Summary
from maenas.reports.text import columns
from maenas.units import format_count


def format_compare(rows: Sequence[Summary], names: Sequence[str], predictors: Sequence[AnyPredictor]) -> str:
    """A table with one line a network, and below it what each latency is worth."""
    header = ["network", "input", "params", "FLOPs", "layers", "MAE score"]
    for name, predictor in zip(names, predictors, strict=True):
        header += [f"ms on {name}", "90 % interval" if predictor.calibrated else "90 % range"]
    table = [header]
    for row in rows:
        cost, size = row.cost, row.network.spec.input
        cells = [row.network.name, f"{size.height}x{size.width}", format_count(cost.params), format_count(cost.flops)]
        cells += [str(cost.layers), f"{row.score:.2f}"]
        for prediction in row.predictions:
            cells += [f"{prediction.seconds * 1e3:.3f}", _span(prediction)]
        table.append(cells)
    notes = [f"{name}: {predictor.description}" for name, predictor in zip(names, predictors, strict=True)]
    return "\n".join([columns(table), "", *notes])


def _span(prediction: Prediction) -> str:
    return f"{prediction.low * 1e3:.3f} to {prediction.high * 1e3:.3f}"


def compare_document(
    rows: Sequence[Summary], names: Sequence[str], predictors: Sequence[AnyPredictor]
) -> dict[str, Any]:
    """What `format_compare` prints, as JSON data with all digits."""
    return {
        "networks": [
            {
                "name": row.network.name,
                "id": row.network.spec.id,
                "input": [row.network.spec.input.height, row.network.spec.input.width],
                "classes": row.network.spec.head.num_classes,
                "params": row.cost.params,
                "flops": row.cost.flops,
                "layers": row.cost.layers,
                "mae_score": row.score,
                "effectiveness": row.effectiveness,
                "latency": [
                    {
                        "device": name,
                        "kind": provenance_word(predictor),
                        "ms": prediction.seconds * 1e3,
                        "interval_90_ms": [prediction.low * 1e3, prediction.high * 1e3],
                    }
                    for name, predictor, prediction in zip(names, predictors, row.predictions, strict=True)
                ],
            }
            for row in rows
        ],
        "conditions": {name: predictor.conditions for name, predictor in zip(names, predictors, strict=True)},
    }


def plot_compare(rows: Sequence[Summary], predictors: Sequence[AnyPredictor], path: Path) -> None:
    """Draw the latencies with their intervals into a .png, .svg or .pdf file.

    Raises `MaenasError` for another kind of file, without matplotlib, and if the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise MaenasError(f"--plot {path}: the file must end in {', '.join(FORMATS)}")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MaenasError("plots need matplotlib: pip install matplotlib") from None
    count = len(predictors)
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(rows) * max(1.0, 0.5 * count)), layout="constrained")
    axes = figure.subplots()
    for number, predictor in enumerate(predictors):
        predictions = [row.predictions[number] for row in rows]
        seconds = [p.seconds * 1e3 for p in predictions]
        spread = ([(p.seconds - p.low) * 1e3 for p in predictions], [(p.high - p.seconds) * 1e3 for p in predictions])
        places = [place + 0.16 * (number - (count - 1) / 2) for place in range(len(rows))]
        label = f"{predictor.device.name}, {provenance_word(predictor)}"
        axes.errorbar(seconds, places, xerr=spread, fmt="o", markersize=5, elinewidth=1.2, capsize=3, label=label)
    # A dollar sign would begin a formula.
    axes.set_yticks(range(len(rows)), [row.network.name.replace("$", r"\$") for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("latency, ms, with 90 % interval")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=count, frameon=False)
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150)
    write_atomic(path, buffer.getvalue())
