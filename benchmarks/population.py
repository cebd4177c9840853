"""Does a higher score detect better? A population of detectors of one predicted latency, trained alike.

Usage: python benchmarks/population.py [--minutes 9] [--jobs 1]

Which ones (`population_choice.py`): 32 drawn ones that differ as much as possible in score, operations, depth and
allocation to the last stage; the optimum of every score that the tool offers; a published backbone of their latency.
All in random order. Then 8 of the drawn ones again with another seed, for the noise.

How: `maenas train` with the recipe file, the same data and seed; AP is the mean of the last evaluations, and the best
epoch is never chosen. What is computed from it is fixed in `population_statistics.py`.

The result file holds the specs and every finished training: repeated, the command trains only what is not there yet,
whether the run folders still exist or not, and adds the optimum of a score that the tool did not offer before. A
network that was stopped in the middle goes on from its checkpoint where `--folder` still has it. `--minutes` stops
everything in time. `--trainer` names another checkout whose `maenas train` trains: keep one frozen, so that
networks trained on different days are trained alike; its commit stands beside each result.

The defaults are the population on `shapes` at 192 pixels for one CPU core. On a GPU, 32 networks of published T's
latency on BCCD at 320 pixels, in bf16, eight at a time, in calls that end within ten minutes; repeat it until it says
that nothing is left:

    python benchmarks/population.py --data BCCD --space k1kx-tiny --device t4 --latency damo-yolo-t --input 320 \\
        --classes 3 --recipe benchmarks/population_recipe_bccd.yaml --averaged 10 --jobs 8 --minutes 9 \\
        --folder runs/population_bccd --result benchmarks/results/population_bccd.json

On a machine of which only some folder comes back, let `--result` lie in it and carry that file to the next call.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from population_choice import DRAWN, SCORES, Member, choose_members, measure, merged, optima, prepare_all
from population_statistics import summary, summary_text

from maenas.errors import MaenasError
from maenas.files import write_atomic
from maenas.latency.predictor import load_predictor, predict
from maenas.lowering import lower
from maenas.nas.request import Request, Setup
from maenas.spec import InputSpec, load_spec, spec_from_json, spec_to_json
from maenas.units import parse_latency_s

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
GRACE_S = 30.0  # for a training to write its checkpoint when it is stopped

Document = dict[str, Any]  # the result file: conditions, members, runs, statistics


def begin_document(request: Request, conditions: Document, *, count: int, seed: int) -> Document:
    """A population that nothing was trained of."""
    members = choose_members(request, count=count, seed=seed)
    return {"benchmark": "population", "conditions": conditions, "members": list(map(_row, members)), "runs": []}


def continue_document(stored: Document, request: Request, conditions: Document) -> Document:
    """`stored` with the optima of scores that it lacks; raises `SystemExit` if it was made under other conditions."""
    differing = [key for key, value in conditions.items() if stored["conditions"].get(key) != value]
    if differing:
        raise SystemExit(f"the result file was made with another {', '.join(differing)}; name another --result")
    if all(name in row["measures"] for row in stored["members"] for name in SCORES):
        return stored
    setups = prepare_all(request)
    old = [_measured(_member(row), setups) for row in stored["members"]]
    return {**stored, "members": list(map(_row, merged([*old, *optima(request, setups)])))}


def _measured(member: Member, setups: dict[str, Setup]) -> Member:
    """`member` with the scores that the tool did not offer when it was chosen."""
    setup = next(iter(setups.values()))
    measures = measure(setup, setups, setup.space.genome_of(member.spec.backbone))
    return replace(member, measures=measures | member.measures)


def _row(member: Member) -> Document:
    spec = json.loads(spec_to_json(member.spec, member.spec.id))
    measures = {name: float(f"{value:.7g}") for name, value in member.measures.items()}
    return {"id": member.spec.id, "roles": list(member.roles), "measures": measures, "spec": spec}


def _member(row: Document) -> Member:
    spec = spec_from_json(json.dumps(row["spec"]), row["id"]).detector
    return Member(tuple(row["roles"]), spec, row["measures"])


def queue(document: Document, *, seed: int, repeats: int) -> list[tuple[Document, int]]:
    """(member, seed) of every training that is missing, in order: first all members, then the repeats."""
    again = [row for row in document["members"] if DRAWN in row["roles"]][:repeats]
    wanted = [(row, seed) for row in document["members"]] + [(row, seed + 1) for row in again]
    done = {(run["id"], run["seed"]) for run in document["runs"]}
    return [(row, number) for row, number in wanted if (row["id"], number) not in done]


def train(row: Document, seed: int, arguments: argparse.Namespace, is_over: Callable[[], bool]) -> Document | None:
    """The row of one finished training; None if `is_over` said so first."""
    folder = arguments.folder / f"{row['id']}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    spec_file = folder / "spec.json"
    write_atomic(spec_file, json.dumps(row["spec"]))
    command = [sys.executable, "-P", "-m", "maenas", "train", str(spec_file), "--data", str(arguments.data), "--resume"]
    command += ["--recipe", str(arguments.recipe), "--input", str(arguments.input), "--seed", str(seed)]
    command += ["--out", str(folder), "--device", arguments.train_on]
    # -P: not the maenas of the current folder, but the trainer's.
    environment = os.environ | {"PYTHONPATH": str(arguments.trainer), "OMP_NUM_THREADS": str(arguments.threads)}
    with (folder / "output.txt").open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            if is_over():
                process.terminate()
                process.wait(GRACE_S)
                return None
            time.sleep(0.5)
    if process.returncode:
        text = (folder / "output.txt").read_text(encoding="utf-8")
        raise SystemExit(f"{row['id']}: the training failed\n{text[-2000:]}")
    return {"id": row["id"], "seed": seed, **read_epochs(folder, arguments.averaged), "commit": arguments.commit}


def read_epochs(folder: Path, averaged: int) -> Document:
    """AP, AP50 (means of the last `averaged` evaluations), the APs that went in, and the seconds of all epochs."""
    rows = [json.loads(line) for line in (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = [row["metrics"] for row in rows if "metrics" in row][-averaged:]
    if len(metrics) < averaged:
        raise SystemExit(f"{folder.name}: {len(metrics)} evaluations, but {averaged} are to be averaged")
    means = {name: round(statistics.fmean(row[name] for row in metrics), 5) for name in ("AP", "AP50")}
    seconds = round(sum(row["seconds"] for row in rows), 1)
    return means | {"APs": [round(row["AP"], 5) for row in metrics], "seconds": seconds}


def write_document(path: Path, document: Document) -> None:
    """Atomic; a member or a run is one line."""
    parts = [f'"{key}": {json.dumps(value)}' for key, value in document.items() if key not in ("members", "runs")]
    for key in ("members", "runs"):
        lines = ",\n  ".join(json.dumps(row) for row in document[key])
        parts.append(f'"{key}": [\n  {lines}\n ]')
    write_atomic(path, "{\n " + ",\n ".join(parts) + "\n}\n")


def train_all(document: Document, arguments: argparse.Namespace, is_over: Callable[[], bool]) -> bool:
    """Trains what is missing, and writes the result file after each; whether nothing is left."""
    left = queue(document, seed=arguments.seed, repeats=arguments.repeats)
    lock = threading.Lock()

    def one(job: tuple[Document, int]) -> bool:
        run = None if is_over() else train(*job, arguments, is_over)
        if run is None:
            return False
        with lock:
            document["runs"].append(run | {"date": datetime.now(UTC).isoformat(timespec="seconds")})
            document["statistics"] = summary(document["members"], document["runs"], seed=arguments.seed)
            write_document(arguments.result, document)
            number = len(document["runs"])
            print(f"{number:3d} {run['id']} seed {run['seed']}: AP {run['AP']:.4f}, {run['seconds']:.0f} s", flush=True)
        return True

    print(f"{len(left)} trainings to do", flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        return all(list(pool.map(one, left)))


def conditions_of(arguments: argparse.Namespace, latency_s: float) -> Document:
    """What must be the same for one result file; no paths of this machine."""
    recipe = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8"))
    return {
        "space": Path(arguments.space).stem,
        "device": Path(arguments.device).stem,
        "latency_ms": round(latency_s * 1e3, 6),
        "input": arguments.input,
        "classes": arguments.classes,
        "data": Path(arguments.data).name,
        "count": arguments.count,
        "averaged": arguments.averaged,
        "recipe": recipe,
    }


def request_of(arguments: argparse.Namespace) -> Request:
    """The search that the population belongs to; a shipped spec's latency is that at the same input and classes."""
    if arguments.latency[0].isdigit():
        latency_s = parse_latency_s(arguments.latency)
    else:
        spec = load_spec(arguments.latency).detector
        head = replace(spec.head, num_classes=arguments.classes)
        same = replace(spec, input=InputSpec(arguments.input, arguments.input), head=head)
        latency_s = predict(lower(same), load_predictor(arguments.device)).seconds
    return Request(
        space=arguments.space,
        devices=(arguments.device,),
        latency_s=(latency_s,),
        num_classes=arguments.classes,
        input_size=arguments.input,
    )


