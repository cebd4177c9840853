"""`maenas race`: parse, call, print."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from maenas.cli import options
from maenas.cli.detector_options import DataSet
from maenas.cli.extras import require_extra


@dataclass(frozen=True)
class Racers:
    """Who races, besides the files that are given; field by field as in `RaceRequest`."""

    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="Latency of the shortlist, e.g. 3ms; the highest latency that a given candidate may have."
        ),
    ] = None
    device: options.OneDevice = "t4"
    precision: options.AnyPrecision = None
    space: options.AnySpace = "k1kx"
    shortlist: Annotated[
        int, typer.Option("--shortlist", help="Candidates, the published control among them.", min=2, max=64)
    ] = 9
    control: Annotated[
        str | None, typer.Option("--control", help="A spec that stays to the end, to compare the winner with.")
    ] = None


@dataclass(frozen=True)
class Rules:
    """How candidates are trained and compared; field by field as in `RaceRequest`."""

    recipe: Annotated[str, typer.Option("--recipe", help="Recipe of every candidate, as for maenas train.")] = "auto"
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="Epochs of a finalist.", show_default="the recipe's", min=1, max=1_000_000),
    ] = None
    rungs: Annotated[int, typer.Option("--rungs", help="How often candidates are compared.", min=1, max=20)] = 3
    eta: Annotated[int, typer.Option("--eta", help="One of this many candidates goes on.", min=2, max=100)] = 3
    seeds: Annotated[int, typer.Option("--seeds", help="How often each finalist is trained.", min=1, max=100)] = 1
    seed: Annotated[int | None, typer.Option("--seed", help="First seed.", min=0, max=2**62)] = None
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input",
            help="Side of the square input.",
            show_default="the specs'; for the shapes 192, as they are",
            min=32,
            max=8192,
        ),
    ] = None


@dataclass(frozen=True)
class Place:
    """Where the training runs."""

    train_on: Annotated[
        str,
        typer.Option(
            "--train-on",
            help="Where to train: cpu, mps, cuda:0, or several with commas.",
            show_default="every GPU, else the CPU",
        ),
    ] = "auto"
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Train on the Ray cluster at this address; auto: the cluster of this machine."),
    ] = None
    ray_cpus: Annotated[float, typer.Option("--ray-cpus", help="CPUs of one trial there.", min=0.0, max=4096)] = 1.0
    ray_gpus: Annotated[
        float | None,
        typer.Option(
            "--ray-gpus",
            help="GPUs of one trial; 0.5 is half a GPU.",
            show_default="1 where there are",
            min=0.0,
            max=1024,
        ),
    ] = None


def race_command(
    *,
    data: DataSet,
    candidates: Annotated[
        list[str] | None, typer.Argument(help="Spec files; without them --budget makes a shortlist.")
    ] = None,
    racers: Racers,
    rules: Rules,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe. Repeatable.")] = None,
    place: Place,
    out: Annotated[Path, typer.Option("--out", help="Folder of the race.", callback=options.output_folder)] = Path(
        "runs/race"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the race in --out.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what the race would take, and stop.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Train candidates on your data by successive halving: a trained winner, and how sure it is."""
    require_extra("detector")
    from maenas.api.race import print_progress, race_document, run_race
    from maenas.api.race_cluster import Share, workers
    from maenas.api.race_setup import RaceRequest, prepare_race
    from maenas.racing.text import plan_document, plan_text, result_text

    stream: Literal["stdout", "stderr"] = "stderr" if as_json else "stdout"
    progress = partial(print_progress, stream=stream)

    def say(text: str) -> None:
        print(text, file=getattr(sys, stream), flush=True)

    request = RaceRequest(
        data=data,
        candidates=tuple(candidates or ()),
        settings=tuple(settings or ()),
        train_on=place.train_on,
        **vars(racers),
        **vars(rules),
    )
    with workers(place.train_on, place.ray, Share(place.ray_cpus, place.ray_gpus), progress) as there:
        setup = prepare_race(
            request, out, resume=resume, on_step=lambda text: print(f"race: {text} ...", file=sys.stderr)
        )
        rated = 0 if setup.job.val is None else len(setup.job.val)
        images, disk = len(setup.job.train), setup.disk_bytes
        if plan and as_json:
            planned = plan_document(setup.race, train=images, val=rated, disk_bytes=disk, devices=there.devices)
            options.print_json("race", plan=planned)
            return
        say(plan_text(setup.race, train=images, val=rated, disk_bytes=disk, devices=there.devices))
        if plan:
            return
        say("")
        found = run_race(setup, out, there.runner, device=there.own, say=say)
    if as_json:
        options.print_json("race", **race_document(found))
        return
    print(f"\n{result_text(found.race, found.result)}")
    print(f"{'wrote':<11}{found.weights} and {out / 'winner.json'}; TensorBoard: --logdir {out / 'runs'}")
