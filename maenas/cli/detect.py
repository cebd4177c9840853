"""`maenas detect`, `show` and `weights`: what one does with a network once there is one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maenas.choices import Precision
from maenas.cli.detector_options import AsJson, ConfOrOwn, Device, IouOrOwn, Runtime, WeightsFile
from maenas.cli.extras import require_extra, require_runtime
from maenas.cli.options import output_file, output_folder, output_plot
from maenas.errors import MaenasError, printable_line
from maenas.units import number_of

if TYPE_CHECKING:
    from detector.detect import DetectSummary
    from maenas.latency.predictor import AnyPredictor
    from maenas.reports.networks import Graph

weights_app = typer.Typer(help="Weights files of the detectors.", no_args_is_help=True)


def detect_command(
    source: Annotated[
        str,
        typer.Argument(
            help="An image, a folder, a pattern in quotes ('a/**/*.jpg'), a video, the number of a camera (0), or a "
            "stream (rtsp://, http://)."
        ),
    ],
    weights: WeightsFile,
    conf: ConfOrOwn = None,
    iou: IouOrOwn = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Only these classes, by name or number: person,car,7.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for what is written.", callback=output_folder)] = Path(
        "detections"
    ),
    save_txt: Annotated[bool, typer.Option("--save-txt", help="Write labels/NAME.txt (YOLO format).")] = False,
    save_json: Annotated[bool, typer.Option("--save-json", help="Write detections.json (COCO results).")] = False,
    frames: Annotated[
        int | None,
        typer.Option("--frames", help="Stop a video, camera or stream after this many.", min=1, max=10**9),
    ] = None,
    device: Device = "auto",
    runtime: Runtime = None,
) -> None:
    """Find objects in images, a video, or what a camera sees, and draw them. Exits with 1 for a video cut short."""
    require_runtime(runtime)
    from tqdm import tqdm

    from detector.detect import DetectSettings, class_labels, detect
    from detector.predict import Detector

    detector = Detector.load(weights, device, runtime=runtime)
    settings = DetectSettings(out, conf, iou, class_labels(classes, detector.names), save_txt, save_json, frames)
    with tqdm(unit=" images", desc="detect", disable=not sys.stderr.isatty(), leave=False) as bar:

        def on_image(total: int) -> None:
            bar.total = total or None
            bar.update()

        summary = detect(detector, source, settings, on_image)
    _print_summary(summary, out)
    if summary.cut_short is not None:
        raise typer.Exit(1)


def _print_summary(summary: DetectSummary, out: Path) -> None:
    for message in summary.skipped:
        print(f"skipped: {message}", file=sys.stderr)
    counted = sorted(summary.counts.items(), key=lambda item: (-item[1], item[0]))
    found = ", ".join(f"{count} {printable_line(name)}" for name, count in counted) or "nothing"
    print(f"{number_of(summary.images, summary.unit)}: {found}")
    if summary.cut_short is not None:
        print(f"cut short: {summary.cut_short}", file=sys.stderr)
    print(f"wrote {out}")
    if summary.older:
        print(f"note: {out} also holds {number_of(summary.older, 'file')} that this run did not write", file=sys.stderr)


def show_command(
    network: Annotated[
        str, typer.Argument(help="A spec file, a shipped name, weights, the folder of a run, or an ONNX file.")
    ],
    device: Annotated[
        str, typer.Option("--device", help="Device or table file whose latency is split over the layers.")
    ] = "t4",
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", help="Arithmetic.", show_default="a measured table's own, else fp16"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw the network into this file (.png, .svg, .pdf).", callback=output_plot),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a network: every layer with shapes, parameters, FLOPs and its share of the latency."""
    from maenas.latency.predictor import load_predictor
    from maenas.reports.network import format_layers, layers_document
    from maenas.reports.networks import Graph, read_network

    found = read_network(network)
    predictor = load_predictor(device, precision=precision)
    if isinstance(found, Graph):
        _show_graph(found, predictor, plot, as_json=as_json)
        return
    name, spec = found.name, found.spec
    if plot is not None:
        require_extra("plot")
        from maenas.reports.network_plot import plot_network

        plot_network(name, spec, predictor, plot)
    if as_json:
        print(json.dumps({"command": "show", "network": name, **layers_document(spec, predictor)}))
        return
    print(format_layers(name, spec, predictor))
    if plot is not None:
        print(f"\nwrote {plot}")


def _show_graph(found: Graph, predictor: AnyPredictor, plot: Path | None, *, as_json: bool) -> None:
    """A network of which only the kernels are known."""
    from maenas.reports.graph import format_graph, graph_document

    if plot is not None:
        raise MaenasError(f"--plot: {found.name} was not written by maenas, and nothing in it describes its detector")
    if as_json:
        print(
            json.dumps(
                {"command": "show", "network": found.name, **graph_document(found.lowered, predictor, layers=True)}
            )
        )
        return
    print(format_graph(found.name, found.lowered, predictor, layers=True))


@weights_app.command("inherit")
def weights_inherit(
    source: Annotated[Path, typer.Argument(help="Weights (.safetensors), or the folder of a run.")],
    spec: Annotated[str, typer.Option("--spec", help="The network that inherits: a spec file or a shipped name.")],
    out: Annotated[
        Path,
        typer.Option("--out", help="File to write (.safetensors), for train --finetune.", callback=output_file),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Data set to be trained on: its classes, and images for the statistics of batch norm."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of the weights that are not inherited.", min=0, max=2**63 - 1)
    ] = 0,
) -> None:
    """First weights for a network from a trained one of other widths and depths; `train --init` does it in one go."""
    require_extra("detector")
    from detector.warm_start import inherit_weights
    from maenas.reports.inherited import format_inherited

    weights, rows = inherit_weights(source, spec, out, data=data, seed=seed)
    print(format_inherited(rows))
    print(f"wrote {out}: {number_of(len(weights.names), 'class')}, spec {weights.spec.id}")


@weights_app.command("convert")
def weights_convert(
    old: Annotated[Path, typer.Argument(help="A published checkpoint (.pth).")],
    new: Annotated[Path, typer.Argument(help="File to write (.safetensors).", callback=output_file)],
    spec: Annotated[str, typer.Option("--spec", help="The checkpoint's network: a spec file or a shipped name.")],
    names: Annotated[
        Path | None,
        typer.Option("--names", help="Text file with one class name per line.", show_default="COCO's for 80 classes"),
    ] = None,
) -> None:
    """Turn a published checkpoint into a weights file with its spec and class names inside."""
    require_extra("detector")
    from detector.model.convert import convert_published

    weights = convert_published(old, new, spec=spec, names=names)
    classes = number_of(len(weights.names), "class")
    print(f"wrote {new}: {len(weights.state)} tensors, {classes}, spec {weights.spec.id}")
