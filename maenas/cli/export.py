"""`maenas export`: weights -> ONNX file or TensorRT engine, in fp32, fp16 or int8."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from maenas.cli.detect import Conf, Iou, require_packages
from maenas.errors import MaenasError

MAX_BATCH = 256
CHECKED_IMAGES = 4


@dataclass(frozen=True)
class _Job:
    """Options that belong together; `images` and `data` are sources of pictures."""

    precision: str
    rest: str
    images: str | None
    data: str | None
    calibration: str
    calibration_images: int
    max_drop: float | None
    sensitivity: str


def export_command(
    weights: Annotated[Path, typer.Argument(help="Weights (.safetensors).")],
    format_: Annotated[
        str, typer.Option("--format", help="onnx, or engine: built by TensorRT for this machine's GPU.")
    ] = "onnx",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, fp16 or int8, of convolutions; boxes are always fp32.")
    ] = "fp32",
    nms: Annotated[str, typer.Option("--nms", help="none: all scores and boxes. in-graph: detections.")] = "none",
    batch: Annotated[str, typer.Option("--batch", help="Images at once: a number, or (onnx) dynamic.")] = "1",
    size: Annotated[int | None, typer.Option("--size", help="Side of the square input. [default: the spec's]")] = None,
    conf: Conf = 0.05,
    iou: Iou = 0.7,
    max_det: Annotated[int, typer.Option("--max-det", help="Most detections of an image (with --nms in-graph).")] = 100,
    candidates: Annotated[int, typer.Option("--candidates", help="Best pairs of box and class that compete.")] = 512,
    images: Annotated[
        str | None, typer.Option("--images", help="Images to check the export on, and to calibrate int8 with.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data set: int8 is calibrated on its training images, AP measured on the others."),
    ] = None,
    calibration: Annotated[
        str, typer.Option("--calibration", help="Ranges of int8: entropy, percentile or minmax.")
    ] = "percentile",
    calibration_images: Annotated[int, typer.Option("--calibration-images", help="How many.")] = 32,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", help="int8: leave sensitive convolutions out until AP drops by at most this."),
    ] = None,
    sensitivity: Annotated[
        str,
        typer.Option(
            "--sensitivity",
            help="With --max-drop, of layers: output (its error), or ap, too (on the calibration images; slow).",
        ),
    ] = "output",
    rest: Annotated[
        str, typer.Option("--rest", help="Precision of what int8 leaves: fp16, or fp32 for runtimes on CPUs.")
    ] = "fp16",
    opt_level: Annotated[int, typer.Option("--opt-level", help="Of the TensorRT builder, 0 to 5.")] = 3,
    workspace: Annotated[str, typer.Option("--workspace", help="Memory for TensorRT's tactics.")] = "2GiB",
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="TensorRT's timing cache, made if missing.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File. [default: named after the weights]")] = None,
) -> None:
    """Write a detector as an ONNX file or an engine, after checking that it computes what torch computes."""
    from maenas.units import parse_bytes

    for option, value, known in (
        ("--format", format_, ("onnx", "engine")),
        ("--precision", precision, ("fp32", "fp16", "int8")),
        ("--nms", nms, ("none", "in-graph")),
        ("--calibration", calibration, ("entropy", "percentile", "minmax")),
        ("--sensitivity", sensitivity, ("output", "ap")),
        ("--rest", rest, ("fp16", "fp32") if format_ == "onnx" else ("fp16",)),
    ):
        if value not in known:
            raise MaenasError(f"{option} is {value!r}; choose {', '.join(known)}")
    _require_batch(batch, format_)
    _require_calibration(precision, images, data, calibration_images, max_drop)
    if sensitivity == "ap" and max_drop is None:
        raise MaenasError("--sensitivity chooses layers for --max-drop: give that, too")
    require_packages("torch", "torchvision", "cv2", "PIL", "safetensors", "onnx", "onnxruntime")
    from detector.export.metadata import NmsSettings
    from detector.export.onnx import ExportSettings

    builder = None
    if format_ == "engine":
        from maenas.deploy.engine import EngineBuilder

        builder = EngineBuilder(opt_level=opt_level, timing_cache=timing_cache, workspace_bytes=parse_bytes(workspace))
    settings = ExportSettings(
        size=size,
        batch=None if batch == "dynamic" else int(batch),
        precision=rest if precision == "int8" else precision,  # type: ignore[arg-type]
        nms=NmsSettings(conf, iou, max_det, candidates) if nms == "in-graph" else None,
    )
    job = _Job(precision, rest, images, data, calibration, calibration_images, max_drop, sensitivity)
    target = out or weights.with_suffix(f".{format_}")
    model = _checked_model(weights, settings, job, target)
    if builder is None:
        _write_onnx(model, target)
    else:
        _write_engine(model, builder, target)


def _require_batch(batch: str, format_: str) -> None:
    dynamic = format_ == "onnx" and batch == "dynamic"
    if not dynamic and (not re.fullmatch(r"[0-9]{1,4}", batch) or not 1 <= int(batch) <= MAX_BATCH):
        hint = ", or dynamic" if format_ == "onnx" else " for an engine"
        raise MaenasError(f"--batch is {batch!r}; it must be 1 to {MAX_BATCH}{hint}")


def _require_calibration(
    precision: str, images: str | None, data: str | None, count: int, max_drop: float | None
) -> None:
    if precision != "int8":
        if max_drop is not None:
            raise MaenasError("--max-drop is for --precision int8")
        return
    if images is None and data is None:
        raise MaenasError("int8 is calibrated on images as the detector will see: give --data or --images")
    if max_drop is not None and data is None:
        raise MaenasError("--max-drop compares average precision: give --data")
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise MaenasError(f"--max-drop is {max_drop:g}; AP is 0 to 1")
    if count < 1:
        raise MaenasError(f"--calibration-images is {count}; it must be at least 1")


def _checked_model(path: Path, settings: Any, job: _Job, out: Path) -> Any:
    """The model to write; prints what the checks found, and writes the report of a quantisation."""
    from detector.export.onnx import resized, to_onnx
    from detector.export.parity import check_parity, natural_images
    from detector.images import read_image
    from detector.model.deploy import deploy
    from detector.model.weights import load_net
    from detector.sources import find_images
    from maenas.files import ensure_folder

    ensure_folder(out.resolve().parent)
    net, weights = load_net(path)
    deployed = deploy(net)
    model = to_onnx(deployed, weights.names, settings, weights.spec_file)
    size = resized(weights.spec, settings.size).input
    if job.images is None:
        pictures = natural_images(CHECKED_IMAGES, size)
    else:
        pictures = [read_image(file) for file in find_images(job.images)[:CHECKED_IMAGES]]
    parity = check_parity(model, deployed, pictures, size, precision=settings.precision, nms=settings.nms)
    compared = f"boxes within {parity.boxes:.1e} of the input's side, scores within {parity.scores:.1e}"
    if parity.detections is not None:
        compared += f", the same {parity.detections} detections as torchvision's suppression"
    print(f"checked against torch on {parity.images} images ({settings.precision}): {compared}", flush=True)
    if job.precision == "int8":
        model = _quantized(model, deployed, weights.names, settings, job, out)
    return model


def _quantized(model: Any, deployed: Any, names: tuple[str, ...], settings: Any, job: _Job, out: Path) -> Any:
    """The model in int8. Ranges and layers are found on the fp32 model without suppression, one image at a time."""
    from tqdm import tqdm

    from detector.data.dataset import align_names, open_dataset
    from detector.export.onnx import ExportSettings, resized, to_onnx
    from detector.export.quantize import conv_names, quantize_all, quantize_within
    from maenas.files import write_atomic

    plain = to_onnx(deployed, names, ExportSettings(size=settings.size))
    size = resized(deployed.spec, settings.size).input
    images = _calibration_images(job, names, size)
    measure = layer_ap = None
    if job.data is not None:
        measure = _ap_meter(align_names(open_dataset(job.data, "val"), names))
        layer_ap = None if job.sensitivity == "output" else _ap_meter(_calibration_set(job, names))
    method: Any = job.calibration
    if measure is not None and job.max_drop is not None:
        quiet = not sys.stderr.isatty()
        with tqdm(total=len(conv_names(plain)), unit=" layers", desc="sensitivity", disable=quiet, leave=False) as bar:
            found = quantize_within(
                plain,
                model,
                images,
                method,
                max_drop=job.max_drop,
                measure_ap=measure,
                layer_ap=layer_ap,
                on_layer=bar.update,
            )
    else:
        found = quantize_all(plain, images, method)
    result = found.apply(model)
    before = after = None
    if measure is not None:
        before = found.ap_before if found.ap_before is not None else measure(plain)
        after = measure(result)
    document = {**found.document(), "ap_before": before, "ap_of_the_file": after, "rest": job.rest, "data": job.data}
    report = Path(f"{out}.quantization.json")
    write_atomic(report, json.dumps(document, indent=1) + "\n")
    print(_quantization_text(found, len(conv_names(plain)), before, after, job))
    print(f"wrote {report}")
    return result


def _calibration_images(job: _Job, names: tuple[str, ...], size: Any) -> list[Any]:
    """Batches of one image, evenly spread over the source."""
    from detector.data.loader import eval_batches
    from detector.images import normalise, prepare, read_image, stack
    from detector.sources import find_images

    if job.data is None:
        assert job.images is not None
        files = _spread(find_images(job.images), job.calibration_images)
        return [normalise(stack([prepare(read_image(file), size)[0]]), size) for file in files]
    return [normalise(batch.images, size) for batch in eval_batches(_calibration_set(job, names), size, batch_size=1)]


def _calibration_set(job: _Job, names: tuple[str, ...]) -> Any:
    """Training images to calibrate on."""
    from detector.data.dataset import align_names, open_dataset

    assert job.data is not None
    dataset = align_names(open_dataset(job.data, "train"), names)
    return replace(dataset, samples=tuple(_spread(dataset.samples, job.calibration_images)))


def _spread(items: Any, count: int) -> list[Any]:
    """`count` of the items, or all where there are fewer, evenly spaced."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _ap_meter(dataset: Any) -> Any:
    """A function from an exported model to its AP on a data set, in ONNX Runtime on the CPU."""
    from detector.distributed import World
    from detector.evaluate import evaluate
    from detector.predict import Detector
    from detector.runtime.onnx import onnx_runtime
    from detector.validate import detect_dataset, lowest_thresholds

    def measure(model: Any) -> float:
        detector = Detector.of(onnx_runtime(model.SerializeToString(), "cpu", where="the quantised model"))
        conf, iou = lowest_thresholds(detector)
        found = detect_dataset(detector, dataset, World(0, 1, detector.device), conf=conf, iou=iou)
        return evaluate(dataset, found).summary["AP"] or 0.0

    return measure


