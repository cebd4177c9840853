"""`maenas benchmark`: how long detection takes, stage by stage, measured and predicted."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from maenas.cli.detect import Conf, Iou, require_packages
from maenas.errors import MaenasError

MAX_BATCH = 1024
SYNTHETIC_IMAGES = 4


def benchmark_command(
    files: Annotated[
        list[str], typer.Argument(help="Weights, ONNX files, engines; a spec or shipped name runs with random weights.")
    ],
    batch: Annotated[str, typer.Option("--batch", help="Images at once; several: 1,8.")] = "1",
    threads: Annotated[
        str | None, typer.Option("--threads", help="Of the CPU; several: 1,2. [default: all cores]")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    runtime: Annotated[
        str, typer.Option("--runtime", help="What runs weights and specs: torch, or onnxruntime.")
    ] = "torch",
    images: Annotated[
        str | None, typer.Option("--images", help="Images to detect in. [default: synthetic ones, 640 x 480]")
    ] = None,
    conf: Conf = 0.25,
    iou: Iou = 0.7,
    table: Annotated[
        str | None, typer.Option("--table", help="Predict too: a device, a table, or cpu (measured on this machine).")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="How often everything is timed.")] = 21,
    out: Annotated[Path | None, typer.Option("--out", help="File for the results as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but one JSON document.")] = False,
) -> None:
    """Time preprocessing, network and postprocessing of detectors, side by side."""
    import os

    from tqdm import tqdm

    from maenas.deploy.clock import Settings
    from maenas.files import write_atomic

    if runtime not in ("torch", "onnxruntime"):
        raise MaenasError(f"--runtime is {runtime!r}; choose torch, onnxruntime")
    if rounds < 3:
        raise MaenasError(f"--rounds is {rounds}; a spread takes at least 3")
    batches = _numbers("--batch", batch, MAX_BATCH)
    counts = [os.cpu_count() or 1] if threads is None else _numbers("--threads", threads, 1024)
    require_packages("torch", "torchvision", "cv2", "PIL", "safetensors")
    from detector.benchmark import benchmark, library_conditions

    pictures, pictured = _pictures(images)
    started = _conditions(pictured, rounds)
    subjects = _subjects(files, batches, counts, device, runtime)
    with tqdm(total=len(subjects), desc="warm up", disable=as_json or not sys.stderr.isatty(), leave=False) as bar:
        rows = benchmark(subjects, pictures, settings=Settings(rounds=rounds), conf=conf, iou=iou, on_warm=bar.update)
    conditions = {**started, **library_conditions(subjects), "conf": conf, "iou": iou}
    predictions = [None if table is None else _prediction(row, table) for row in rows]
    if table is not None and not any(predictions):
        _refuse_table(rows[0], table)
    documents = [_document(row, prediction) for row, prediction in zip(rows, predictions, strict=True)]
    document = {"command": "benchmark", "conditions": conditions, "rows": documents}
    if out is not None:
        write_atomic(out, json.dumps(document, indent=1) + "\n")
    if as_json:
        print(json.dumps(document))
        return
    print(_text(documents, conditions, table))
    if out is not None:
        print(f"wrote {out}")


def _numbers(option: str, text: str, most: int) -> list[int]:
    parts = text.split(",")
    if not all(re.fullmatch(r"[0-9]{1,4}", part) and 1 <= int(part) <= most for part in parts):
        raise MaenasError(f"{option} is {text!r}; it must be numbers from 1 to {most}, such as 1 or 1,8")
    return list(dict.fromkeys(int(part) for part in parts))


def _pictures(source: str | None) -> tuple[list[Any], str]:
    """Images, and what they are."""
    from detector.export.parity import natural_images
    from detector.images import read_image
    from detector.sources import find_images
    from maenas.spec import InputSpec

    if source is None:
        return natural_images(SYNTHETIC_IMAGES, InputSpec(480, 640)), f"{SYNTHETIC_IMAGES} synthetic, 640x480"
    images, broken = [], []
    for file in find_images(source):
        try:
            images.append(read_image(file))
        except MaenasError as error:
            broken.append(error)
            print(f"left out: {error}", file=sys.stderr)
        if len(images) == MAX_BATCH:
            break
    if not images:
        raise MaenasError(f"{source}: none of the {len(broken)} images can be read; the first: {broken[0]}")
    sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in images})
    return images, f"{len(images)} of {source}, {', '.join(sizes[:4])}{' ...' if len(sizes) > 4 else ''}"


def _subjects(files: list[str], batches: list[int], counts: list[int], device: str, runtime: str) -> list[Any]:
    from detector.benchmark import Subject

    subjects = []
    for file in files:
        for threads in counts:
            loaded = _load(file, device, threads, runtime)
            for batch in batches:
                if loaded.batch not in (None, batch):
                    raise MaenasError(
                        f"{file} takes batches of {loaded.batch}, not {batch}; give --batch {loaded.batch}, or export "
                        "it with --batch dynamic"
                    )
                subjects.append(Subject(Path(file).name, loaded, batch, threads))
    return subjects


def _load(file: str, device: str, threads: int, runtime: str) -> Any:
    """The runtime of a file; a spec gets random weights."""
    from detector.benchmark import random_net
    from detector.device import choose_device
    from detector.model.weights import load_net
    from detector.runtime.load import load_runtime, torch_runtime
    from maenas.spec import load_spec

    suffix = Path(file).suffix.lower()
    if suffix in (".onnx", ".engine") or (suffix == ".safetensors" and runtime == "torch"):
        return load_runtime(file, device, threads=threads)
    if suffix == ".safetensors":
        net, weights = load_net(file)
        names = weights.names
    else:
        net, names = random_net(load_spec(file).detector)
    if runtime == "torch":
        return torch_runtime(net, names, choose_device(device))
    require_packages("onnx", "onnxruntime")
    from detector.export.onnx import ExportSettings, to_onnx
    from detector.model.deploy import deploy
    from detector.runtime.onnx import onnx_runtime

    model = to_onnx(deploy(net), names, ExportSettings(batch=None))
    return onnx_runtime(model.SerializeToString(), device, threads=threads, where=file)


def _conditions(pictured: str, rounds: int) -> dict[str, Any]:
    import os
    from datetime import UTC, datetime

    from maenas import __version__
    from maenas.latency.find import cpu_name

    return {
        "maenas": __version__,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "images": pictured,
        "rounds": rounds,
        "clock": "wall; median and interquartile range",
    }


def _prediction(row: Any, table: str) -> dict[str, Any] | None:
    """What the table predicts for the network of a row, in ms; None where it is of another setup."""
    from maenas.latency.predictor import load_predictor, predict, provenance_word
    from maenas.lowering import lower

    runtime = row.subject.runtime
    try:
        found = _table_of_threads(table, row.subject.threads)
        predictor = load_predictor(found, precision=runtime.precision, batch=row.subject.batch)
    except MaenasError:
        return None
    conditions = predictor.conditions
    if conditions["kind"] != "modelled":
        library = runtime.library.partition(" ")[0]
        threads = conditions.get("measured_threads", str(row.subject.threads))
        if str(conditions["runtime"]).partition(" ")[0] != library or threads != str(row.subject.threads):
            return None
    prediction = predict(lower(runtime.spec), predictor)
    return {
        "ms": prediction.seconds * 1e3,
        "low_ms": prediction.low * 1e3,
        "high_ms": prediction.high * 1e3,
        "kind": provenance_word(predictor),
        "device": predictor.device.id,
        "runtime": conditions["runtime"],
    }


def _table_of_threads(table: str, threads: int) -> str:
    """For "cpu", the file of this machine's table of that many threads, where there is one."""
    from maenas.latency.find import THIS_MACHINE, cpu_name, table_files
    from maenas.latency.measured import read_measured

    if table != THIS_MACHINE:
        return table
    wanted = (cpu_name(), str(threads))
    for path in table_files():
        conditions = read_measured(path).conditions
        if (conditions.get("hardware"), conditions.get("threads")) == wanted:
            return str(path)
    return table


