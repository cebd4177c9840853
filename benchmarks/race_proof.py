"""What does a race bring? Its winner beside the optima of scores and a published-like control, trained alike.

    python benchmarks/race_proof.py [--data FOLDER --classes N --side PIXELS] [--seeds 3]

A shortlist of one latency races on generated shapes, or on the data of a folder. Then four detectors are trained to
the end with the same recipe and with seeds that the race did not use: the optima of `--score mae` and of the default
score, the shortlist's control, and the race's winner (which may be one of the others). AP is that of the last averaged
weights on the validation images. The race chose on those images, too, so its winner has the advantage of having been
chosen there; `fresh` rates all on images that nothing was chosen by: further shapes, or the test split. The epochs of
the race stand beside the result.

Every training has a folder in `--folder`; repeated, the command goes on where it stopped. Writes
benchmarks/results/race_proof_DATA.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trained_curves import conditions_of, drawn_shapes

import maenas
from detector.choices import Split
from maenas.api.search import make_request
from maenas.files import write_atomic
from maenas.nas.shortlist import ShortlistEntry, shortlist
from maenas.spec import DetectorSpec, write_spec

ROOT = Path(__file__).resolve().parents[1]
FRESH_SEED = 1000  # of the images that nothing is chosen by


@dataclass(frozen=True)
class Task:
    """Data and target: what is the same for all detectors."""

    space: str
    budget: str
    device: str
    side: int
    classes: int
    recipe: str
    epochs: int
    data: Path
    fresh: tuple[Path, Split]
    folder: Path

    @property
    def limits(self) -> dict[str, Any]:
        """Arguments of every search."""
        return {"device": self.device, "space": self.space, "input_size": self.side, "classes": self.classes}


def raced(task: Task, entries: tuple[ShortlistEntry, ...], rungs: int) -> maenas.RaceResult:
    """The race between the entries; goes on in its folder."""
    files = []
    for number, entry in enumerate(entries, start=1):
        files.append(task.folder / f"{number}.json")
        write_spec(files[-1], entry.spec, f"candidate-{number}")
    return maenas.race(
        files[:-1],
        control=files[-1],
        data=task.data,
        recipe=task.recipe,
        epochs=task.epochs,
        rungs=rungs,
        input_size=task.side,
        device=task.device,
        out=task.folder / "race",
        resume=True,
        say=print,
    )


def trained(task: Task, name: str, spec: DetectorSpec, seed: int) -> dict[str, float]:
    """AP of the last averaged weights on the validation images, and on fresh ones."""
    file, out = task.folder / f"{name}.json", task.folder / f"{name}-{seed}"
    write_spec(file, spec, name)
    options = {"recipe": task.recipe, "epochs": task.epochs, "seed": seed, "settings": [f"eval_every={task.epochs}"]}
    done = out / "proof.json"
    if not done.exists():
        maenas.train(file, data=task.data, out=out, resume=True, input_size=task.side, **options)
        detector = maenas.Detector.load(out)
        rated = {"val": (task.data, "val"), "fresh": task.fresh}
        aps = {key: maenas.evaluate(detector, data, split=split).ap for key, (data, split) in rated.items()}
        write_atomic(done, json.dumps(aps))
    return json.loads(done.read_text(encoding="utf-8"))


def summary(rows: Mapping[str, list[dict[str, float]]]) -> dict[str, Any]:
    return {
        name: {
            key: {"aps": [round(row[key], 4) for row in aps], "mean": round(statistics.fmean(r[key] for r in aps), 4)}
            for key in ("val", "fresh")
        }
        for name, aps in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with a test split, in place of shapes")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--images", type=int, default=400, help="shapes")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--space", default="demo")
    parser.add_argument("--budget", default="0.5ms")
    parser.add_argument("--device", default="t4", help="whose latency is equal")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--shortlist", type=int, default=6)
    parser.add_argument("--rungs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "race_proof")
    parser.add_argument("--result", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    data: Path = given.data
    fresh: tuple[Path, Split] = (data, "test")
    if data is None:
        data = drawn_shapes(given.folder / "data", images=given.images, side=given.side, seed=0)
        fresh = drawn_shapes(given.folder / "fresh", images=given.images, side=given.side, seed=FRESH_SEED), "val"
    where = (given.recipe, given.epochs, data, fresh, given.folder)
    task = Task(given.space, given.budget, given.device, given.side, given.classes, *where)
    entries = shortlist(make_request(task.budget, **task.limits), given.shortlist)
    race = raced(task, entries, given.rungs)
    specs = {
        "mae": maenas.search(task.budget, score="mae", **task.limits).best.spec,
        "default": maenas.search(task.budget, **task.limits).best.spec,
        "control": entries[-1].spec,
        "winner": race.spec,
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in specs}
    for seed in range(1, given.seeds + 1):
        for name, spec in specs.items():
            rows[name].append(trained(task, name, spec, seed))
            print(name, seed, rows[name][-1], flush=True)
    ends = race.race.settings.rungs
    spent = sum(max(score.epoch for score in race.race.scores if score.name == e.name) for e in race.race.entrants)
    document = {
        "benchmark": "race_proof",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "conditions": conditions_of(given),
        "race": {"winner": race.winner, "epochs": spent, "rungs": list(ends), "text": repr(race)},
        "ids": {name: spec.id for name, spec in specs.items()},
        "detectors": summary(rows),
    }
    name = "shapes" if given.data is None else given.data.name
    result = given.result or ROOT / "benchmarks" / "results" / f"race_proof_{name}.json"
    write_atomic(result, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["detectors"], indent=1))


if __name__ == "__main__":
    main()
