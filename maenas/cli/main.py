"""The `maenas` command: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from maenas import __version__
from maenas.cli.benchmark import benchmark_command
from maenas.cli.data import data_app
from maenas.cli.detect import detect_command, show_command, weights_app
from maenas.cli.export import export_command
from maenas.cli.profile import profile_command, tables_app
from maenas.cli.report import compare_command, report_command
from maenas.cli.train import eval_command, train_command
from maenas.cli.validate import validate_command
from maenas.errors import MaenasError
from maenas.files import reason

app = typer.Typer(
    name="maenas",
    help="Design object detectors for the hardware they will run on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
structure_app = typer.Typer(help="Structure text of the published tools.", no_args_is_help=True)
app.add_typer(structure_app, name="structure")
app.add_typer(tables_app, name="tables")
app.command("profile")(profile_command)
app.command("validate")(validate_command)
app.command("show")(show_command)
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("detect")(detect_command)
app.command("export")(export_command)
app.command("benchmark")(benchmark_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.add_typer(weights_app, name="weights")
app.add_typer(data_app, name="data")

CHECKPOINT_SECONDS = 2.0

Space = Annotated[str, typer.Option("--space", help="A shipped space (see `maenas spaces`) or a YAML file.")]
Device = Annotated[
    list[str],
    typer.Option(
        "--device", help="Device (see `maenas devices`), DEVICE@SETUP, cpu (measured here), or a table. Repeatable."
    ),
]
OneDevice = Annotated[
    str, typer.Option("--device", help="Device (see `maenas devices`), DEVICE@SETUP, cpu (measured here), or a table.")
]
Precision = Annotated[
    str | None, typer.Option("--precision", help="fp32, fp16 or int8. [default: a measured table's own, else fp16]")
]
Batch = Annotated[int, typer.Option("--batch", help="Images at once; latencies are of the whole batch.")]
Input = Annotated[int | None, typer.Option("--input", help="Side of the square input in pixels. Default: the space's.")]
Classes = Annotated[int, typer.Option("--classes", help="Number of object classes.")]
Scope = Annotated[str, typer.Option("--scope", help="What budgets count: detector (backbone, neck, head) or backbone.")]
Neck = Annotated[
    str | None, typer.Option("--neck", help="Neck and head preset: t, s, m, l, nano. Default: the space's.")
]
Score = Annotated[str, typer.Option("--score", help="mae, deepmad or flops.")]
MaxParams = Annotated[str | None, typer.Option("--max-params", help="Most parameters, for example 10M.")]
MaxFlops = Annotated[str | None, typer.Option("--max-flops", help="Most operations, for example 20G.")]
MaxMemory = Annotated[str | None, typer.Option("--max-activations", help="Most activation memory written, e.g. 60MB.")]
MaxLayers = Annotated[
    int | None, typer.Option("--max-layers", help="Most main-path convolutions. Default: the space's.")
]
MaxRho = Annotated[
    float | None, typer.Option("--max-effectiveness", help="Most DeepMAD effectiveness (depth / width).")
]
Json = Annotated[bool, typer.Option("--json", help="Print nothing but one JSON document.")]


def main() -> None:
    """Entry point: errors that a user can act on end with one message and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except MaenasError as error:
        _fail(str(error))
    except MemoryError:
        _fail("the memory of this machine is not enough")
    except BrokenPipeError:  # whoever read the output has enough
        _discard_output()
        raise SystemExit(1) from None
    except OSError as error:  # a disk that fails, or the output goes to one that is full
        _discard_output()
        _fail(f"{error.filename or 'the output'}: {reason(error)}")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2) from None