def _quantization_text(found: Any, layers: int, before: float | None, after: float | None, job: _Job) -> str:
    lines = [
        f"int8: {layers - len(found.keep)} of {layers} convolutions, the rest {job.rest}; ranges by {found.method} of "
        f"{found.images} images; outputs change by {found.error:.3g}"
    ]
    if before is not None and after is not None:
        lines.append(f"AP {before:.4f} in fp32, {after:.4f} in this file ({after - before:+.4f}), by ONNX Runtime")
    if found.trades:
        from maenas.reports.text import columns

        rows = [["layers kept", "AP"], *([str(trade.kept), f"{trade.ap:.4f}"] for trade in found.trades)]
        lines += [columns(rows, left=0)]
        rows = [["most sensitive", "change", "AP alone"]]
        for row in found.sensitivities[:8]:
            rows.append([row.layer, f"{row.error:.3g}", "" if row.ap is None else f"{row.ap:.4f}"])
        shown = 2 if found.sensitivities[0].ap is None else 3
        lines += [columns([row[:shown] for row in rows])]
    return "\n".join(lines)


def _write_onnx(model: Any, out: Path) -> None:
    from detector.export.onnx import count_nodes, describe_ends
    from maenas.files import write_atomic
    from maenas.units import format_bytes

    data = model.SerializeToString()
    write_atomic(out, data)
    nodes = count_nodes(model)
    print(f"wrote {out}: {format_bytes(len(data))}, {sum(nodes.values())} nodes ({nodes['Conv']} convolutions)")
    print(describe_ends(model))


def _write_engine(model: Any, builder: Any, out: Path) -> None:
    from detector.export.engine import build_engine, card_path, write_engine
    from detector.export.onnx import describe_ends
    from maenas.units import format_bytes

    plan, card = build_engine(model, builder)
    write_engine(out, plan, card)
    read_from = "the engine" if card.precision_read_from == "engine" else "the network that TensorRT parsed"
    print(f"wrote {out} and {card_path(out).name}: {format_bytes(len(plan))}, {card.runtime}, {card.gpu or 'no GPU'}")
    print(f"convolutions are {card.export.precision}, read from {read_from}")
    print(describe_ends(model))
