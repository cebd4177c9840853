"""How well kernels that were not measured are predicted from those that were: V100, TensorRT, fp16, batch 1.

A random fifth of the shipped table is held out, five times; every method sees the other four fifths. Writes
benchmarks/results/kernel_prediction.json.

    python benchmarks/kernel_prediction.py

Methods: `maenas` (`maenas.latency.interpolation`); `physics` (its base without the correction); `nearest` (the time of
the nearest row in log shape, of the same kind, kernel size and stride); `piecewise linear`, the scheme of the published
search tool, written anew from its description: for each kind, kernel size, stride, residual add and ratio of input to
output channels, linear between the measured heights, then linear between the measured output channels.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from maenas.files import data_dir, write_atomic
from maenas.latency.interpolation.fit import TREES, fit_table, row_kernels
from maenas.latency.interpolation.predict import Interpolator
from maenas.latency.measured import MeasuredTable, Row, make_table, read_measured

SEEDS = (1, 2, 3, 4, 5)
TABLE = data_dir("latency_tables") / "published" / "v100-tensorrt-fp16-b1.json"
RESULT = Path(__file__).resolve().parent / "results" / "kernel_prediction.json"
Rows = list[Row]


def part(table: MeasuredTable, numbers: np.ndarray) -> MeasuredTable:
    return make_table(
        device=table.device,
        runtime=table.runtime,
        precision=table.precision,
        batch=table.batch,
        conditions=table.conditions,
        method=table.method,
        rows=tuple(table.rows[n] for n in numbers),
    )


def piecewise_linear(train: Rows, test: Rows) -> np.ndarray:
    lines: dict[tuple, dict[float, dict[int, list[tuple[int, float]]]]] = {}
    for r in train:
        ratios = lines.setdefault((r.groups > 1, r.kernel, r.stride, r.epilogue), {})
        heights = ratios.setdefault(r.in_channels / r.out_channels, {}).setdefault(r.out_channels, [])
        heights.append((r.height, r.median_s))

    def at(heights: list[tuple[int, float]], height: int) -> float:
        xs, ys = zip(*sorted(heights), strict=True)
        return float(np.interp(height, xs, ys))  # constant beyond the ends: linear there doubles the mean error

    predicted = []
    for r in test:
        ratios = lines[r.groups > 1, r.kernel, r.stride, r.epilogue]
        ratio = min(ratios, key=lambda known: abs(np.log(known * r.out_channels / r.in_channels)))
        columns = sorted(ratios[ratio])
        below = max((c for c in columns if c <= r.out_channels), default=columns[0])
        above = min((c for c in columns if c >= r.out_channels), default=columns[-1])
        low, high = at(ratios[ratio][below], r.height), at(ratios[ratio][above], r.height)
        share = 0.0 if above <= below else np.clip((r.out_channels - below) / (above - below), 0, 1)
        predicted.append(low + share * (high - low))
    return np.array(predicted)


def nearest(train: Rows, test: Rows) -> np.ndarray:
    def kinds(rows: Rows) -> dict[tuple, np.ndarray]:
        groups: dict[tuple, list[int]] = {}
        for number, r in enumerate(rows):
            groups.setdefault((r.groups > 1, r.kernel, r.stride), []).append(number)
        return {kind: np.array(numbers) for kind, numbers in groups.items()}

    def place(rows: Rows, numbers: np.ndarray) -> np.ndarray:
        shape = [(rows[n].in_channels, rows[n].out_channels, rows[n].height) for n in numbers]
        residual = np.array([[rows[n].epilogue == "add"] for n in numbers])
        return np.concatenate([np.log(shape), residual], axis=1)

    known, predicted = kinds(train), np.empty(len(test))
    for kind, numbers in kinds(test).items():
        there = place(train, known[kind])
        for number, point in zip(numbers, place(test, numbers), strict=True):
            closest = np.argmin(((there - point) ** 2).sum(axis=1))
            predicted[number] = train[known[kind][closest]].median_s
    return predicted


def by_kernel(table: MeasuredTable, predict: Callable) -> np.ndarray:
    """Columns of numbers for the rows of a table, from a function of kernels with array widths."""
    columns = None
    for kernel, numbers in row_kernels(table):
        values = np.atleast_2d(np.asarray(predict(kernel), dtype=float))
        columns = np.empty((len(values), len(table.rows))) if columns is None else columns
        columns[:, numbers] = values
    assert columns is not None
    return columns


def errors(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    error = np.abs(predicted / measured - 1)
    return {"median": float(np.median(error)), "mean": float(error.mean()), "q95": float(np.quantile(error, 0.95))}


def falls_with_channels(model: Interpolator) -> dict[str, float]:
    """Share of neighbouring output widths (steps of 8, 3x3 stride 1, 16 to 1024 channels) where the time falls."""
    falls, deep, pairs = 0, 0, 0
    widths = np.arange(16, 1025, 8)
    for kernel, _ in row_kernels(model.table):
        if (kernel.kernel, kernel.stride, kernel.residual) != (3, 1, None) or kernel.in_height > 164:
            continue
        for inputs in (64, 256):
            line = dataclasses.replace(kernel, in_channels=inputs, out_channels=widths, groups=1)
            steps = np.diff(np.log(model.predict(line).seconds))
            falls, deep, pairs = falls + int((steps < 0).sum()), deep + int((steps < -0.05).sum()), pairs + steps.size
    return {"falls": falls / pairs, "falls_by_more_than_5_percent": deep / pairs, "pairs": pairs}


def one_split(table: MeasuredTable, order: np.ndarray, seed: int) -> tuple[dict, Interpolator]:
    cut = len(order) // 5
    test, train = part(table, order[:cut]), part(table, order[cut:])
    measured = np.array([r.median_s for r in test.rows])
    depthwise = np.array([r.groups > 1 for r in test.rows])
    start = time.perf_counter()
    model = fit_table(train, seed=seed)
    fitted = time.perf_counter()
    seconds, low, high, _, distance = by_kernel(test, model.predict)
    predicted = time.perf_counter()
    inside = (low <= measured) & (measured <= high)
    result = {
        "maenas": errors(seconds, measured),
        "maenas, regular": errors(seconds[~depthwise], measured[~depthwise]),
        "maenas, depthwise": errors(seconds[depthwise], measured[depthwise]),
        "physics": errors(by_kernel(test, model.base_seconds)[0], measured),
        "nearest": errors(nearest(list(train.rows), list(test.rows)), measured),
        "piecewise linear": errors(piecewise_linear(list(train.rows), list(test.rows)), measured),
        "interval_coverage": float(inside.mean()),
        "interval_median_factor": float(np.median(high / seconds)),
        "outside_range": int((distance > 0).sum()),
        "fit_s": round(fitted - start, 2),
        "predict_s": round(predicted - fitted, 2),
    }
    return result, model


def left_out_lines(table: MeasuredTable) -> dict[str, dict[str, float]]:
    """All rows of one height or width left out: what a kernel between the measured sizes meets."""
    column = {
        name: np.array([getattr(r, name) for r in table.rows]) for name in ("height", "in_channels", "out_channels")
    }
    results = {}
    for name, value in (
        ("height", 32),
        ("height", 126),
        ("out_channels", 96),
        ("out_channels", 384),
        ("in_channels", 192),
    ):
        out = column[name] == value
        model = fit_table(part(table, np.flatnonzero(~out)), trees=15)
        test = part(table, np.flatnonzero(out))
        measured = np.array([r.median_s for r in test.rows])
        seconds, low, high, *_ = by_kernel(test, model.predict)
        covered = float(((low <= measured) & (measured <= high)).mean())
        results[f"{name} {value}"] = {**errors(seconds, measured), "interval_coverage": covered}
    return results


def main() -> None:
    start = time.perf_counter()
    table = read_measured(TABLE)
    splits = []
    for seed in SEEDS:
        result, model = one_split(table, np.random.default_rng(seed).permutation(len(table.rows)), seed)
        splits.append(result)
    methods = [name for name, value in splits[0].items() if isinstance(value, dict)]
    mean = {m: {k: round(float(np.mean([s[m][k] for s in splits])), 5) for k in splits[0][m]} for m in methods}
    others = {k: round(float(np.mean([s[k] for s in splits])), 4) for k in splits[0] if k not in methods}
    document = {
        "what": "relative errors of held-out kernels: a random fifth, five times; means over the five",
        "table": {
            "id": table.id,
            "rows": len(table.rows),
            "device": table.device,
            "runtime": table.runtime,
            "precision": table.precision,
            "batch": table.batch,
        },
        "conditions": {
            "seeds": list(SEEDS),
            "trees": TREES,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
        },
        "mean": mean,
        **others,
        "whole_line_left_out": left_out_lines(table),
        "channels": falls_with_channels(model),
        "splits": splits,
    }
    write_atomic(RESULT, json.dumps(document, indent=1) + "\n")
    print(f"{'method':20} {'median':>8} {'mean':>8} {'95 %':>8}")
    for name in methods:
        print(f"{name:20} {mean[name]['median']:8.2%} {mean[name]['mean']:8.2%} {mean[name]['q95']:8.1%}")
    for name, line in document["whole_line_left_out"].items():
        print(
            f"{'without ' + name:28} {line['median']:8.2%} {line['mean']:8.2%}  covers {line['interval_coverage']:.1%}"
        )
    print(f"90 % interval: covers {others['interval_coverage']:.1%}, median x/÷ {others['interval_median_factor']:.3f}")
    print(f"fit {others['fit_s']:.1f} s; time falls with a wider output: {document['channels']}")
    print(f"{time.perf_counter() - start:.0f} s; wrote {RESULT}")


if __name__ == "__main__":
    main()