def _discard_output() -> None:
    """Python would try once more to print what could not be printed, and fail again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(value: bool) -> None:
    if value:
        print(f"maenas {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise MaenasError(f"{name} is {value!r}; choose {', '.join(allowed)}")
    return value


def _request(
    *,
    space: str,
    device: list[str],
    budget: list[str],
    max_params: str | None,
    max_flops: str | None,
    max_activations: str | None,
    scope: str,
    score: str,
    **others: Any,
) -> Any:
    from maenas.nas.run import Request
    from maenas.units import parse_bytes, parse_flops, parse_latency_s, parse_params

    return Request(
        space=space,
        devices=tuple(device),
        latency_s=tuple(parse_latency_s(text) for text in budget),
        max_params=None if max_params is None else parse_params(max_params),
        max_flops=None if max_flops is None else parse_flops(max_flops),
        max_activation_bytes=None if max_activations is None else parse_bytes(max_activations),
        scope=_choice("--scope", scope, ("detector", "backbone")),
        score=_choice("--score", score, ("mae", "deepmad", "flops")),
        **others,
    )


@app.command()
def search(
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", help="Latency budget with its unit, e.g. 3ms; one for each --device."),
    ] = None,
    device: Device = ["t4"],  # noqa: B006
    space: Space = "k1kx",
    scope: Scope = "detector",
    solver: Annotated[str, typer.Option("--solver", help="evolution (then certified) or exact.")] = "evolution",
    score: Score = "mae",
    precision: Precision = None,
    batch: Batch = 1,
    input_size: Input = None,
    classes: Classes = 80,
    neck: Neck = None,
    max_params: MaxParams = None,
    max_flops: MaxFlops = None,
    max_activations: MaxMemory = None,
    max_layers: MaxLayers = None,
    max_effectiveness: MaxRho = None,
    population: Annotated[int, typer.Option("--population", help="Architectures kept from a generation.")] = 512,
    generations: Annotated[int, typer.Option("--generations", help="Generations; each tries 16 x population.")] = 120,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the evolution.")] = 0,
    top_k: Annotated[int, typer.Option("--top-k", help="How many of the best to write.")] = 1,
    verify: Annotated[
        int, typer.Option("--verify", help="Measure this many of the best on this machine, and keep those that fit.")
    ] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder of the spec files.")] = Path("searched_models"),
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the spec. Default: from space and budgets.")
    ] = None,
    as_json: Json = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with this search where it was interrupted.")] = False,
) -> None:
    """Find the best backbone within the budgets and write its detector spec."""
    from maenas.nas.run import prepare

    setup = prepare(
        _request(
            space=space,
            device=device,
            budget=budget or [],
            max_params=max_params,
            max_flops=max_flops,
            max_activations=max_activations,
            scope=scope,
            score=score,
            max_layers=max_layers,
            max_effectiveness=max_effectiveness,
            solver=_choice("--solver", solver, ("evolution", "exact")),
            precision=precision,
            batch=batch,
            input_size=input_size,
            num_classes=classes,
            neck=neck,
            population=population,
            generations=generations,
            seed=seed,
            top_k=max(top_k, verify),
        )
    )
    if name is not None and Path(name).name != name:
        raise MaenasError(f"--name is {name!r}; it must be a plain file name, the folder is --out")
    if name is None:
        name = _default_name(space, device, budget or [], [max_params, max_flops, max_activations])
    _run_search(setup, out, name, top_k=top_k, verify=verify, as_json=as_json, resume=resume)


def _default_name(space: str, devices: list[str], budgets: list[str], limits: list[str | None]) -> str:
    """`k1kx-t4-3ms`: the space, each device with its budget, the other limits."""
    parts = [Path(space).stem]
    for device, budget in zip(devices, budgets, strict=False):
        parts += [Path(device).stem, budget]
    parts += [limit for limit in limits if limit is not None]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(part.replace(" ", "") for part in parts))


def _run_search(setup: Any, out: Path, name: str, *, top_k: int, verify: int, as_json: bool, resume: bool) -> None:
    from maenas.files import ensure_folder
    from maenas.nas.checkpoint import read_checkpoint
    from maenas.nas.provenance import provenance
    from maenas.reports.text import format_result, format_setup
    from maenas.spec import write_spec

    ensure_folder(out)
    checkpoint = out / f"{name}.ckpt.json"
    state = read_checkpoint(checkpoint, setup) if resume else None
    clock = _verifying_clock(setup) if verify else None
    if not as_json:
        print(format_setup(setup), end="\n\n", flush=True)
    result = _search_with_progress(setup, checkpoint, state, quiet=as_json)
    result, measured = _measure_candidates(result, clock, quiet=as_json)
    stems = [name if index == 0 else f"{name}-{index + 1}" for index in range(min(top_k, len(result.candidates)))]
    documents = []
    for index, stem in enumerate(stems):
        spec, origin = result.candidates[index].spec, provenance(result, index, measured.get(index))
        write_spec(out / f"{stem}.json", spec, stem, origin)
        documents.append({"path": str(out / f"{stem}.json"), "id": spec.id, **origin})
    checkpoint.unlink(missing_ok=True)
    if as_json:
        print(json.dumps({"command": "search", "specs": documents}))
        return
    print(format_result(result))
    for document in documents:
        print(f"{'wrote':<11}{document['path']} (id {document['id']})")


def _verifying_clock(setup: Any) -> Any:
    from maenas.profiler.verify import clock_of

    return clock_of(setup)


def _measure_candidates(result: Any, clock: Any, *, quiet: bool) -> tuple[Any, dict[int, Any]]:
    """The result re-ranked by measured latency, and what each of its candidates took; unchanged without a clock."""
    if clock is None:
        return result, {}
    from maenas.profiler.verify import verify
    from maenas.units import format_latency

    def show(row: Any) -> None:
        predicted = row.candidate.predictions[0].seconds
        fits = "" if row.within else ": over the budget, dropped"
        text = f"{format_latency(row.timing.median_s)}, {format_latency(predicted)} predicted"
        print(f"{'measured':<11}{text} (score {row.candidate.score:.4f}){fits}", flush=True)

    result, rows = verify(result, clock, (lambda row: None) if quiet else show)
    if not quiet:
        print()
    times = {
        index: {
            "ms": row.timing.median_s * 1e3,
            "iqr_ms": row.timing.iqr_s * 1e3,
            "samples": row.timing.samples,
            "runtime": clock.backend.runtime,
            **clock.backend.conditions,
        }
        for index, row in enumerate(rows)
    }
    return result, times


def _search_with_progress(setup: Any, checkpoint: Path, state: Any, *, quiet: bool) -> Any:
    """Run with a progress bar; store a checkpoint every few seconds and on Ctrl-C."""
    import time

    from tqdm import tqdm

    from maenas.nas.checkpoint import write_checkpoint
    from maenas.nas.evolution import OFFSPRING
    from maenas.nas.run import run

    request = setup.request
    per_generation = OFFSPRING * request.population
    total = per_generation * (request.generations + 1)
    last = [state, time.monotonic()]
    begun: list[float] = [time.perf_counter(), 0.0]  # evolution, proof
    hide = quiet or request.solver == "exact" or not sys.stderr.isatty()
    bar = tqdm(total=total, unit=" candidates", unit_scale=True, desc="evolution", disable=hide, leave=False)

    def on_generation(now: Any) -> None:
        bar.update(now.evaluated - bar.n)
        last[0] = now
        if time.monotonic() - last[1] > CHECKPOINT_SECONDS:
            write_checkpoint(checkpoint, setup, now)
            last[1] = time.monotonic()

    def on_proof() -> None:
        begun[1] = time.perf_counter()
        bar.close()

    try:
        result = run(setup, on_generation=on_generation, state=state, on_proof=on_proof)
    except KeyboardInterrupt:
        if last[0] is None:
            raise MaenasError("interrupted before the first generation; nothing to resume") from None
        write_checkpoint(checkpoint, setup, last[0])
        raise MaenasError(f"interrupted; {checkpoint} is stored: repeat the command with --resume to go on") from None
    finally:
        bar.close()
    if not quiet:
        now = time.perf_counter()
        print(_effort(result, (begun[1] or now) - begun[0], now - (begun[1] or now)), end="\n\n", flush=True)
    return result


def _effort(result: Any, evolving: float, proving: float) -> str:
    """What the solvers did and how long they took."""
    lines = []
    if result.evaluated:
        done = f"{result.evaluated:,} candidates in {evolving:.2f} s ({result.evaluated / evolving / 1e6:.2f} M/s)"
        lines.append(f"{'evolution':<11}{done}, seed {result.setup.request.seed}")
    if result.certificate is not None:
        labels, options = result.certificate.labels, result.certificate.options
        lines.append(f"{'exact':<11}{labels:,} labels over {options:,} options in {proving:.2f} s")
    return "\n".join(lines)


@app.command()
def pareto(
    budget: Annotated[str, typer.Option("--budget", help="Highest latency of the front, e.g. 3ms.")],
    low: Annotated[
        str | None, typer.Option("--from", help="Lowest latency of the front. Default: the fastest.")
    ] = None,
    device: OneDevice = "t4",
    space: Space = "k1kx-tiny",
    scope: Scope = "detector",
    score: Score = "mae",
    precision: Precision = None,
    batch: Batch = 1,
    input_size: Input = None,
    classes: Classes = 80,
    neck: Neck = None,
    max_params: MaxParams = None,
    max_flops: MaxFlops = None,
    max_activations: MaxMemory = None,
    max_layers: MaxLayers = None,
    max_effectiveness: MaxRho = None,
    points: Annotated[int, typer.Option("--points", help="Lines printed; the JSON file has the whole front.")] = 24,
    out: Annotated[Path | None, typer.Option("--out", help="File for the whole front as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """The whole latency-score Pareto front, exactly: the best architecture for every budget."""
    from maenas.files import ensure_folder, write_atomic
    from maenas.nas.pareto import front_document, pareto_front
    from maenas.nas.run import prepare
    from maenas.reports.text import format_front
    from maenas.units import parse_latency_s

    request = _request(
        space=space,
        device=[device],
        budget=[budget],
        max_params=max_params,
        max_flops=max_flops,
        max_activations=max_activations,
        scope=scope,
        score=score,
        max_layers=max_layers,
        max_effectiveness=max_effectiveness,
        precision=precision,
        batch=batch,
        input_size=input_size,
        num_classes=classes,
        neck=neck,
    )
    if out is not None:
        ensure_folder(out.resolve().parent)
    front = pareto_front(prepare(request), 0.0 if low is None else parse_latency_s(low))
    document = front_document(front)
    if out is not None:
        write_atomic(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document) if as_json else format_front(front, points))
    if out is not None and not as_json:
        print(f"wrote {out}")


@app.command("predict")
def predict_command(
    network: Annotated[str, typer.Argument(help="A spec file, a shipped name (damo-yolo-t), or an .onnx file.")],
    device: Device = ["t4"],  # noqa: B006
    precision: Precision = None,
    batch: Batch = 1,
    input_size: Annotated[
        int | None, typer.Option("--input", help="Side of the input of an ONNX file whose shapes are symbolic.", min=1)
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="One line per kernel.")] = False,
    as_json: Json = False,
) -> None:
    """Predict the latency of a detector or of any ONNX network: its parts, and every kernel with --layers."""
    from maenas.latency.predictor import load_predictor
    from maenas.reports import graph, text

    title, kernels = _load_kernels(network, input_size)
    if _is_onnx(network):
        document, show = graph.graph_document, graph.format_graph
    else:
        document, show = text.network_document, text.format_network
    predictors = [load_predictor(name, precision=precision, batch=batch) for name in device]
    if as_json:
        rows = [document(kernels, predictor, layers=layers) for predictor in predictors]
        print(json.dumps({"command": "predict", "network": title, "predictions": rows}))
        return
    print("\n\n".join(show(title, kernels, predictor, layers=layers) for predictor in predictors))


def _is_onnx(network: str) -> bool:
    return network.lower().endswith(".onnx")


def _load_kernels(network: str, input_size: int | None) -> tuple[str, Any]:
    """A title, and the deployed kernels of a spec or the lowered graph of an ONNX file."""
    from maenas.latency.onnx.lower import lower_onnx
    from maenas.lowering import lower

    if _is_onnx(network):
        return network, lower_onnx(network, input_size=input_size)
    if input_size is not None:
        raise MaenasError("--input is for ONNX files; a spec has its own input size")
    from maenas.spec import load_spec

    stored = load_spec(network)
    size = stored.detector.input
    return f"{stored.name} (id {stored.id}), {size.height}x{size.width}", lower(stored.detector)


@app.command()
def spaces(as_json: Json = False) -> None:
    """List the shipped search spaces with their sizes and depth bounds."""
    from maenas.nas.space import load_space, space_names
    from maenas.reports.text import columns

    loaded = [load_space(name) for name in space_names()]
    if as_json:
        rows = [{"name": s.name, "architectures": s.size, "block": s.block, "input": s.input_size} for s in loaded]
        print(json.dumps({"command": "spaces", "spaces": rows}))
        return
    table = [["space", "block", "input", "neck", "architectures", "layers"]]
    for s in loaded:
        layers = "by budget" if s.depth_bound.max_layers == "published" else str(s.depth_bound.max_layers)
        table.append([s.name, s.block, str(s.input_size), s.neck, f"{s.size:.2e}", layers])
    print(columns(table, left=2))
    print("\n" + "\n".join(f"{s.name}: {s.description}" for s in loaded))


@app.command()
def devices(as_json: Json = False) -> None:
    """List the device catalogue, and which devices are calibrated."""
    from maenas.latency.device import load_devices
    from maenas.latency.table import SETUPS
    from maenas.reports.text import columns

    catalogue = load_devices()
    if as_json:
        print(json.dumps({"command": "devices", "devices": {name: SETUPS.get(name, []) for name in catalogue}}))
        return
    table = [["device", "name", "SMs", "GB/s", "fp16 TFLOPS", "calibrated setups"]]
    for name, entry in catalogue.items():
        rate = "-" if entry.fp16_tflops is None else f"{entry.fp16_tflops.value:g}"
        setups = ", ".join(SETUPS.get(name, [])) or "none: constants that devices share"
        table.append(
            [name, entry.name, f"{entry.sm_count.value:g}", f"{entry.memory_bandwidth_gbs.value:g}", rate, setups]
        )
    print(columns(table, left=2))


@app.command()
def calibrate(
    data: Annotated[Path | None, typer.Argument(help="Published-latencies file. Default: the shipped T4 one.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the tables. Default: only print.")] = None,
) -> None:
    """Fit the latency model to measured whole networks; print residuals and leave-one-out errors."""
    from maenas.files import ensure_folder
    from maenas.latency.published import read_published
    from maenas.latency.table import calibrate_all, table_name, write_table
    from maenas.reports.text import format_calibration

    published = read_published(data)
    if out is not None:
        ensure_folder(out)
    for table in calibrate_all(published):
        print(format_calibration(table), end="\n\n")
        if out is not None:
            path = out / f"{table_name(table)}.json"
            write_table(path, table)
            print(f"wrote {path}\n")


@structure_app.command("import")
def structure_import(
    file: Annotated[Path, typer.Argument(help="Text with the list of entries.")],
    family: Annotated[str, typer.Option("--family", help="res, csp or mob: how the text is read.")],
    out: Annotated[Path, typer.Option("--out", help="Spec file to write.")],
    neck: Annotated[str, typer.Option("--neck", help="Neck and head preset.")] = "s",
    act: Annotated[str, typer.Option("--act", help="relu or silu.")] = "relu",
    stem: Annotated[str, typer.Option("--stem", help="focus, or conv (stride 2).")] = "focus",
    input_size: Annotated[int, typer.Option("--input", help="Side of the square input.")] = 640,
    classes: Classes = 80,
) -> None:
    """Turn the structure text of a published search into a detector spec."""
    from maenas.files import read_text
    from maenas.presets import get_neck_preset, make_head, make_neck
    from maenas.spec import DetectorSpec, InputSpec, write_spec
    from maenas.structure import parse_structure

    backbone = parse_structure(
        read_text(file, what="structure"),
        family=_choice("--family", family, ("res", "csp", "mob")),
        focus=_choice("--stem", stem, ("focus", "conv")) == "focus",
        act=_choice("--act", act, ("relu", "silu")),
        where=str(file),
    )
    preset = get_neck_preset(neck)
    size = InputSpec(input_size, input_size)
    detector = DetectorSpec(size, backbone, make_neck(preset, backbone.tap_channels), make_head(preset, classes))
    write_spec(out, detector, out.stem, {"source": f"structure text {file.name}, read as {family}"})
    print(f"wrote {out} (id {detector.id})")


@structure_app.command("export")
def structure_export(
    spec: Annotated[str, typer.Argument(help="A spec file, or the name of a shipped one.")],
    spelling: Annotated[str, typer.Option("--spelling", help="damo-yolo or nas-toolbox.")] = "damo-yolo",
) -> None:
    """Print the backbone of a spec as structure text."""
    from maenas.spec import load_spec
    from maenas.structure import format_structure

    chosen = _choice("--spelling", spelling, ("damo-yolo", "nas-toolbox"))
    print(format_structure(load_spec(spec).detector.backbone, spelling=chosen), end="")
