"""`maenas search` and `maenas pareto`."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maenas.choices import Solver
from maenas.cli import options
from maenas.score_names import DEFAULT_SCORE

if TYPE_CHECKING:
    from maenas.api.search import Watch
    from maenas.nas.evolution import State
    from maenas.nas.run import Request, SearchResult, Setup
    from maenas.nas.spaces import SpaceBest
    from maenas.nas.written import SpecFiles
    from maenas.profiler.verify import Verified


def search_command(
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", help="Latency budget with its unit, e.g. 3ms; one for each --device."),
    ] = None,
    device: options.Devices = ["t4"],  # noqa: B006
    space: options.AnySpace = "k1kx",
    scope: options.AnyScope = "detector",
    solver: Annotated[Solver, typer.Option("--solver", help="Evolution is certified by the exact solver.")] = (
        "evolution"
    ),
    score: options.Score = DEFAULT_SCORE,
    precision: options.AnyPrecision = None,
    batch: options.Batch = 1,
    input_size: options.Input = None,
    classes: options.Classes = 80,
    neck: options.Neck = "auto",
    backbone_share: options.Share = None,
    max_params: options.MaxParams = None,
    max_flops: options.MaxFlops = None,
    max_activations: options.MaxMemory = None,
    max_layers: options.MaxLayers = None,
    max_effectiveness: options.MaxRho = None,
    population: Annotated[
        int, typer.Option("--population", help="Architectures kept from a generation.", min=2, max=1_000_000)
    ] = 512,
    generations: Annotated[
        int, typer.Option("--generations", help="Generations; each tries 16 x population.", min=0, max=1_000_000)
    ] = 120,
    seed: options.Seed = 0,
    top_k: Annotated[int, typer.Option("--top-k", help="How many of the best to write.", min=1, max=4096)] = 1,
    verify: Annotated[
        int,
        typer.Option(
            "--verify", help="Measure this many of the best on this machine; keep those that fit.", min=0, max=4096
        ),
    ] = 0,
    shortlist: Annotated[
        int,
        typer.Option("--shortlist", help="Write this many different detectors of the budget's latency.", min=0, max=64),
    ] = 0,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the spec files.", callback=options.output_folder)
    ] = Path("searched_models"),
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="Name of the spec.", show_default="from space and budgets", callback=options.output_name
        ),
    ] = None,
    as_json: options.AsJson = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with this search where it was interrupted.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace specs and a checkpoint of this name, of whatever search.")
    ] = False,
) -> None:
    """Find the best backbone within the budgets and write its detector spec."""
    from maenas.api.search import SearchOptions, make_request, search
    from maenas.nas.evolution import OFFSPRING
    from maenas.nas.written import spec_files

    budgets = budget or []
    name = name or _default_name(space, device, budgets, [max_params, max_flops, max_activations])
    limits = SearchOptions(
        space=space,
        scope=scope,
        score=score,
        precision=precision,
        batch=batch,
        input_size=input_size,
        classes=classes,
        neck=neck,
        backbone_share=backbone_share,
        max_params=max_params,
        max_flops=max_flops,
        max_activations=max_activations,
        max_layers=max_layers,
        max_effectiveness=max_effectiveness,
    )
    if shortlist:
        request = make_request(budgets, device, seed=seed, **limits)
        with spec_files(out, name, request, shortlist, kind="shortlist", overwrite=overwrite) as files:
            _write_shortlist(request, shortlist, files, as_json=as_json)
        return
    asked = make_request(
        budgets, device, solver=solver, population=population, generations=generations, seed=seed, **limits
    )
    total = OFFSPRING * population * (generations + 1)
    with (
        spec_files(out, name, asked, top_k, overwrite=overwrite) as files,
        _watched(quiet=as_json, exact=solver == "exact", total=total, score=score) as watch,
    ):
        result = search(
            budgets,
            device=device,
            solver=solver,
            population=population,
            generations=generations,
            seed=seed,
            top_k=top_k,
            verify=verify,
            checkpoint=files.checkpoint,
            resume=resume,
            watch=watch,
            **limits,
        )
        paths = result.save(out, name, count=top_k)
        files.finish(paths)
    written = list(zip(paths, result, strict=False))
    if as_json:
        rows = [{"path": str(path), "id": design.spec.id, **design.provenance} for path, design in written]
        options.print_json("search", specs=rows)
        return
    from maenas.reports.text import format_result

    if verify:
        print()
    print(format_result(result.found))
    for path, design in written:
        print(f"{'wrote':<11}{path} (id {design.spec.id})")


def _write_shortlist(request: Request, count: int, files: SpecFiles, *, as_json: bool) -> None:
    """Spec files NAME-1.json ... of different detectors of one latency, and a table that says why each is there."""
    from maenas.nas.shortlist import shortlist, shortlist_provenance
    from maenas.reports.shortlist import format_shortlist
    from maenas.spec import write_spec

    entries = shortlist(request, count)
    rows = []
    for number, entry in enumerate(entries, start=1):
        path, origin = files.paths[number - 1], shortlist_provenance(entry, request)
        write_spec(path, entry.spec, path.stem, origin)
        rows.append({"path": str(path), "id": entry.spec.id, **origin})
    files.finish([Path(row["path"]) for row in rows])
    if as_json:
        options.print_json("search", specs=rows)
        return
    print(format_shortlist(entries))
    print(f"wrote {files.paths[0]} to {files.paths[len(entries) - 1].name}")


def _default_name(space: str, devices: list[str], budgets: list[str], limits: list[str | None]) -> str:
    """`k1kx-t4-3ms`: the space, each device with its budget, the other limits."""
    parts = [Path(space).stem]
    for device, budget in zip(devices, budgets, strict=False):
        parts += [Path(device).stem, budget]
    parts += [limit for limit in limits if limit is not None]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(part.replace(" ", "") for part in parts))


@contextmanager
def _watched(*, quiet: bool, exact: bool, total: int, score: str) -> Iterator[Watch]:
    """Prints what a search does, with a progress bar on a terminal; nothing where `quiet`."""
    from tqdm import tqdm

    from maenas.api.search import Watch
    from maenas.reports.spaces import format_spaces
    from maenas.reports.text import format_setup, format_verified

    begun: list[float] = []  # when evolution and proof began
    hide = quiet or exact or not sys.stderr.isatty()

    with tqdm(total=total, unit=" candidates", unit_scale=True, desc="evolution", disable=hide, leave=False) as bar:

        def on_spaces(rows: tuple[SpaceBest, ...]) -> None:
            if not quiet:
                print(format_spaces(rows, score), end="\n\n", flush=True)

        def on_setup(setup: Setup) -> None:
            begun[:] = [time.perf_counter()]
            if not quiet:
                print(format_setup(setup), end="\n\n", flush=True)

        def on_generation(state: State) -> None:
            bar.update(state.evaluated - bar.n)

        def on_proof() -> None:
            begun.append(time.perf_counter())
            bar.close()

        def on_found(found: SearchResult) -> None:
            begun.append(time.perf_counter())
            bar.close()
            if not quiet:
                print(_effort(found, begun), end="\n\n", flush=True)

        def on_measured(row: Verified) -> None:
            if not quiet:
                print(format_verified(row), flush=True)

        yield Watch(on_spaces, on_setup, on_generation, on_proof, on_found, on_measured)


def _effort(found: SearchResult, begun: list[float]) -> str:
    """What the solvers did and how long they took; `begun` are the times of the start, of the proof and of the end."""
    evolving, proving = begun[1] - begun[0], begun[-1] - begun[1]
    lines = []
    if found.evaluated:
        done = f"{found.evaluated:,} candidates in {evolving:.2f} s ({found.evaluated / evolving / 1e6:.2f} M/s)"
        lines.append(f"{'evolution':<11}{done}, seed {found.setup.request.seed}")
    if found.certificate is not None:
        labels, choices = found.certificate.labels, found.certificate.options
        lines.append(f"{'exact':<11}{labels:,} labels over {choices:,} options in {proving:.2f} s")
    return "\n".join(lines)


def pareto_command(
    budget: Annotated[str, typer.Option("--budget", help="Highest latency of the front, e.g. 3ms.")],
    low: Annotated[
        str | None, typer.Option("--from", help="Lowest latency of the front.", show_default="the fastest")
    ] = None,
    device: options.OneDevice = "t4",
    space: options.OneSpace = "k1kx",
    scope: options.AnyScope = "detector",
    score: options.Score = DEFAULT_SCORE,
    precision: options.AnyPrecision = None,
    batch: options.Batch = 1,
    input_size: options.Input = None,
    classes: options.Classes = 80,
    neck: options.Neck = "auto",
    backbone_share: options.Share = None,
    max_params: options.MaxParams = None,
    max_flops: options.MaxFlops = None,
    max_activations: options.MaxMemory = None,
    max_layers: options.MaxLayers = None,
    max_effectiveness: options.MaxRho = None,
    points: Annotated[
        int, typer.Option("--points", help="Lines printed; the JSON file has the whole front.", min=2, max=100_000)
    ] = 24,
    out: options.OutFile = None,
    as_json: options.AsJson = False,
) -> None:
    """The whole latency-score Pareto front, exactly: the best architecture for every budget."""
    from maenas.api.search import pareto
    from maenas.files import write_atomic
    from maenas.nas.pareto import front_document
    from maenas.reports.text import format_front

    front = pareto(
        budget,
        device=device,
        low=low,
        space=space,
        scope=scope,
        score=score,
        precision=precision,
        batch=batch,
        input_size=input_size,
        classes=classes,
        neck=neck,
        backbone_share=backbone_share,
        max_params=max_params,
        max_flops=max_flops,
        max_activations=max_activations,
        max_layers=max_layers,
        max_effectiveness=max_effectiveness,
    )
    document = front_document(front)
    if out is not None:
        write_atomic(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document) if as_json else format_front(front, points))
    if out is not None and not as_json:
        print(f"wrote {out}")
