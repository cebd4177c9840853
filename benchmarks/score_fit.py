"""Does a race teach the score? A few trained networks of one cost, a score fitted to them, the others judged by it.

    python benchmarks/score_fit.py --evidence FOLDER

k trained networks, drawn at random, play the race: what they reached is known. The balanced score

    sum_s w_s ln(sum over the convolutions of s of sqrt(F)) - price * D

is fitted to them: w_s per resolution and the price are free, ridge regression shrinks them towards the default's
direction. All pairs of the other networks whose accuracy differs by `gap` are then judged; the share of right ones is
compared with the default's on the same pairs. `strength` is the ridge, relative to features of unit spread: infinite
leaves the default. Two sets:

- NAS-Bench-Macro (FOLDER as for `score_evidence.py`): 2,000 of its networks, in windows of FLOPs that are 10 % wide.
- Our own population (`population.py`): detectors of one latency, trained on `shapes`.

Many draws; the interval is a bootstrap over the windows, for the population over draws, which share networks: there it
is too narrow. Writes benchmarks/results/score_fit.json. `maenas score fit` exists only if this says that it helps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from score_evidence import MACRO_COUNT, read_macro, resamples

from maenas.cost import kernel_layers
from maenas.files import write_atomic
from maenas.kernels import Kernel
from maenas.lowering import lower
from maenas.score import BALANCED_POWER, LAYER_PRICE, kernel_power, stage_shares
from maenas.spec import spec_from_json

RESULTS = Path(__file__).resolve().parent / "results"
WIDTH = 0.1  # of a window of cost
DRAWS = 40  # of races in a window
COUNTS = (6, 9, 12, 20)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
GAPS = {"macro": 0.1, "population": 0.005}  # points of accuracy; AP
LEAST = 6  # networks that are judged, at least
SEED = 0
Floats = NDArray[np.float64]
Members = NDArray[np.int64]  # numbers of the networks of a window


def features(kernels: Sequence[Kernel]) -> Floats:
    """Terms of the balanced score `[R + 1]`: its logs summed per resolution, finest first, and -D."""
    main = [kernel for kernel in kernels if kernel_layers(kernel)]
    stages = sorted({kernel.stage for kernel in main} - {0})
    members = [[kernel for kernel in main if kernel.stage == stage] for stage in stages]
    heights = [row[-1].out_height for row in members]
    shares = stage_shares([(row[-1].out_height, row[-1].out_width) for row in members])
    sides = sorted(set(heights), reverse=True)
    terms = np.zeros(len(sides) + 1)
    for row, height, share in zip(members, heights, shares, strict=True):
        work = sum(kernel_power(kernel, BALANCED_POWER) for kernel in row)
        terms[sides.index(height)] += share * float(np.log(work))
    terms[-1] = -len(main)
    return terms


def default_score(x: Floats) -> Floats:
    """The balanced score of features `[n, R + 1]`: `[n]`."""
    return x[:, :-1].sum(axis=1) + LAYER_PRICE * x[:, -1]


def fitted_score(x: Floats, race: Floats, reached: Floats, strength: float, scale: Floats) -> Floats:
    """Scores `[n]` of features x `[n, R + 1]`, fitted to those of a race `[k, R + 1]` and what it reached `[k]`."""
    own, target = default_score(race), reached - reached.mean()
    own = own - own.mean()
    slope = max(float(own @ target) / max(float(own @ own), 1e-12), 0.0)
    centred = (race - race.mean(axis=0)) / scale
    ridge = strength * len(reached) * np.eye(race.shape[1])
    more = np.linalg.solve(centred.T @ centred + ridge, centred.T @ (target - slope * own))
    return slope * default_score(x) + (x / scale) @ more


def right(score: Floats, reached: Floats, gap: float) -> tuple[float, int]:
    """Right pairs (equal scores: half) and pairs that count."""
    i, j = np.triu_indices(len(reached), 1)
    counts = np.abs(reached[i] - reached[j]) >= gap
    agree = np.sign(score[i] - score[j]) * np.sign(reached[i] - reached[j])
    return float(((1 + agree) / 2)[counts].sum()), int(counts.sum())


def judge(x: Floats, reached: Floats, windows: Sequence[Members], count: int, gap: float) -> dict[str, object] | None:
    """Shares of right pairs over all windows and draws: default, and fitted with each strength."""
    rng = np.random.default_rng(SEED)
    scale = x.std(axis=0) + 1e-9
    rows = []  # right pairs of [default, fitted by strength ...], pairs; per window, or per draw where there is one
    for members in windows:
        if len(members) < count + LEAST:
            continue
        draws = []
        for _ in range(DRAWS):
            order = rng.permutation(members)
            race, rest = order[:count], order[count:]
            scores = [default_score(x[rest])]
            scores += [fitted_score(x[rest], x[race], reached[race], strength, scale) for strength in STRENGTHS]
            results = [right(score, reached[rest], gap) for score in scores]
            draws.append([*(good for good, _ in results), results[0][1]])
        rows += draws if len(windows) == 1 else [np.sum(draws, axis=0)]
    if not rows:
        return None
    drawn = resamples(len(rows), 1000) @ np.array(rows)
    shares = drawn[:, :-1] / drawn[:, -1:]
    gains = shares[:, 1:] - shares[:, :1]
    low, high = np.quantile(gains[1:], (0.05, 0.95), axis=0)
    return {
        "resampled": len(rows),
        "default": round(float(shares[0, 0]), 4),
        "fitted": {
            str(strength): {
                "share": round(float(shares[0, 1 + n]), 4),
                "gain": [round(float(value), 4) for value in (gains[0, n], low[n], high[n])],
            }
            for n, strength in enumerate(STRENGTHS)
        },
    }


def macro_set(folder: Path) -> tuple[Floats, Floats, list[Members]]:
    """Features, accuracies, and windows of FLOPs."""
    networks = read_macro(folder, MACRO_COUNT)
    number = np.floor(np.log([network.measured["FLOPs"] for network in networks]) / np.log1p(WIDTH))
    windows = [np.flatnonzero(number == value) for value in np.unique(number)]
    x = np.array([features(network.kernels) for network in networks])
    return x, np.array([network.accuracy for network in networks]), windows


def population_set(path: Path) -> tuple[Floats, Floats, list[Members]]:
    """Features and APs of the networks that were trained with the first seed, in one window."""
    document = json.loads(path.read_text(encoding="utf-8"))
    first = min(run["seed"] for run in document["runs"])
    reached = {run["id"]: run["AP"] for run in document["runs"] if run["seed"] == first}
    rows = [row for row in document["members"] if row["id"] in reached]
    specs = [spec_from_json(json.dumps(row["spec"]), row["id"]).detector for row in rows]
    x = np.array([features([kernel for kernel in lower(spec) if kernel.stage >= 0]) for spec in specs])
    return x, np.array([reached[row["id"]] for row in rows]), [np.arange(len(rows))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evidence", type=Path, required=True)
    parser.add_argument("--population", type=Path, default=RESULTS / "population_shapes.json")
    parser.add_argument("--result", type=Path, default=RESULTS / "score_fit.json")
    arguments = parser.parse_args()
    sets = {"macro": macro_set(arguments.evidence), "population": population_set(arguments.population)}
    found: dict[str, object] = {}
    for name, (x, reached, windows) in sets.items():
        rows = {str(count): judge(x, reached, windows, count, GAPS[name]) for count in COUNTS}
        found[name] = {"networks": len(x), "gap": GAPS[name], "races": rows}
        for count, row in rows.items():
            print(name, count, json.dumps(row), flush=True)
    conditions = {"window": WIDTH, "draws": DRAWS, "seed": SEED}
    document = {"benchmark": "score_fit", "conditions": conditions, "sets": found}
    write_atomic(arguments.result, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