def _refuse_table(row: Any, table: str) -> None:
    """Raise `MaenasError` that says why `table` predicts nothing that was timed."""
    from maenas.latency.predictor import load_predictor

    predictor = load_predictor(table)  # the reason, where there is none at all
    conditions = predictor.conditions
    setup = f"{conditions['runtime']}, {predictor.precision}, batch {predictor.batch}"
    threads = conditions.get("measured_threads")
    raise MaenasError(
        f"--table {table} is of another setup ({setup}{f', {threads} threads' if threads else ''}) than what was timed "
        f"({row.subject.runtime.library}, {row.subject.runtime.precision}); see --runtime, --batch and --threads"
    )


def _document(row: Any, prediction: dict[str, Any] | None) -> dict[str, Any]:
    runtime, subject = row.subject.runtime, row.subject
    size = runtime.spec.input
    stages = {
        name: {"ms": timing.median_s * 1e3, "iqr_ms": timing.iqr_s * 1e3, "samples": timing.samples}
        for name, timing in row.stages.items()
    }
    return {
        "name": subject.name,
        "spec_id": runtime.spec.id,
        "input": f"{size.height}x{size.width}",
        "runtime": runtime.library,
        "device": str(runtime.device),
        "precision": runtime.precision,
        "nms_in_network": runtime.nms is not None,
        "batch": subject.batch,
        "threads": subject.threads,
        "stages": stages,
        "images_per_s": row.images_per_s,
        "detections_per_image": row.detections,
        "predicted": prediction,
    }


def _text(documents: list[dict[str, Any]], conditions: dict[str, Any], table: str | None) -> str:
    from maenas.reports.text import columns

    header = ["name", "runtime", "input", "precision", "batch", "threads", "pre ms", "network ms", "IQR", "post ms"]
    header += ["total ms", "images/s", "boxes", *(["predicted ms"] if table is not None else [])]
    rows = [header]
    for row in documents:
        ms = {name: f"{stage['ms']:.2f}" for name, stage in row["stages"].items()}
        network = row["stages"]["network"]
        cells = [row["name"], row["runtime"], row["input"], row["precision"], str(row["batch"]), str(row["threads"])]
        cells += [ms["preprocessing"], ms["network"], f"{network['iqr_ms'] / network['ms']:.1%}", ms["postprocessing"]]
        cells += [ms["total"], f"{row['images_per_s']:.1f}", f"{row['detections_per_image']:.1f}"]
        if table is not None:
            cells.append("-" if row["predicted"] is None else f"{row['predicted']['ms']:.2f}")
        rows.append(cells)
    lines = [columns(rows, left=2), ""]
    where = conditions.get("gpu") or f"{conditions['cpu']}, {conditions['cores']} cores"
    lines.append(f"{where}; images: {conditions['images']}; times are of a batch, boxes of an image")
    predicted = [row["predicted"] for row in documents]
    kinds = {f"{p['kind']} ({p['device']}, {p['runtime']}), NMS not included" for p in predicted if p}
    lines += [f"predicted: {kind}" for kind in sorted(kinds)]
    wide = [
        row["name"] for row in documents if row["stages"]["network"]["iqr_ms"] > 0.05 * row["stages"]["network"]["ms"]
    ]
    if wide:
        lines.append("caution: an interquartile range above 5 % means that something else used the machine")
    return "\n".join(lines)
