"""`maenas profile` and `maenas tables`: measure kernels on this machine, and look at what was measured."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from maenas.errors import MaenasError

tables_app = typer.Typer(help="Measured latency tables: list, show, compare, join.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document as the last line, and nothing else.")]
TableName = Annotated[str, typer.Argument(help="A measured table: a file (.json), a name, or cpu.")]

GPU_WARM_UP_S = 0.002  # a captured graph has chosen its algorithms; what is left are caches
REFERENCE_RATE = {"cpu": 5e10, "cuda": 5e12}  # FLOP/s to estimate with before the reference kernel has been timed


def profile_command(
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    runtime: Annotated[
        str, typer.Option("--runtime", help="onnxruntime; on cuda also torch or tensorrt.")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads of an operator.")] = 1,
    space: Annotated[
        list[str] | None,
        typer.Option("--space", help="Search space whose kernels to measure. Repeatable. [default: all shipped ones]"),
    ] = None,
    spec: Annotated[
        list[str] | None,
        typer.Option(
            "--spec", help="Spec file, or a shipped name, measured exactly. Repeatable. [default: the published ones]"
        ),
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or fp16; tensorrt also int8.")] = "fp32",
    batch: Annotated[int, typer.Option("--batch", help="Images at once; times are of the whole batch.")] = 1,
    input_size: Annotated[
        int | None, typer.Option("--input", help="Side of the square input. [default: the space's or spec's]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Table file. [default: in latency_tables, named after the setup]")
    ] = None,
    device_id: Annotated[
        str | None, typer.Option("--name", help="Device id for the table, e.g. h100. [default: from the hardware]")
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Say what would be measured, and stop.")] = False,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Stop after this long; the plan puts the finest grid last.")
    ] = 14.0,
    clock: Annotated[
        str, typer.Option("--clock", help="wall, or cpu: one thread's CPU time, for a machine that others use too.")
    ] = "wall",
    method: Annotated[str, typer.Option("--method", help="in-graph, or alone (for comparison).")] = "in-graph",
    opt_level: Annotated[int, typer.Option("--opt-level", help="Of the TensorRT builder, 0 to 5.")] = 3,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="TensorRT's timing cache, made if missing.")
    ] = None,
) -> None:
    """Measure this machine's kernels into a latency table; repeat the command to go on where it stopped."""
    if plan_only:
        print(_plan_text(_items(space or [], spec or [], input_size), device, batch))
        return
    from maenas.deploy.clock import Settings
    from maenas.latency.find import FOLDER, cpu_name
    from maenas.profiler.profile import METHODS, Setup

    if method not in METHODS:
        raise MaenasError(f"--method is {method!r}; choose {', '.join(METHODS)}")
    known = ("fp32", "fp16", "int8") if runtime == "tensorrt" else ("fp32", "fp16")
    if precision not in known:
        raise MaenasError(f"--precision is {precision!r}; {runtime} measures {', '.join(known)}")
    if batch < 1:
        raise MaenasError(f"--batch is {batch}; it must be at least 1")
    backend = _backend(device, runtime, threads=threads, clock=clock, opt_level=opt_level, timing_cache=timing_cache)
    settings = Settings() if device == "cpu" else Settings(warm_up_s=GPU_WARM_UP_S)
    setup = Setup(backend, precision, batch, settings, method)  # type: ignore[arg-type]
    name = device_id or _slug(f"cpu {cpu_name()}" if device == "cpu" else setup.backend.device_name)
    suffix = f"t{threads}-" if device == "cpu" else ""
    path = out or FOLDER / f"{name}-{runtime}-{suffix}{precision}-b{batch}.json"
    table = _run(_items(space or [], spec or [], input_size), setup, name, path, minutes)
    counts = f"{len(table.rows)} kernels, {len(table.blocks)} blocks, {len(table.networks)} networks"
    print(f"wrote {path} (id {table.id}): {counts} of {setup.backend.device_name}")
    for failure in table.failed:
        print(f"failed: {failure.what}: {failure.reason}")


def _items(spaces: list[str], specs: list[str], input_size: int | None) -> Any:
    from dataclasses import replace

    from maenas.nas.space import load_space, space_names
    from maenas.profiler.plan import plan
    from maenas.spec import InputSpec, load_spec, published_specs

    detectors = []
    for name in specs:
        detector = load_spec(name).detector
        if input_size is not None:
            detector = replace(detector, input=InputSpec(input_size, input_size))
        detectors.append(detector)
    if not spaces and not specs:
        spaces, detectors = space_names(), list(published_specs(input_size).values())
    return plan([load_space(name) for name in spaces], detectors, input_size=input_size)


def _plan_text(items: Any, device: str, batch: int) -> str:
    from maenas.deploy.clock import Settings
    from maenas.profiler.plan import describe, estimate_s

    if device not in REFERENCE_RATE:
        raise MaenasError(f"--device is {device!r}; choose {', '.join(REFERENCE_RATE)}")
    seconds = estimate_s(items, flops_per_s=REFERENCE_RATE[device], batch=batch, settings=Settings())
    counts = ", ".join(f"{count} {op}" for op, count in describe(items).items())
    rate = f"{REFERENCE_RATE[device] / 1e9:g} GFLOP/s"
    return f"{len(items)} to measure: {counts}\nabout {seconds / 60:.1f} minutes on a device with {rate}"


