"""Does a sum of measured kernels predict whole networks? Published detectors and random specs on ONNX Runtime's CPU.

Usage: python benchmarks/profile_networks.py [--threads 1] [--clock wall] [--random 12] [--table GRID.json]

Measures every kernel of these networks, both inside a graph and alone, and the whole networks by the same clock, then
compares the sums with the networks. Three predictions by exact rows or by work: "in-graph" (what `maenas profile`
does), "alone" (the plain sum of separately timed kernels) and "flops". With --table also the prediction of
maenas.latency.interpolate from that grid, none of whose rows need be of these networks. Baselines are shown as they are
and after fitting the one factor that suits these networks best, which is more than a user could know.

Kernel tables stay in DIR: repeated, the command goes on where it stopped. Nothing else should be running.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maenas.cost import total_cost
from maenas.latency.measured import MeasuredTable, key_of, read_measured
from maenas.lowering import Kernel, lower
from maenas.presets import get_neck_preset, make_head, make_neck
from maenas.profiler.clock import Settings
from maenas.profiler.onnxruntime import OnnxRuntime
from maenas.profiler.plan import plan, published_specs
from maenas.profiler.profile import Setup, conditions_of, profile, time_network
from maenas.space import SearchSpace, load_space, space_names
from maenas.spec import DetectorSpec, InputSpec

ROOT = Path(__file__).resolve().parents[1]
PASSES = 2  # over all networks; the least disturbed of each counts
DEEPEST = 4  # units in a stage of a random spec


def random_spec(space: SearchSpace, rng: np.random.Generator, side: int | None) -> DetectorSpec:
    """Widths, bottlenecks, kernels and depths drawn evenly from what the space allows."""
    genome = [int(rng.integers(len(space.choices[0])))]
    width = space.choices[0][genome[0]]
    for number, stage in enumerate(space.stages, start=1):
        outs, kernels, bottlenecks, depths = space.choices[4 * number - 3 : 4 * number + 1]
        pairs = [
            (o, b)
            for o, b in itertools.product(range(len(outs)), range(len(bottlenecks)))
            if space.width_fits(np.array(width), np.array(outs[o]))
            and space.bottleneck_fits(np.array(outs[o]), np.array(bottlenecks[b]))
        ]
        out, bottleneck = pairs[int(rng.integers(len(pairs)))]
        depth = int(rng.integers(min(DEEPEST, len(depths))))
        genome += [out, int(rng.integers(len(kernels))), bottleneck, depth]
        width = outs[out]
        assert stage.width.values[out] == width
    backbone, preset = space.spec_of(np.array(genome)), get_neck_preset(space.neck)
    size = InputSpec(side or space.input_size, side or space.input_size)
    return DetectorSpec(size, backbone, make_neck(preset, backbone.tap_channels), make_head(preset, 80))


def networks(count: int, side: int | None) -> dict[str, DetectorSpec]:
    rng = np.random.default_rng(0)
    names = itertools.islice(itertools.cycle(space_names()), count)
    drawn = {f"{name} #{n}": random_spec(load_space(name), rng, side) for n, name in enumerate(names)}
    return {**published_specs(side), **drawn}


def measure_networks(specs: dict[str, DetectorSpec], setup: Setup) -> dict[str, dict[str, Any]]:
    rows: dict[str, list] = {name: [] for name in specs}
    for _ in range(PASSES):
        for name, spec in tqdm(specs.items(), desc="networks", disable=not sys.stderr.isatty()):
            rows[name].append(time_network(lower(spec), setup))
    best = {name: min(timings, key=lambda t: t.median_s) for name, timings in rows.items()}
    return {
        name: {"ms": t.median_s * 1e3, "spread": t.spread, "passes_ms": [p.median_s * 1e3 for p in rows[name]]}
        for name, t in best.items()
    }


def kernel_table(specs: dict[str, DetectorSpec], setup: Setup, folder: Path) -> MeasuredTable:
    samples = plan([], specs.values(), input_size=None)
    threads = setup.backend.conditions["threads"]
    path = folder / f"kernels-{setup.method}-t{threads}.json"
    with tqdm(total=len(samples), desc=setup.method, disable=not sys.stderr.isatty()) as bar:
        return profile(
            samples,
            setup,
            device="benchmark",
            path=path,
            on_progress=lambda p: bar.update(len(samples) - p.remaining - bar.n),
        )


def exact_sum(table: MeasuredTable) -> Callable[[Sequence[Kernel]], float]:
    seconds = {row.key: row.median_s for row in table.rows}
    return lambda kernels: math.fsum(seconds[key_of(kernel)] for kernel in kernels)


def interpolated_sum(path: Path) -> Callable[[Sequence[Kernel]], float]:
    from maenas.latency.interpolate import fit_table

    model = fit_table(read_measured(path))
    return lambda kernels: math.fsum(float(model.seconds(kernel)) for kernel in kernels)


def kendall_tau(left: Sequence[float], right: Sequence[float]) -> float:
    """Tau a: no ties to speak of among times."""
    pairs = list(itertools.combinations(range(len(left)), 2))
    return sum(math.copysign(1, (left[i] - left[j]) * (right[i] - right[j])) for i, j in pairs) / len(pairs)


def quality(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, Any]:
    """Errors as predicted, and with the factor that makes the median ratio 1."""
    ratios = [p / m for p, m in zip(predicted, measured, strict=True)]
    factor = 1 / statistics.median(ratios)

    def errors(ratios: list[float]) -> dict[str, float]:
        wrong = [abs(ratio - 1) for ratio in ratios]
        return {"mape": statistics.fmean(wrong), "worst": max(wrong)}

    fitted = errors([ratio * factor for ratio in ratios])
    tau = kendall_tau(predicted, measured)
    return {**errors(ratios), "factor": factor, "fitted": fitted, "kendall_tau": tau, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine in use; 1 thread")
    parser.add_argument("--random", type=int, default=12)
    parser.add_argument("--side", type=int)
    parser.add_argument("--rounds", type=int, default=Settings().rounds)
    parser.add_argument("--table", type=Path, help="a grid table of `maenas profile` under the same conditions")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "profile_networks")
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    result = arguments.result or ROOT / "benchmarks" / "results" / f"profile_networks_t{arguments.threads}.json"

    specs = networks(arguments.random, arguments.side)
    settings = Settings(rounds=arguments.rounds)
    setup = Setup(OnnxRuntime("cpu", threads=arguments.threads, clock=arguments.clock), settings=settings)
    load = os.getloadavg()
    tables = {m: kernel_table(specs, replace(setup, method=m), arguments.folder) for m in ("in-graph", "alone")}
    measured = measure_networks(specs, setup)
    kernels = {name: lower(spec) for name, spec in specs.items()}
    predictors = {name: exact_sum(table) for name, table in tables.items()}
    if arguments.table is not None:
        predictors["interpolated"] = interpolated_sum(arguments.table)
    predictors["flops"] = lambda network: total_cost(network).flops / 1e12
    seconds = [measured[name]["ms"] / 1e3 for name in specs]
    report = {name: quality([f(kernels[n]) for n in specs], seconds) for name, f in predictors.items()}
    for number, name in enumerate(specs):
        measured[name]["predicted_over_measured"] = {p: round(r["ratios"][number], 4) for p, r in report.items()}
    for row in report.values():
        del row["ratios"]
    document = {
        "benchmark": "profile_networks",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "runtime": setup.backend.runtime,
        "conditions": {**conditions_of(setup), "load_at_start": load, "load_at_end": os.getloadavg()},
        "reference": {name: table.method["reference"] for name, table in tables.items()},
        "kernels": {name: len(table.rows) for name, table in tables.items()},
        "predictions": report,
        "networks": measured,
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{'prediction':<14}{'MAPE':>8}{'worst':>8}{'tau':>8}   with one fitted factor")
    for name, row in report.items():
        fitted = row["fitted"]
        plain = (f"{row['mape']:.1%}", f"{row['worst']:.1%}") if name != "flops" else ("-", "-")
        print(
            f"{name:<14}{plain[0]:>8}{plain[1]:>8}{row['kendall_tau']:>8.3f}"
            f"   {fitted['mape']:.1%}, worst {fitted['worst']:.1%}, factor {row['factor']:.3g}"
        )
    for name, row in measured.items():
        ratios = ", ".join(f"{p} {r:.3f}" for p, r in row["predicted_over_measured"].items() if p != "flops")
        print(f"{name:<22}{row['ms']:>9.2f} ms  spread {row['spread']:.1%}   {ratios}")
    print(f"wrote {result}")


if __name__ == "__main__":
    main()
