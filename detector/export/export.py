"""Weights -> a checked ONNX file or engine, in one call.

report = export("runs/mine", nms="in-graph")
print(report.path, report.parity.boxes)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from detector.choices import Format, Method, Nms, Rest, Sensitive
from detector.export.engine import EngineCard, build_engine, card_path, write_engine
from detector.export.int8 import Int8Result, Int8Settings, quantize_model, report_path
from detector.export.metadata import NmsSettings
from detector.export.onnx import ExportSettings, count_nodes, describe_ends, to_onnx
from detector.export.parity import Parity, check_parity, natural_images
from detector.images import read_image
from detector.model.deploy import deploy
from detector.model.weights import load_net
from detector.sources import find_images
from maenas.deploy.engine import EngineBuilder
from maenas.errors import MaenasError
from maenas.files import write_atomic
from maenas.headers import FilePrecision, Int8Form
from maenas.outputs import check_file, same_file
from maenas.run_files import weights_path
from maenas.spec import resized
from maenas.units import parse_bytes
from maenas.unused import refuse_unused

MAX_BATCH = 256
CHECKED_IMAGES = 4


@dataclass(frozen=True)
class ExportReport:
    """The file that was written, and what was found on the way.

    `nodes` counts those of the ONNX graph by operator, `ends` are its inputs and outputs. `int8` is None in other
    precisions, `card` for an ONNX file.
    """

    path: Path
    bytes: int
    precision: FilePrecision
    parity: Parity
    nodes: dict[str, int]
    ends: str
    int8: Int8Result | None
    card: EngineCard | None


@dataclass(frozen=True)
class Watch:
    """What a caller hears while an export goes on: the check against torch, and each layer whose sensitivity is known
    (with the number of layers)."""

    on_checked: Callable[[Parity], object] = lambda parity: None
    on_layer: Callable[[int], object] = lambda layers: None


def export(
    weights: str | Path,
    *,
    format: Format = "onnx",
    precision: FilePrecision = "fp32",
    nms: Nms = "none",
    batch: int | Literal["dynamic"] = 1,
    size: int | None = None,
    conf: float = 0.05,
    iou: float = 0.7,
    max_det: int = 100,
    candidates: int = 512,
    images: str | None = None,
    data: str | None = None,
    calibration: Method = "percentile",
    calibration_images: int = 32,
    max_drop: float | None = None,
    sensitivity: Sensitive = "output",
    target: Int8Form = "tensorrt",
    rest: Rest | None = None,
    opt_level: int = 3,
    workspace: str = "2GiB",
    timing_cache: str | Path | None = None,
    out: str | Path | None = None,
    watch: Watch | None = None,
) -> ExportReport:
    """Write a detector as an ONNX file or an engine, after checking that it computes what torch computes.

    The arguments are the options of `maenas export`; `out` is named after the weights unless given. Raises
    `MaenasError` for arguments that do not fit together, for weights and images that cannot be read, where the export
    differs from torch, and where TensorRT cannot build the engine.
    """
    _refuse_unused(locals())
    path, watch = weights_path(weights), watch or Watch()
    rest = rest or ("fp32" if target == "cpu" else "fp16")
    if path.suffix.lower() in (".onnx", ".engine"):
        raise MaenasError(f"{path} is exported already; give the weights that it comes from, or their run")
    _require_fitting(format, precision, batch, rest, target)
    int8 = None
    if precision == "int8":
        int8 = Int8Settings(images, data, calibration, calibration_images, max_drop, sensitivity, rest, target)
    builder = None
    if format == "engine":
        cache = None if timing_cache is None else Path(timing_cache)
        builder = EngineBuilder(opt_level=opt_level, timing_cache=cache, workspace_bytes=parse_bytes(workspace))
    settings = ExportSettings(
        size=size,
        batch=None if batch == "dynamic" else batch,
        precision=rest if precision == "int8" else precision,
        nms=NmsSettings(conf, iou, max_det, candidates) if nms == "in-graph" else None,
    )
    file_out = path.with_suffix(f".{format}") if out is None else Path(out)
    _require_place(file_out, path, format)
    model, parity, quantized, pictures = _checked_model(path, settings, images, int8, watch)
    report = _write(file_out, model, parity, builder, pictures)
    report_path(file_out).unlink(missing_ok=True)  # it is of the file that was there before
    if quantized is None:
        return report
    write_atomic(report_path(file_out), json.dumps(quantized.document(), indent=1) + "\n")
    return replace(report, precision="int8", int8=quantized)


def _refuse_unused(given: Mapping[str, object]) -> None:
    """Raise `MaenasError` for arguments of `export` that nothing would come of."""
    if given["nms"] != "in-graph":
        refuse_unused(export, given, ("conf", "iou", "max_det", "candidates"), needs="--nms in-graph")
    if given["precision"] != "int8":
        names = ("data", "calibration", "calibration_images", "max_drop", "sensitivity", "target", "rest")
        refuse_unused(export, given, names, needs="--precision int8")
    if given["format"] != "engine":
        refuse_unused(export, given, ("opt_level", "workspace", "timing_cache"), needs="--format engine")


def _require_place(out: Path, weights: Path, format: Format) -> None:
    """Raise `MaenasError` where the files cannot be written, or are not what they are called."""
    for file in (out, report_path(out), card_path(out)):
        check_file(file)
        if same_file(file, weights):
            raise MaenasError(f"{file} holds the weights to export; choose another file to write")
    if out.suffix.lower() != f".{format}":
        like = "; it is called like an engine: export one with --format engine" if out.suffix == ".engine" else ""
        raise MaenasError(f"{out}: give it the ending .{format}, by which it is known{like}")


def _require_fitting(
    format: Format,
    precision: FilePrecision,
    batch: int | Literal["dynamic"],
    rest: Rest,
    target: Int8Form,
) -> None:
    if not (format == "onnx" and batch == "dynamic") and not (isinstance(batch, int) and 1 <= batch <= MAX_BATCH):
        hint = ", or dynamic" if format == "onnx" else " for an engine"
        raise MaenasError(f"--batch is {batch!r}; it must be 1 to {MAX_BATCH}{hint}")
    if target == "cpu" and (format, precision, rest) != ("onnx", "int8", "fp32"):
        raise MaenasError("--target cpu is for ONNX files of --precision int8 whose rest is fp32")
    if format == "engine" and rest != "fp16":
        raise MaenasError(f"--rest is {rest!r}; an engine takes fp16 only")


def _checked_model(
    path: Path, settings: ExportSettings, images: str | None, int8: Int8Settings | None, watch: Watch
) -> tuple[onnx.ModelProto, Parity, Int8Result | None, list[np.ndarray]]:
    """The model to write, what the check against torch found, the quantisation, and the pictures of the check."""
    net, weights = load_net(path)
    deployed = deploy(net)
    model = to_onnx(deployed, weights.names, settings, weights.spec_file)
    size = resized(weights.spec, settings.size).input
    if images is None:
        pictures = natural_images(CHECKED_IMAGES, size)
    else:
        pictures = [read_image(file) for file in find_images(images)[:CHECKED_IMAGES]]
    parity = check_parity(model, deployed, pictures, size, precision=settings.precision, nms=settings.nms)
    watch.on_checked(parity)
    if int8 is None:
        return model, parity, None, pictures
    model, quantized = quantize_model(model, deployed, weights.names, settings.size, int8, watch.on_layer)
    return model, parity, quantized, pictures


def _write(
    out: Path, model: onnx.ModelProto, parity: Parity, builder: EngineBuilder | None, pictures: Sequence[np.ndarray]
) -> ExportReport:
    nodes, ends = count_nodes(model), describe_ends(model)
    if builder is None:
        data = model.SerializeToString()
        write_atomic(out, data)
        return ExportReport(out, len(data), parity.precision, parity, nodes, ends, None, None)
    plan, card = build_engine(model, builder, pictures)
    write_engine(out, plan, card)
    return ExportReport(out, len(plan), card.export.precision, parity, nodes, ends, None, card)
