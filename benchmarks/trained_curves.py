"""AP by epoch of trainings that differ in one thing, repeated with several seeds; a finished run is not repeated."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import maenas
from detector.data.shapes import write_shapes
from maenas.files import write_atomic
from maenas.run_files import EPOCHS_FILE, read_epochs

ROOT = Path(__file__).resolve().parents[1]
Curve = dict[int, float]  # AP by epoch


def experiment_parser(doc: str | None, *, epochs: int, folder: str) -> argparse.ArgumentParser:
    """The options of every such experiment: data, searches, recipe, length, seeds and where the runs lie."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes", help="a folder, or shapes: 400 generated images")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--space", default="demo")
    parser.add_argument("--neck", default="preset")
    parser.add_argument("--device", default="t4", help="whose latency the budgets are")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--epochs", type=int, default=epochs, help="of the students")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / folder)
    parser.add_argument("--result", type=Path)
    return parser


def begin(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Path, dict[str, Any]]:
    """What was given, with its folder made; the data; and the options of every training."""
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    data = given_data(given.data, given.folder, given.side)
    return given, data, {"recipe": given.recipe, "input_size": given.side}


def conditions_of(given: argparse.Namespace) -> dict[str, str]:
    """The options of a benchmark, with names of files and folders and not where they lie here."""
    options = {key: str(value) for key, value in vars(given).items() if key not in ("folder", "result")}
    return {key: Path(value).name if "/" in value else value for key, value in options.items()}


def write_curves(
    rows: Mapping[str, Sequence[Curve]], given: argparse.Namespace, name: str, *, benchmark: str, **more: Any
) -> None:
    """Write all curves and the options that made them, as `name` unless `--result` says where, and print them."""
    document = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "conditions": conditions_of(given),
        **more,
        "curves": rows,
        "means": {name: mean_curve(curves) for name, curves in rows.items()},
    }
    write_atomic(given.result or ROOT / "benchmarks" / "results" / name, json.dumps(document, indent=1) + "\n")
    print(curve_table(rows))


def given_data(data: str, folder: Path, side: int) -> Path:
    """The data set: a folder, or 400 generated shapes of `side` pixels in `folder`."""
    if data != "shapes":
        return Path(data)
    return drawn_shapes(folder / "shapes", images=400, side=side, seed=0)


def drawn_shapes(folder: Path, *, images: int, side: int, seed: int) -> Path:
    """Generated shapes in `folder`, drawn where they are not there yet."""
    if not folder.exists():
        write_shapes(folder, images=images, size=side, seed=seed)
    return folder


def searched(folder: Path, name: str, budget: str, given: argparse.Namespace) -> Path:
    """The spec file of the optimum of a budget, in `folder`; `given` says where it is searched."""
    path = folder / f"{name}.json"
    if not path.exists():
        where = {"device": given.device, "space": given.space, "input_size": given.side, "classes": given.classes}
        maenas.search(budget, neck=given.neck, **where).best.save(path)
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
