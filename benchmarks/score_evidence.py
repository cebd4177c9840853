"""Do the scores pick better networks? Every score and the baselines, on public networks that others trained.

    python benchmarks/score_evidence.py --evidence FOLDER

FOLDER holds the files of YOLOBench, the RegNets and NAS-Bench-Macro (docs/score.md says which). Writes
benchmarks/results/score_evidence.json and docs/images/score-evidence.png, and prints the table.

- YOLOBench: pairs at one input size (320 to 480) whose latency differs by at most 5 % and whose AP by at least 0.3
  points; the share in which the higher score has the higher AP. Equal scores count as half.
- RegNets: Kendall's partial tau of score and accuracy given the V100 time.
- NAS-Bench-Macro: partial tau given FLOPs, on 2,000 networks drawn at random.

Intervals: 90 %, percentile bootstrap over networks (a YOLOBench network with all of its input sizes). The difference to
FLOPs is paired: both on the same resample.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trained_networks import PLAIN_FAMILIES, RESIDUAL_FAMILIES, macro, parse_yolo, regnet, yolo

from maenas.cost import total_cost
from maenas.files import write_atomic
from maenas.kernels import Kernel
from maenas.score import (
    DEEPMAD_WEIGHTS,
    FLAT_WEIGHTS,
    MAE_WEIGHTS,
    balanced_score,
    deepmad_score,
    mae_score,
    power_score,
    score_terms,
)

ROOT = Path(__file__).resolve().parents[1]
RESULT, PLOT = ROOT / "benchmarks" / "results" / "score_evidence.json", ROOT / "docs" / "images" / "score-evidence.png"
SIZES = (320, 352, 384, 416, 448, 480)
TOLERANCE, GAP = 0.05, 0.3  # of latency; points of AP
DEVICES = {
    "Intel CPU": "openvino_latency",
    "Jetson Nano": "nano_gpu_latency",
    "A40": "a40_trt_latency",
    "VIM3": "vim3_latency",
    "Raspberry Pi 4": "raspi4_tflite_latency",
    "Orange Pi": "orange_pi_latency",
}
RESAMPLES, MACRO_COUNT, MACRO_RESAMPLES, SEED = 1000, 2000, 200, 0
Score = Callable[[Sequence[Kernel]], float]
Floats = NDArray[np.float64]


def weighted(score: Callable[..., Any], weights: Sequence[float]) -> Score:
    """A score of five resolution stages; a network with fewer has the last of the weights."""

    def of(kernels: Sequence[Kernel]) -> float:
        terms = score_terms(kernels)
        return float(score(terms, weights[-terms.entropy.shape[-1] :]))

    return of


SCORES: dict[str, Score] = {
    "balanced": balanced_score,
    "power-0.5": lambda kernels: power_score(kernels, 0.5),
    "power-0.6": lambda kernels: power_score(kernels, 0.6),
    "power-0.75": lambda kernels: power_score(kernels, 0.75),
    "mae": weighted(mae_score, MAE_WEIGHTS),
    "mae-flat": weighted(mae_score, FLAT_WEIGHTS),
    "deepmad": weighted(deepmad_score, DEEPMAD_WEIGHTS),
    "flops": lambda kernels: float(score_terms(kernels).flops),
    "parameters": lambda kernels: float(total_cost(k for k in kernels if k.stage >= 0).params),
    "layers": lambda kernels: float(total_cost(kernels).layers),
    "last width": lambda kernels: float(np.exp(score_terms(kernels).log_width[-1])),
}
NEIGHBOURS: dict[str, Score] = {
    **{f"power-{p}": lambda kernels, p=p: power_score(kernels, p) for p in (0.25, 0.4, 0.5, 0.6, 0.75, 0.9)},
    **{
        f"balanced, p {p}, price {price}": lambda kernels, p=p, price=price: balanced_score(kernels, price, p)
        for p in (0.4, 0.5, 0.6, 0.75)
        for price in (0.0, 0.02, 0.03, 0.05)
    },
}


@dataclass(frozen=True)
class Network:
    """A trained network: `group` names it over all input sizes; `measured` are seconds (or FLOPs) by column."""

    group: str
    side: int
    kernels: tuple[Kernel, ...]
    accuracy: float
    measured: dict[str, float]


def read_yolo(folder: Path, families: Sequence[str]) -> list[Network]:
    """Networks of YOLOBench at the sizes judged; accuracy is AP in points."""
    with (folder / "yolobench_latency.csv").open() as file:
        latency = {row["model_name"]: row for row in csv.DictReader(file)}
    networks = []
    with (folder / "yolobench_voc_scratch.csv").open() as file:
        for row in csv.DictReader(file):
            name = row["model_name"]
            if not name.startswith(tuple(families)) or int(name.rsplit("_", 1)[1]) not in SIZES:
                continue
            seconds = {device: float(latency[name][column] or "nan") for device, column in DEVICES.items()}
            ap = 100 * float(row["mAP_0.5:0.95"])
            networks.append(Network(name.rsplit("_", 1)[0], parse_yolo(name)[3], yolo(name), ap, seconds))
    return networks


def read_regnets(folder: Path) -> list[Network]:
    """The 24 RegNets; accuracy is minus the top-1 error."""
    rows = json.loads((folder / "imagenet_regnets.json").read_text())
    return [
        Network(row["name"], 224, regnet(row), -row["top1_error"], {"V100": row["v100_batch64_forward_s"]})
        for row in rows
        if row["name"].startswith("RegNet")
    ]


def read_macro(folder: Path, count: int) -> list[Network]:
    """`count` networks of NAS-Bench-Macro at random."""
    with gzip.open(folder / "nasbench_macro_cifar10.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    picked = np.random.default_rng(SEED).permutation(len(rows))[:count]
    return [
        Network(
            row["architecture"], 32, macro(row["architecture"]), float(row["mean_acc"]), {"FLOPs": float(row["flops"])}
        )
        for row in (rows[index] for index in picked)
    ]


def score_table(networks: Sequence[Network], scores: dict[str, Score]) -> dict[str, Floats]:
    """Every score of every network, `[N]` each."""
    return {name: np.array([score(network.kernels) for network in networks]) for name, score in scores.items()}


def resamples(count: int, number: int) -> Floats:
    """How often each of `count` networks is drawn in each resample, `[R, N]`; the first row is the sample itself."""
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=number)
    return np.vstack([np.ones(count), drawn]).astype(np.float64)


def sign(difference: Floats, scale: float) -> Floats:
    """-1, 0, 1; differences of rounding size are 0."""
    return np.where(np.abs(difference) <= 1e-9 * scale, 0.0, np.sign(difference))


def concordance(
    networks: Sequence[Network], table: dict[str, Floats], device: str, *, within: bool = False
) -> tuple[int, dict[str, Floats]]:
    """Number of pairs, and for each score the share of right ones in the sample and its resamples, `[R]`."""
    groups = sorted({network.group for network in networks})
    group = np.array([groups.index(network.group) for network in networks])
    family = np.array([network.group[:5] for network in networks])
    side = np.array([network.side for network in networks])
    seconds = np.array([network.measured[device] for network in networks])
    accuracy = np.array([network.accuracy for network in networks])
    i, j = np.triu_indices(len(networks), 1)
    fits = (side[i] == side[j]) & (group[i] != group[j]) & (np.abs(accuracy[i] - accuracy[j]) >= GAP)
    fits &= np.abs(np.log(seconds[i] / seconds[j])) <= np.log1p(TOLERANCE)
    if within:
        fits &= family[i] == family[j]
    i, j = i[fits], j[fits]
    weights = resamples(len(groups), RESAMPLES)
    pair_weights = weights[:, group[i]] * weights[:, group[j]]
    pair_weights = pair_weights[pair_weights.sum(axis=1) > 0]
    better = np.sign(accuracy[i] - accuracy[j])
    shares = {}
    for name, values in table.items():
        right = (1 + better * sign(values[i] - values[j], np.abs(values).max())) / 2
        shares[name] = pair_weights @ right / pair_weights.sum(axis=1)
    return len(i), shares


def partial_tau(networks: Sequence[Network], table: dict[str, Floats], given: str, number: int) -> dict[str, Floats]:
    """Partial tau-b of each score and accuracy given a measured column, in the sample and its resamples, `[R]`."""
    weights = resamples(len(networks), number).astype(np.float32)

    def signs(values: Floats) -> NDArray[np.float32]:
        return sign(values[:, None] - values[None, :], np.abs(values).max()).astype(np.float32)

    def form(matrix: NDArray[np.float32]) -> Floats:
        return ((weights @ matrix) * weights).sum(axis=1, dtype=np.float64)

    control = signs(np.array([network.measured[given] for network in networks]))
    accuracy = signs(np.array([network.accuracy for network in networks]))
    norm_control, norm_accuracy = form(control**2), form(accuracy**2)
    yz = form(accuracy * control) / np.sqrt(norm_accuracy * norm_control)
    taus = {}
    for name, values in table.items():
        own = signs(values)
        norm = form(own**2)
        with np.errstate(divide="ignore", invalid="ignore"):
            xy = form(own * accuracy) / np.sqrt(norm * norm_accuracy)
            xz = form(own * control) / np.sqrt(norm * norm_control)
            taus[name] = np.where(1 - xz**2 > 1e-6, (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)), np.nan)
    return taus


def summary(values: dict[str, Floats]) -> dict[str, dict[str, Any]]:
    """Value, 90 % interval, and paired difference to FLOPs with its interval, of each score; None where undefined."""

    def interval(row: Floats) -> list[float] | None:
        return None if np.isnan(row).all() else [round(float(q), 3) for q in np.nanquantile(row[1:], (0.05, 0.95))]

    def number(value: float) -> float | None:
        return None if np.isnan(value) else round(float(value), 3)

    return {
        name: {
            "value": number(row[0]),
            "interval_90": interval(row),
            "minus_flops": number(row[0] - values["flops"][0]) if "flops" in values else None,
            "minus_flops_interval_90": interval(row - values["flops"]) if "flops" in values else None,
        }
        for name, row in values.items()
    }


def columns(folder: Path, scores: dict[str, Score], macro_count: int = MACRO_COUNT) -> dict[str, dict[str, Any]]:
    """Every column of the table: what it counts, and `summary` of each score."""
    found: dict[str, dict[str, Any]] = {}
    for title, families, devices in (
        ("", RESIDUAL_FAMILIES, tuple(DEVICES)),
        ("yolo6s, ", PLAIN_FAMILIES, tuple(DEVICES)[:3]),
    ):
        networks = read_yolo(folder, families)
        table = score_table(networks, scores)
        for device in devices:
            pairs, shares = concordance(networks, table, device)
            found[f"{title}{device}"] = {"statistic": "share", "pairs": pairs, "scores": summary(shares)}
        if not title:
            pairs, shares = concordance(networks, table, "A40", within=True)
            found["A40, within a family"] = {"statistic": "share", "pairs": pairs, "scores": summary(shares)}
    regnets = read_regnets(folder)
    taus = partial_tau(regnets, score_table(regnets, scores), "V100", RESAMPLES)
    found["RegNets"] = {"statistic": "partial tau", "networks": len(regnets), "scores": summary(taus)}
    others = read_macro(folder, macro_count)
    taus = partial_tau(others, score_table(others, scores), "FLOPs", MACRO_RESAMPLES)
    found["NAS-Bench-Macro"] = {"statistic": "partial tau", "networks": len(others), "scores": summary(taus)}
    return found


def plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Value and interval of each score, one panel a column."""
    from matplotlib.figure import Figure

    titles = ["Intel CPU", "Jetson Nano", "A40", "RegNets", "NAS-Bench-Macro"]
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    axes = figure.subplots(1, len(titles), sharey=True)
    names = list(SCORES)[::-1]
    for axis, title in zip(axes, titles, strict=True):
        column = found[title]
        axis.axvline(0.5 if column["statistic"] == "share" else 0.0, color="0.8", zorder=0)
        for place, name in enumerate(names):
            row = column["scores"][name]
            if row["value"] is not None:
                axis.plot(row["interval_90"], [place, place], color="tab:blue" if name == "balanced" else "0.5")
                axis.plot(row["value"], place, "o", color="tab:blue" if name == "balanced" else "0.3")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("share of pairs right" if column["statistic"] == "share" else "partial tau")
    axes[0].set_yticks(range(len(names)), names)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--evidence", type=Path, required=True, help="folder of the public results")
    folder = parser.parse_args().evidence
    found = columns(folder, SCORES)
    document = {
        "benchmark": "score_evidence",
        "columns": found,
        "neighbours": {
            title: {"scores": {name: row["value"] for name, row in column["scores"].items()}}
            for title, column in columns(folder, NEIGHBOURS, 1000).items()
        },
    }
    write_atomic(RESULT, json.dumps(document, indent=1) + "\n")
    plot(found, PLOT)
    print(f"{'':12}" + "".join(f"{title[:15]:>17}" for title in found))
    for name in SCORES:
        values = (column["scores"][name]["value"] for column in found.values())
        print(f"{name:12}" + "".join(f"{'-' if value is None else round(value, 2):>17}" for value in values))


if __name__ == "__main__":
    main()
