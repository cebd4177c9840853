"""What a population says about scores. Fixed on 24 November 2026, before the first network was trained to its end.

Over the drawn networks, AP of the first seed, for every score and baseline ("measure"):

- `tau`: Kendall's tau-b with AP, with the 95 % interval of a bootstrap over networks (percentiles);
- `minus_flops`: how much higher it is than the tau of the backbone's operations, paired: both on the same resample;
- `partial`: tau with AP given operations and latency (Kendall's partial tau; of a measure that is operations: given
  latency alone).

Over the optima and the control, which are not in the above: `regret`, how much AP the best drawn network has more (the
best of many noisy values flatters, so that a small regret is nothing), and `beats`, the share of drawn ones below.
`picks`: the same for the drawn network that a measure puts first.

Noise: standard deviation of AP between two seeds of one network, from the repeated ones; `reliability` is the share of
the variance of AP among the drawn networks that is not noise.

Letters: N networks, F columns, B resamples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = dict[str, Any]

DRAWN = "drawn"
OPERATIONS = ("flops", "detector_flops")
GIVEN = ("flops", "latency_ms")
RESAMPLES = 5000
FEWEST = 6  # networks; fewer say nothing


def summary(members: Sequence[Row], runs: Sequence[Row], *, seed: int) -> dict[str, Any]:
    """The document described above, of what is trained so far; the bootstrap has its own fixed seed."""
    ap = {run["id"]: run["AP"] for run in runs if run["seed"] == seed}
    trained = [row for row in members if row["id"] in ap]
    drawn = [row for row in trained if DRAWN in row["roles"]]
    if len(drawn) < FEWEST:
        return {"networks": len(drawn)}
    values = np.array([ap[row["id"]] for row in drawn])
    columns = {name: np.array([row["measures"][name] for row in drawn]) for name in drawn[0]["measures"]}
    others = [row for row in trained if row["roles"] != [DRAWN]]
    return {
        "networks": len(drawn),
        "AP": {
            "mean": _round(values.mean()),
            "sd": _round(values.std(ddof=1)),
            "range": _pair(np.sort(values)[[0, -1]]),
        },
        "noise": _noise(runs, values, seed),
        "measures": compare_measures(columns, values),
        "picks": {name: _rank(values[column.argmax()], values) for name, column in columns.items()},
        "chosen": {", ".join(row["roles"]): _rank(ap[row["id"]], values) for row in others},
    }


def compare_measures(columns: dict[str, Floats], ap: Floats) -> dict[str, Row]:
    """tau, its difference to that of `flops`, and the partial tau, of every measure, with intervals."""
    names, count = list(columns), len(ap)
    rng = np.random.default_rng(0)
    weights = np.vstack([np.ones(count), rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)]).astype(
        float
    )
    taus = tau_b([*columns.values(), ap], weights)  # [1 + B, F, F]
    place = {name: index for index, name in enumerate(names)}
    result = {}
    for name in names:
        tau = taus[:, place[name], -1]
        given = [place[other] for other in (("latency_ms",) if name in OPERATIONS else GIVEN) if other != name]
        row = {"tau": tau, "minus_flops": tau - taus[:, place["flops"], -1]}
        row["partial"] = partial(taus, place[name], len(names), given)
        result[name] = {key: [_round(value[0]), *_interval(value[1:])] for key, value in row.items()}
    return result


def tau_b(columns: Sequence[Floats], weights: Floats) -> Floats:
    """Kendall's tau-b between all pairs of `columns` (F of `[N]`), each network counted `weights [B, N]` times.

    A network and its own copies are no pair. `[B, F, F]`, NaN where a column has one value only.
    """
    signs = [np.sign(column[:, None] - column[None, :]) for column in columns]
    untied = [_pairs(np.abs(sign), weights) for sign in signs]
    taus = np.ones((len(weights), len(columns), len(columns)))
    for i, j in itertools.combinations(range(len(columns)), 2):
        with np.errstate(invalid="ignore", divide="ignore"):
            tau = _pairs(signs[i] * signs[j], weights) / np.sqrt(untied[i] * untied[j])
        taus[:, i, j] = taus[:, j, i] = tau
    return taus


def _pairs(matrix: Floats, weights: Floats) -> Floats:
    """Sum of `matrix [N, N]` over all pairs, for each row of `weights [B, N]`."""
    return ((weights @ matrix) * weights).sum(axis=1)


def partial(taus: Floats, x: int, y: int, given: Sequence[int]) -> Floats:
    """Kendall's partial tau of columns x and y given others, from `taus [B, F, F]`.

    NaN where a given one explains all.
    """
    if not given:
        return taus[:, x, y]
    z, rest = given[0], given[1:]
    xy, xz, yz = (partial(taus, *pair, rest) for pair in ((x, y), (x, z), (y, z)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))


def _noise(runs: Sequence[Row], values: Floats, seed: int) -> Row:
    by_id: dict[str, list[float]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        by_id.setdefault(run["id"], []).append(run["AP"])
    twice = [aps for aps in by_id.values() if len(aps) > 1]
    if not twice:
        return {"repeated": 0}
    variance = float(np.mean([np.var(aps, ddof=1) for aps in twice]))
    reliability = max(0.0, 1 - variance / float(values.var(ddof=1)))
    return {"repeated": len(twice), "sd": _round(variance**0.5), "reliability": _round(reliability)}


def _rank(ap: float, values: Floats) -> Row:
    return {"AP": _round(ap), "regret": _round(values.max() - ap), "beats": _round((values < ap).mean())}


def _interval(values: Floats) -> list[float | None]:
    """95 %, from the percentiles of the resamples that have a value; None where none has."""
    return _pair(np.nanpercentile(values, [2.5, 97.5])) if np.isfinite(values).any() else [None, None]


def _pair(values: Floats) -> list[float | None]:
    return [_round(value) for value in values]


def _round(value: float) -> float:
    return round(float(value), 4)


def summary_text(document: dict[str, Any]) -> str:
    """The tables for people."""
    if "measures" not in document:
        return f"{document['networks']} drawn networks trained: too few for statistics"
    ap, noise = document["AP"], document["noise"]
    lines = [f"{document['networks']} networks, AP {ap['range'][0]:.3f} to {ap['range'][1]:.3f}, sd {ap['sd']:.4f}"]
    if noise["repeated"]:
        lines.append(
            f"seeds: sd {noise['sd']:.4f} of {noise['repeated']} repeated; reliability {noise['reliability']:.2f}"
        )
    lines.append(f"{'':<16}{'tau':>22}{'minus flops':>24}{'partial':>24}{'pick: regret':>14}")
    for name, row in document["measures"].items():
        cells = [f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for value, low, high in row.values()]
        lines.append(f"{name:<16}{cells[0]:>22}{cells[1]:>24}{cells[2]:>24}{document['picks'][name]['regret']:>14.4f}")
    for name, row in document["chosen"].items():
        lines.append(f"AP {row['AP']:.4f}  regret {row['regret']:+.4f}  beats {row['beats']:4.0%}  {name}")
    return "\n".join(lines)
