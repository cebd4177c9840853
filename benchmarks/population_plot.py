"""AP of the population over scores and operations, as a picture.

    python benchmarks/population_plot.py [--result benchmarks/results/population_shapes.json] --out population.png

Drawn networks are dots; the optima of scores and the control are named. AP is that of the first seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
PANELS = (("balanced", "balanced score", 1.0), ("mae", "MAE score", 1.0), ("flops", "backbone, MFLOPs", 1e3))
NAMED = {  # role: label
    "optimum of balanced": "balanced",
    "optimum of mae": "mae",
    "optimum of power-0.6": "power-0.6",
    "like damo-yolo-t": "published T",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, default=ROOT / "benchmarks" / "results" / "population_shapes.json")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    document = json.loads(given.result.read_text(encoding="utf-8"))
    aps = {run["id"]: run["AP"] for run in document["runs"] if run["seed"] == document["runs"][0]["seed"]}
    members = [member for member in document["members"] if member["id"] in aps]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, (measure, label, factor) in zip(axes, PANELS, strict=True):
        drawn = [member for member in members if "drawn" in member["roles"]]
        places = [(factor * member["measures"][measure], aps[member["id"]]) for member in drawn]
        axis.scatter(*zip(*places, strict=True), s=18, color="#888")
        for member in members:
            for name in [NAMED[role] for role in member["roles"] if role in NAMED]:
                place = factor * member["measures"][measure], aps[member["id"]]
                axis.scatter(*place, s=36, color="#c0392b", zorder=3)
                on_the_left = place[0] > sum(axis.get_xlim()) / 2
                offset, side = (-6, "right") if on_the_left else (6, "left")
                axis.annotate(name, place, xytext=(offset, 4), textcoords="offset points", ha=side, fontsize=9)
        axis.margins(y=0.1)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("AP")
    figure.savefig(given.out, dpi=150)


if __name__ == "__main__":
    main()
