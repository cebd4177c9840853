"""AP by epoch of trainings that differ in one thing, repeated with several seeds; a finished run is not repeated."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import maenas
from detector.data.shapes import write_shapes
from maenas.run_files import EPOCHS_FILE, read_epochs

Curve = dict[int, float]  # AP by epoch


def given_data(data: str, folder: Path, side: int) -> Path:
    """The data set: a folder, or 400 generated shapes of `side` pixels in `folder`."""
    if data != "shapes":
        return Path(data)
    path = folder / "shapes"
    if not path.exists():
        write_shapes(path, images=400, size=side, seed=0)
    return path


def searched(folder: Path, name: str, budget: str, **options: Any) -> Path:
    """The spec file of the optimum of a budget, in `folder`."""
    path = folder / f"{name}.json"
    if not path.exists():
        maenas.search(budget, **options).best.save(path)
    return path


def train_curve(folder: Path, spec: Path, data: Path, *, epochs: int, **options: Any) -> Curve:
    """Train into `folder`, going on where it stops, and return AP at the epochs that were evaluated."""
    if not (folder / EPOCHS_FILE).exists() or read_epochs(folder / EPOCHS_FILE)[-1].epoch < epochs:
        maenas.train(spec, data, out=folder, epochs=epochs, resume=True, **options)
    return {
        row.epoch: round(row.metrics["AP"], 4)
        for row in read_epochs(folder / EPOCHS_FILE)
        if row.metrics and row.epoch <= epochs
    }


def mean_curve(curves: Sequence[Curve]) -> dict[int, dict[str, float]]:
    """Mean and spread over seeds at every epoch."""
    return {
        epoch: {
            "mean": round(statistics.fmean(curve[epoch] for curve in curves), 4),
            "stdev": round(statistics.stdev(curve[epoch] for curve in curves), 4) if len(curves) > 1 else 0.0,
        }
        for epoch in sorted(set.intersection(*(set(curve) for curve in curves)))
    }


def curve_table(rows: Mapping[str, Sequence[Curve]]) -> str:
    """AP at every epoch that all runs evaluated, mean over seeds and their standard deviation, one line a condition."""
    means = {name: mean_curve(curves) for name, curves in rows.items() if curves}
    epochs = sorted(set.intersection(*(set(mean) for mean in means.values())))
    lines = [" ".join([f"{'AP at epoch':<26}", *(f"{epoch:>14}" for epoch in epochs)])]
    for name, mean in means.items():
        cells = (f"{mean[epoch]['mean']:>6.3f} ± {mean[epoch]['stdev']:<5.3f}" for epoch in epochs)
        lines.append(" ".join([f"{name:<26}", *cells]))
    return "\n".join(lines)
