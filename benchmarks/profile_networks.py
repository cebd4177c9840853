"""Does a sum of measured kernels predict whole networks? Published detectors and random specs on ONNX Runtime's CPU.

Usage: python benchmarks/profile_networks.py [--threads 1] [--clock wall] [--random 12]

Measures every kernel of these networks, both inside a graph and alone, and the whole networks by the same clock, then
compares the sums with the networks. Three predictions by exact rows or by work: "in-graph" (what `maenas profile`
does), "alone" (the plain sum of separately timed kernels) and "flops". Baselines are shown as they are and after
fitting the one factor that suits these networks best, which is more than a user could know. What prediction from a
grid adds to the error: `maenas validate`.

Kernel tables stay in DIR: repeated, the command goes on where it stopped. Nothing else should be running.
"""

from __future__ import annotations

import argparse
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

from tqdm import tqdm

from maenas.cost import total_cost
from maenas.deploy.clock import TimingSettings
from maenas.kernels import Kernel
from maenas.latency.measured import MeasuredTable, key_of
from maenas.lowering import lower
from maenas.nas.sampling import random_detectors
from maenas.nas.space import load_space, space_names
from maenas.profiler.onnxruntime import OnnxRuntime
from maenas.profiler.plan import plan
from maenas.profiler.profile import conditions_of, profile, time_networks
from maenas.profiler.setup import Setup
from maenas.profiler.validate import kendall_tau
from maenas.spec import DetectorSpec, published_specs

ROOT = Path(__file__).resolve().parents[1]


def networks(count: int, side: int | None) -> dict[str, DetectorSpec]:
    spaces = [load_space(name) for name in space_names()]
    return published_specs(side) | dict(random_detectors(spaces, count, seed=0, input_size=side))


def measure_networks(specs: dict[str, DetectorSpec], setup: Setup) -> dict[str, dict[str, Any]]:
    networks = {name: lower(spec) for name, spec in specs.items()}
    timings = tqdm(time_networks(networks, setup), desc="networks", disable=not sys.stderr.isatty())
    return {name: {"ms": timing.median_s * 1e3, "spread": timing.spread} for name, timing in timings}


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
    parser.add_argument("--rounds", type=int, default=TimingSettings().rounds)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "profile_networks")
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    result = arguments.result or ROOT / "benchmarks" / "results" / f"profile_networks_t{arguments.threads}.json"

    specs = networks(arguments.random, arguments.side)
    settings = TimingSettings(rounds=arguments.rounds)
    setup = Setup(OnnxRuntime("cpu", threads=arguments.threads, clock=arguments.clock), settings=settings)
    load = os.getloadavg()
    tables = {m: kernel_table(specs, replace(setup, method=m), arguments.folder) for m in ("in-graph", "alone")}
    measured = measure_networks(specs, setup)
    kernels = {name: lower(spec) for name, spec in specs.items()}
    predictors = {name: exact_sum(table) for name, table in tables.items()}
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