def _backend(device: str, runtime: str, *, threads: int, clock: str, opt_level: int, timing_cache: Path | None) -> Any:
    for option, value, known in (("--device", device, ("cpu", "cuda")), ("--clock", clock, ("wall", "cpu"))):
        if value not in known:
            raise MaenasError(f"{option} is {value!r}; choose {', '.join(known)}")
    if runtime == "onnxruntime":
        from maenas.profiler.onnxruntime import OnnxRuntime

        return OnnxRuntime(device, threads=threads, clock=clock)  # type: ignore[arg-type]
    if runtime not in ("torch", "tensorrt") or device != "cuda":
        raise MaenasError(f"--runtime is {runtime!r} on {device}; choose onnxruntime, or torch or tensorrt on cuda")
    if runtime == "tensorrt":
        from maenas.profiler.tensorrt import TensorRt

        return TensorRt(opt_level=opt_level, timing_cache=timing_cache)
    from maenas.profiler.torch_cuda import TorchCuda

    return TorchCuda()


def _run(items: Any, setup: Any, device: str, path: Path, minutes: float) -> Any:
    """Profile with a progress bar; Ctrl-C leaves a table that the same command continues."""
    import time

    from tqdm import tqdm

    from maenas.files import ensure_folder
    from maenas.profiler.profile import profile

    ensure_folder(path.resolve().parent)
    end = time.monotonic() + 60 * minutes
    bar = tqdm(total=len(items), unit=" kernels", desc="profile", disable=not sys.stderr.isatty())

    def on_progress(progress: Any) -> None:
        bar.n = len(items) - progress.remaining
        bar.set_postfix(reference=f"{progress.reference.median_s * 1e3:.3g} ms", refresh=False)
        bar.refresh()

    try:
        return profile(
            items,
            setup,
            device=device,
            path=path,
            stop=lambda: time.monotonic() > end,
            on_progress=on_progress,
        )
    except KeyboardInterrupt:
        kept = f"{path} is stored" if path.exists() else "nothing was measured yet"
        raise MaenasError(f"interrupted; {kept}: repeat the command to go on") from None
    finally:
        bar.close()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"


