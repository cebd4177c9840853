"""`maenas.benchmark`: how long detection takes, stage by stage, measured and predicted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from detector.benchmark import Row, Subject, library_conditions
from detector.benchmark import benchmark as time_subjects
from detector.choices import RuntimeName
from detector.subjects import make_subjects, read_pictures
from maenas import __version__
from maenas.api.several import texts
from maenas.deploy.clock import TimingSettings
from maenas.errors import MaenasError
from maenas.latency.find import THIS_MACHINE, processor, tables_here
from maenas.latency.predictor import load_predictor, predict, provenance_word
from maenas.lowering import lower

FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Predicted:
    """What a latency table says of a network, in ms with its 90 % interval, and of which setup it is."""

    ms: float
    low_ms: float
    high_ms: float
    kind: str
    device: str
    runtime: str
    nms_included: bool


@dataclass(frozen=True)
class Benchmark:
    """Rows in the order of files, threads and batches, each with its prediction if there is one; and the conditions."""

    rows: tuple[tuple[Row, Predicted | None], ...]
    conditions: Mapping[str, object]

    def document(self) -> dict[str, Any]:
        """Everything as plain data for JSON; times in ms of a batch."""
        rows = [_document(row, predicted) for row, predicted in self.rows]
        return {"conditions": dict(self.conditions), "rows": rows}


def benchmark(
    files: str | Path | Sequence[str | Path],
    *,
    batch: int | Sequence[int] = 1,
    threads: int | Sequence[int] | None = None,
    device: str = "auto",
    runtime: RuntimeName | None = None,
    images: str | None = None,
    conf: float | None = None,
    iou: float | None = None,
    table: str | None = None,
    rounds: int = 21,
    on_begin: Callable[[int], object] = lambda subjects: None,
    on_warm: Callable[[], object] = lambda: None,
    on_left_out: Callable[[str], object] = lambda message: None,
) -> Benchmark:
    """Time preprocessing, network and postprocessing of detectors, side by side.

    `files` are weights, folders of runs, ONNX files, engines, specs or shipped names; the other arguments are the
    options of `maenas benchmark`. `on_begin` is told how many setups there are, `on_warm` is called as each is warmed
    up, and `on_left_out` is told about images that cannot be read.
    Raises `MaenasError` for what cannot be loaded or run, and, before anything is timed, for a table of another setup
    than all of them.
    """
    if rounds < FEWEST_ROUNDS:
        raise MaenasError(f"rounds is {rounds}; a spread takes at least {FEWEST_ROUNDS}")
    names = texts(files)
    counts = (os.cpu_count() or 1,) if threads is None else _several(threads)
    pictures, pictured = read_pictures(images, on_left_out)
    started = _conditions(pictured, rounds)
    subjects = make_subjects(names, batches=_several(batch), threads=counts, device=device, runtime=runtime)
    predictions = [None if table is None else prediction(subject, table) for subject in subjects]
    if table is not None and not any(predictions):
        _refuse_table(subjects[0], table)
    on_begin(len(subjects))
    rows = time_subjects(
        subjects, pictures, settings=TimingSettings(rounds=rounds), conf=conf, iou=iou, on_warm=on_warm
    )
    conditions = {**started, **library_conditions(subjects), "conf": conf, "iou": iou}
    return Benchmark(tuple(zip(rows, predictions, strict=True)), conditions)


def _several(numbers: int | Sequence[int]) -> tuple[int, ...]:
    return (numbers,) if isinstance(numbers, int) else tuple(dict.fromkeys(numbers))


def _conditions(pictured: str, rounds: int) -> dict[str, object]:
    return {
        "maenas": __version__,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "images": pictured,
        "rounds": rounds,
        "clock": "wall; median and interquartile range",
    }


def prediction(subject: Subject, table: str) -> Predicted | None:
    """What the table predicts for the network of a subject; None where it is of another setup."""
    runtime = subject.runtime
    try:
        found = _table_of_setup(table, subject)
        predictor = load_predictor(found, precision=runtime.precision, batch=subject.batch)
    except MaenasError:
        return None
    conditions = predictor.conditions
    if conditions["kind"] != "modelled":
        library = runtime.library.partition(" ")[0]
        threads = conditions.get("measured_threads", str(subject.threads))
        if str(conditions["runtime"]).partition(" ")[0] != library or threads != str(subject.threads):
            return None
    found = predict(lower(runtime.spec), predictor)
    return Predicted(
        ms=found.seconds * 1e3,
        low_ms=found.low * 1e3,
        high_ms=found.high * 1e3,
        kind=provenance_word(predictor),
        device=predictor.device.id,
        runtime=str(conditions["runtime"]),
        nms_included=bool(conditions.get("nms_included")),
    )


def _table_of_setup(table: str, subject: Subject) -> str:
    """For "cpu", the file of this machine's table of that library, precision and number of threads, if there is one."""
    if table != THIS_MACHINE:
        return table
    runtime = subject.runtime
    wanted = (str(subject.threads), runtime.library.partition(" ")[0], runtime.precision)
    for path, found in tables_here():
        if (found.conditions.get("threads"), found.runtime.partition(" ")[0], found.precision) == wanted:
            return str(path)
    return table


def _refuse_table(subject: Subject, table: str) -> None:
    """Raise `MaenasError` that says why `table` predicts nothing of what is to be timed."""
    predictor = load_predictor(table)  # the reason, where there is none at all
    conditions = predictor.conditions
    setup = f"{conditions['runtime']}, {predictor.precision}, batch {predictor.batch}"
    threads = conditions.get("measured_threads")
    raise MaenasError(
        f"--table {table} is of another setup ({setup}{f', {threads} threads' if threads else ''}) than what would be "
        f"timed ({subject.runtime.library}, {subject.runtime.precision}); see --runtime, --batch and --threads"
    )


def _document(row: Row, predicted: Predicted | None) -> dict[str, Any]:
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
        "predicted": None if predicted is None else asdict(predicted),
    }
