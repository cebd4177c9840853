"""`maenas search` and `maenas pareto`."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maenas.choices import Solver
from maenas.cli import options
from maenas.errors import MaenasError
from maenas.unused import refuse_unused

if TYPE_CHECKING:
    from maenas.api.search import Design, Watch
    from maenas.nas.evolution import State
    from maenas.nas.request import Request, Setup
    from maenas.nas.run import SearchResult
    from maenas.nas.spaces import SpaceBest
    from maenas.nas.written import SpecFiles
    from maenas.profiler.verify import Verified


NO_SHORTLIST = "a search without --shortlist"


@dataclass(frozen=True)
class Effort:
    """How hard a search looks; field by field as in `maenas.search`."""

    solver: Annotated[Solver, typer.Option("--solver", help="Evolution is certified by the exact solver.")] = (
        "evolution"
    )
    population: Annotated[
        int, typer.Option("--population", help="Architectures kept from a generation.", min=2, max=1_000_000)
    ] = 512
    generations: Annotated[
        int, typer.Option("--generations", help="Generations; each tries 16 x population.", min=0, max=1_000_000)
    ] = 120
    seed: options.Seed = 0


@dataclass(frozen=True)
class Written:
    """What a search leaves, and where."""

    top_k: Annotated[int, typer.Option("--top-k", help="How many of the best to write.", min=1, max=4096)] = 1
    verify: Annotated[
        int,
        typer.Option(
            "--verify", help="Measure this many of the best on this machine; keep those that fit.", min=0, max=4096
        ),
    ] = 0
    shortlist: Annotated[
        int,
        typer.Option("--shortlist", help="Write this many different detectors of the budget's latency.", min=0, max=64),
    ] = 0
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder of the specs, or the file of one (.json).", callback=options.output_specs),
    ] = Path("searched_models")
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="Name of the spec.", show_default="from space and budgets", callback=options.output_name
        ),
    ] = None
    as_json: options.AsJson = False
    resume: Annotated[bool, typer.Option("--resume", help="Continue this search from where it was interrupted.")] = (
        False
    )
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace specs and a checkpoint of this name, even those of another search."),
    ] = False


def search_command(
    *,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", help="Latency budget with its unit, e.g. 3ms; one for each --device."),
    ] = None,
    device: options.Devices = ["t4"],  # noqa: B006
    space: options.AnySpace = "k1kx",
    target: options.Target,
    limits: options.Limits,
    effort: Effort,
    written: Written,
) -> None:
    """Find the best backbone within the budgets and write its detector spec."""
    from maenas.api.search import SearchOptions, make_request, search
    from maenas.nas.written import spec_files

    budgets, wanted = budget or [], SearchOptions(space=space, **vars(target), **vars(limits))
    folder, name = _place(written, _default_name(space, device, budgets, limits))
    if written.shortlist:
        refuse_unused(Effort, vars(effort), ("solver", "population", "generations"), needs=NO_SHORTLIST)
        refuse_unused(Written, vars(written), ("top_k", "verify", "resume"), needs=NO_SHORTLIST)
        request = make_request(budgets, device, seed=effort.seed, **wanted)
        count, replace = written.shortlist, written.overwrite
        with spec_files(folder, name, request, count, kind="shortlist", overwrite=replace) as files:
            _write_shortlist(request, count, files, as_json=written.as_json)
        return
    asked = make_request(budgets, device, **vars(effort), **wanted)
    with (
        spec_files(folder, name, asked, written.top_k, overwrite=written.overwrite) as files,
        _watched(effort, quiet=written.as_json, score=target.score) as watch,
    ):
        if written.overwrite and not written.resume:
            files.checkpoint.unlink(missing_ok=True)
        result = search(
            budgets,
            device=device,
            top_k=written.top_k,
            verify=written.verify,
            checkpoint=files.checkpoint,
            resume=written.resume,
            watch=watch,
            **vars(effort),
            **wanted,
        )
        paths = result.save(folder, name, count=written.top_k)
        files.finish(paths)
        files.checkpoint.unlink(missing_ok=True)
    _print_designs(list(zip(paths, result, strict=False)), result.found, written)


def _print_designs(designs: Sequence[tuple[Path, Design]], found: SearchResult, written: Written) -> None:
    """The spec files that were written, and, for people, what was found."""
    if written.as_json:
        rows = [{"path": str(path), "id": design.spec.id, **design.provenance} for path, design in designs]
        options.print_json("search", specs=rows)
        return
    from maenas.reports.search_text import format_result

    if written.verify:
        print()
    print(format_result(found))
    for path, design in designs:
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


def _place(written: Written, default: str) -> tuple[Path, str]:
    """The folder of the spec files and their name. Raises `MaenasError` where two options give the name."""
    if not options.is_spec_file(written.out):
        return written.out, written.name or default
    if written.name is not None:
        raise MaenasError(f"--out {written.out} names the spec, and so does --name {written.name}; give one of them")
    return written.out.parent, written.out.stem


def _default_name(space: str, devices: list[str], budgets: list[str], limits: options.Limits) -> str:
    """`k1kx-t4-3ms`: the space, each device with its budget, the other limits."""
    parts = [Path(space).stem]
    for device, budget in zip(devices, budgets, strict=False):
        parts += [Path(device).stem, budget]
    others = (limits.max_params, limits.max_flops, limits.max_activations)
    parts += [limit for limit in others if limit is not None]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(part.replace(" ", "") for part in parts))


@contextmanager
def _watched(effort: Effort, *, quiet: bool, score: str) -> Iterator[Watch]:
    """Prints what a search does, with a progress bar on a terminal; nothing where `quiet`."""
    from tqdm import tqdm

    from maenas.api.search import Watch
    from maenas.nas.evolution import OFFSPRING
    from maenas.reports.search_text import format_setup, format_verified
    from maenas.reports.spaces import format_spaces

    begun: list[float] = []  # when evolution and proof began
    total = OFFSPRING * effort.population * (effort.generations + 1)
    hide = quiet or effort.solver == "exact" or not sys.stderr.isatty()

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
    *,
    budget: Annotated[str, typer.Option("--budget", help="Highest latency of the front, e.g. 3ms.")],
    low: Annotated[
        str | None, typer.Option("--from", help="Lowest latency of the front.", show_default="the fastest")
    ] = None,
    device: options.OneDevice = "t4",
    space: options.OneSpace = "k1kx",
    target: options.Target,
    limits: options.Limits,
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
    from maenas.reports.front_text import format_front

    front = pareto(budget, device=device, low=low, space=space, **vars(target), **vars(limits))
    document = front_document(front)
    if out is not None:
        write_atomic(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document) if as_json else format_front(front, points))
    if out is not None and not as_json:
        print(f"wrote {out}")