@tables_app.command("list")
def tables_list(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder. [default: latency_tables, and the shipped tables]")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the measured tables of a folder."""
    from maenas.latency.find import is_measured, table_files
    from maenas.latency.measured import read_measured

    if folder is not None and not folder.is_dir():
        raise MaenasError(f"{folder}: there is no such folder")
    paths = table_files() if folder is None else (p for p in sorted(folder.glob("*.json")) if is_measured(p))
    found = [(path, read_measured(path)) for path in paths]
    if as_json:
        print(json.dumps({"command": "tables list", "tables": [{"path": str(p), **_document(t)} for p, t in found]}))
        return
    if not found:
        print(f"no measured tables{'' if folder is None else f' in {folder}'}")
    for path, table in found:
        setup = f"{table.device}, {table.runtime}, {table.precision}, batch {table.batch}"
        print(f"{path.name}: {setup}, {len(table.rows)} kernels, {table.conditions.get('date', 'no date')}")


@tables_app.command("show")
def tables_show(table: TableName, as_json: Json = False) -> None:
    """Conditions, method and spread of a table."""
    import statistics

    from maenas.latency.find import load_measured

    measured = load_measured(table)
    if as_json:
        print(json.dumps({"command": "tables show", **_document(measured)}))
        return
    for name, value in _document(measured).items():
        if isinstance(value, dict):
            print(f"{name}:")
            print("\n".join(f"  {key}: {text}" for key, text in value.items()))
        else:
            print(f"{name}: {value}")
    spreads = [row.iqr_s / row.median_s for row in measured.rows if row.iqr_s is not None]
    if spreads:
        wide = sum(spread > 0.05 for spread in spreads)
        print(f"spread: median {statistics.median(spreads):.1%}, {wide} of {len(measured.rows)} kernels above 5 %")
    for text in _whole_texts(measured):
        print(text)
    for failure in measured.failed:
        print(f"failed: {failure.what}: {failure.reason}")


def _whole_texts(table: Any) -> list[str]:
    """How blocks and networks measured whole compare with the sums of their predicted kernels."""
    import math

    from maenas.latency.interpolation.fit import fit_table
    from maenas.latency.measured_predictor import MIN_NETWORKS, whole_blocks, whole_networks

    if max(len(table.blocks), len(table.networks)) < MIN_NETWORKS:
        return []
    interpolator = fit_table(table)
    found = (("blocks", whole_blocks(interpolator)), ("networks", whole_networks(interpolator)))
    return [
        f"{whole.count} {name} measured whole: {whole.factor:.3f} of the sums of their predicted kernels, "
        f"90 % of the next within x/÷ {math.exp(whole.log_half_width):.3f}"
        for name, whole in found
        if whole is not None
    ]


@tables_app.command("diff")
def tables_diff(first: TableName, second: TableName, as_json: Json = False) -> None:
    """Times of the second table over those of the first one, kernel by kernel."""
    import math
    import statistics

    from maenas.latency.find import load_measured

    one, two = load_measured(first), load_measured(second)
    times = {row.key: row.median_s for row in one.rows}
    ratios = {row.key: row.median_s / times[row.key] for row in two.rows if row.key in times}
    if not ratios:
        raise MaenasError(f"{first} and {second} have no kernel in common")
    ordered = sorted(ratios, key=lambda key: ratios[key])
    document = {
        "command": "tables diff",
        "common": len(ratios),
        "only_first": len(one.rows) - len(ratios),
        "only_second": len(two.rows) - len(ratios),
        "geometric_mean": math.exp(statistics.fmean(math.log(ratio) for ratio in ratios.values())),
        "median": statistics.median(ratios.values()),
        "least": [ratios[ordered[0]], list(ordered[0])],
        "most": [ratios[ordered[-1]], list(ordered[-1])],
        "total": math.fsum(times[key] * ratios[key] for key in ratios) / math.fsum(times[key] for key in ratios),
    }
    if as_json:
        print(json.dumps(document))
        return
    print(f"{document['common']} kernels in both, {document['only_first']} and {document['only_second']} in one only")
    print(f"ratio of the sums {document['total']:.3f}; of kernels: geometric mean {document['geometric_mean']:.3f}")
    for label, key in (("least", ordered[0]), ("most", ordered[-1])):
        print(f"{label:<6}{ratios[key]:.3f}  {_kernel_text(key)}")
    for name, here, there in _differences(one, two):
        print(f"{name} differs: {here!r}, {there!r}")


@tables_app.command("merge")
def tables_merge(
    files: Annotated[list[Path], typer.Argument(help="Tables of one setup; where rows clash the last one counts.")],
    out: Annotated[Path, typer.Option("--out", help="File for the joined table.")],
    force: Annotated[bool, typer.Option("--force", help="Join although conditions or methods differ.")] = False,
) -> None:
    """Join tables measured under the same conditions."""
    from maenas.latency.measured import make_table, read_measured, write_measured
    from maenas.profiler.profile import OUR_CONDITIONS

    tables = [read_measured(file) for file in files]
    first = tables[0]
    for file, table in zip(files[1:], tables[1:], strict=True):
        differ = _differences(first, table)
        hard = [name for name, _, _ in differ if name in HARD]
        if hard:
            raise MaenasError(f"{files[0]} and {file} cannot be joined: different {', '.join(hard)}")
        soft = [name for name, _, _ in differ if name not in (*OUR_CONDITIONS, "reference")]
        if soft and not force:
            raise MaenasError(
                f"{files[0]} and {file} were measured under different conditions ({', '.join(soft)}); "
                "--force joins them all the same"
            )
    rows = {row.key: row for table in tables for row in table.rows}
    blocks = {block.key: block for table in tables for block in table.blocks}
    networks = {network.detector.id: network for table in tables for network in table.networks}
    conditions = dict(first.conditions)
    if len(tables) > 1:
        conditions["merged_from"] = ", ".join(table.id for table in tables)
    table = make_table(
        device=first.device,
        runtime=first.runtime,
        precision=first.precision,
        batch=first.batch,
        conditions=conditions,
        method=first.method,
        rows=tuple(rows.values()),
        blocks=tuple(blocks.values()),
        networks=tuple(networks.values()),
    )
    write_measured(out, table)
    print(f"wrote {out} (id {table.id}): {len(table.rows)} kernels")


HARD = ("device", "runtime", "precision", "batch")  # without these a time means nothing


def _differences(one: Any, two: Any) -> list[tuple[str, str, str]]:
    """Name, first and second value of everything but rows that differs."""
    pairs = [(name, str(getattr(one, name)), str(getattr(two, name))) for name in HARD]
    for mapping in ("conditions", "method"):
        left, right = getattr(one, mapping), getattr(two, mapping)
        pairs += [(key, left.get(key, "-"), right.get(key, "-")) for key in {**left, **right}]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _document(table: Any) -> dict[str, Any]:
    names = ("id", "device", "runtime", "precision", "batch", "conditions", "method")
    counts = {kind: len(getattr(table, kind)) for kind in ("blocks", "networks", "failed")}
    return {**{name: getattr(table, name) for name in names}, "kernels": len(table.rows), **counts}


def _kernel_text(key: Any) -> str:
    epilogue = f" {key.epilogue}" if key.epilogue else ""
    size = f"{key.kernel}x{key.kernel}/{key.stride}"
    groups = f" groups {key.groups}" if key.groups > 1 else ""
    return f"{key.op} {key.in_channels}-{key.out_channels} {size}{groups} at {key.height}x{key.width}{epilogue}"
