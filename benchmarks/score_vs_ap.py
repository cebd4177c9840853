"""Does the score pick better detectors? Networks of one predicted latency, trained alike, on a GPU.

Usage: python benchmarks/score_vs_ap.py --data BCCD --table TABLE [--latency 1.5ms] [--count 24] [--jobs 6]

Draws detectors of `--space` at random until `--count` of them lie within 2 % of the latency, their MAE scores spread
evenly from the lowest to the highest drawn; trains each with the same recipe, seed and data; and compares AP with the
score, FLOPs and parameters by Kendall's tau. AP is the mean over the last epochs, each evaluated: a mean is less noisy
than the last one, and, unlike the best one, does not flatter. Several trainings share the GPU.

Trained ones stay in `--folder`: repeated, the command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from maenas.cost import total_cost
from maenas.files import write_atomic
from maenas.latency.predictor import AnyPredictor, load_predictor, predict
from maenas.lowering import lower
from maenas.nas.sampling import random_detector
from maenas.nas.space import load_space
from maenas.profiler.validate import kendall_tau
from maenas.score import deepmad_score, mae_score, score_terms
from maenas.spec import DetectorSpec, load_spec, write_spec
from maenas.units import parse_latency_s

ROOT = Path(__file__).resolve().parents[1]
NEAR = 0.02  # of the latency
POOL = 8  # times as many as are trained, to choose from
AVERAGED = 10  # last epochs
DRAWS = 20_000


@dataclass(frozen=True)
class Drawn:
    """A detector and what is known before training: score, latency in seconds, FLOPs, parameters."""

    spec: DetectorSpec
    measures: dict[str, float]


def draw(space_name: str, predictor: AnyPredictor, latency_s: float, count: int) -> list[Drawn]:
    """`count` detectors of the latency, spread evenly over the scores that occur."""
    space, rng = load_space(space_name), np.random.default_rng(0)
    found: list[Drawn] = []
    for _ in range(DRAWS):
        spec = random_detector(space, rng)
        kernels = lower(spec)
        seconds = predict(kernels, predictor).seconds
        if abs(seconds / latency_s - 1) <= NEAR:
            terms, cost = score_terms(kernels), total_cost(kernels)
            measures = {"mae": float(mae_score(terms)), "deepmad": float(deepmad_score(terms))}
            measures |= {"flops": float(cost.flops), "params": float(cost.params), "latency": seconds}
            found.append(Drawn(spec, measures))
        if len(found) == POOL * count:
            break
    if len(found) < count:
        raise SystemExit(f"only {len(found)} of {DRAWS} random detectors of {space_name} take {latency_s * 1e3:g} ms")
    found.sort(key=lambda drawn: drawn.measures["mae"])
    wanted = np.linspace(found[0].measures["mae"], found[-1].measures["mae"], count)
    chosen: list[Drawn] = []
    for score in wanted:
        left = [drawn for drawn in found if drawn not in chosen]
        chosen.append(min(left, key=lambda drawn: abs(drawn.measures["mae"] - score)))
    return sorted(chosen, key=lambda drawn: drawn.measures["mae"])


def train(number: int, drawn: Drawn, arguments: argparse.Namespace) -> dict[str, Any]:
    """AP of one detector, and what it took."""
    folder = arguments.folder / f"{number:02d}-{drawn.spec.id}"
    spec_file = arguments.folder / f"{number:02d}-{drawn.spec.id}.json"
    write_spec(spec_file, drawn.spec, spec_file.stem)
    settings = [f"plain_epochs={AVERAGED}", "amp=bf16", "eval_every=100000", "workers=2", *arguments.set]
    command = [sys.executable, "-m", "maenas", "train", str(spec_file), "--data", str(arguments.data), "--resume"]
    command += ["--recipe", arguments.recipe, "--epochs", str(arguments.epochs), "--batch", str(arguments.batch)]
    command += ["--input", str(arguments.train_side), "--out", str(folder), "--seed", str(arguments.seed)]
    for setting in settings:
        command += ["--set", setting]
    begin = time.monotonic()
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if output.returncode:
        raise SystemExit(f"{spec_file.stem}: {output.stdout[-2000:]}")
    rows = [json.loads(line) for line in (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = [row["metrics"] for row in rows if "metrics" in row][-AVERAGED:]
    result = {name: statistics.fmean(row[name] for row in metrics) for name in ("AP", "AP50")}
    result |= {"AP_spread": statistics.pstdev(row["AP"] for row in metrics), "seconds": time.monotonic() - begin}
    mae, ap, seconds = drawn.measures["mae"], result["AP"], result["seconds"]
    print(f"{spec_file.stem}: mae {mae:.1f}, AP {ap:.4f}, {seconds:.0f} s", flush=True)
    return {"spec": drawn.spec.id, **drawn.measures, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--table", required=True, help="as `maenas search --device` takes it")
    parser.add_argument("--space", default="k1kx-tiny")
    parser.add_argument("--latency", default="damo-yolo-t", help='"1.5ms", or a shipped spec to be as fast as')
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--recipe", default="small-data")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--train-side", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "score_vs_ap")
    parser.add_argument("--result", type=Path, default=ROOT / "benchmarks" / "results" / "score_vs_ap.json")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    predictor = load_predictor(arguments.table)
    latency_s = latency_of(arguments.latency, predictor)
    chosen = draw(arguments.space, predictor, latency_s, arguments.count)
    print(f"{len(chosen)} detectors of {latency_s * 1e3:.3f} ms by {predictor.description}", flush=True)
    begin = time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(train, range(len(chosen)), chosen, [arguments] * len(chosen)))
    measures = ("mae", "deepmad", "flops", "params", "latency")
    tau = {name: kendall_tau([row[name] for row in rows], [row["AP"] for row in rows]) for name in measures}
    document = {
        "benchmark": "score_vs_ap",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "conditions": {
            **{key: str(value) for key, value in vars(arguments).items() if key not in ("folder", "result", "data")},
            "data": arguments.data.name,
            "latency_ms": latency_s * 1e3,
            "latency_by": predictor.description,
            "seconds": time.monotonic() - begin,
        },
        "kendall_tau_with_ap": tau,
        "networks": rows,
    }
    write_atomic(arguments.result, json.dumps(document, indent=1) + "\n")
    print("Kendall tau with AP: " + ", ".join(f"{name} {value:+.3f}" for name, value in tau.items()))
    print(f"wrote {arguments.result}")


def latency_of(text: str, predictor: AnyPredictor) -> float:
    """Seconds: of a text like "1.5ms", or those predicted for a shipped spec."""
    if text[0].isdigit():
        return parse_latency_s(text)
    return predict(lower(load_spec(text).detector), predictor).seconds


if __name__ == "__main__":
    main()