def parse(texts: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--space", default=str(HERE / "population_space.yaml"))
    parser.add_argument("--device", default="t4", help="whose latency is equal, as `maenas search` takes it")
    parser.add_argument("--latency", default="0.78ms", help="or a shipped spec to be as fast as")
    parser.add_argument("--input", type=int, default=192)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--count", type=int, default=32, help="detectors that are drawn")
    parser.add_argument("--repeats", type=int, default=8, help="of them, trained again with the next seed")
    parser.add_argument("--recipe", type=Path, default=HERE / "population_recipe.yaml")
    parser.add_argument("--averaged", type=int, default=2, help="last evaluations whose AP is averaged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-on", default="auto", help="as `maenas train --device` takes it")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, for each training")
    parser.add_argument("--minutes", type=float, help="stop after so long, and go on the next time")
    parser.add_argument("--trainer", type=Path, default=ROOT, help="checkout that trains")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "population_shapes")
    parser.add_argument("--result", type=Path, default=HERE / "results" / "population_shapes.json")
    return parser.parse_args(texts)


def end_of(minutes: float | None) -> Callable[[], bool]:
    """A question: is it time to stop? After so many minutes, and when SIGINT or SIGTERM came."""
    until = time.monotonic() + (60 * minutes if minutes else float("inf"))
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    return lambda: asked.is_set() or time.monotonic() > until


def main() -> None:
    arguments = parse()
    revision = ["git", "-C", str(arguments.trainer), "rev-parse", "--short=12", "HEAD"]
    arguments.commit = subprocess.run(revision, capture_output=True, text=True).stdout.strip() or None
    try:
        request = request_of(arguments)
        conditions = conditions_of(arguments, request.latency_s[0])
        if arguments.result.exists():
            stored = json.loads(arguments.result.read_text(encoding="utf-8"))
            document = continue_document(stored, request, conditions)
        else:
            document = begin_document(request, conditions, count=arguments.count, seed=arguments.seed)
        write_document(arguments.result, document)
        finished = train_all(document, arguments, end_of(arguments.minutes))
    except MaenasError as error:
        raise SystemExit(str(error)) from error
    if document["runs"]:
        print(summary_text(document["statistics"]))
    print("nothing is left" if finished else "stopped; repeat the command to go on")


if __name__ == "__main__":
    main()
