"""`maenas detect`, `show` and `weights`: what one does with a network once there is one."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from maenas.latency.predictor import AnyPredictor
    from maenas.reports.networks import Graph

from maenas.errors import MaenasError, printable_line

weights_app = typer.Typer(help="Weights files of the detectors.", no_args_is_help=True)

WeightsFile = Annotated[
    Path, typer.Option("--weights", "-w", help="Weights (.safetensors), exported ONNX file, or engine.")
]
Conf = Annotated[float, typer.Option("--conf", help="Scores above this count.")]
Iou = Annotated[float, typer.Option("--iou", help="Overlap above which the better box of a class suppresses another.")]


def detect_command(
    source: Annotated[str, typer.Argument(help="An image, a folder, a pattern in quotes ('a/**/*.jpg'), or a video.")],
    weights: WeightsFile,
    conf: Conf = 0.25,
    iou: Iou = 0.7,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Only these classes, by name or number: person,car,7.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for what is written.")] = Path("detections"),
    save_txt: Annotated[bool, typer.Option("--save-txt", help="Write labels/NAME.txt (YOLO format).")] = False,
    save_json: Annotated[bool, typer.Option("--save-json", help="Write detections.json (COCO results).")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Find objects in images or a video, and draw them."""
    from tqdm import tqdm

    require_packages("torch", "torchvision", "cv2", "PIL", "safetensors")
    from detector.detect import DetectSettings, detect_images, detect_video
    from detector.predict import Detector
    from detector.sources import find_images, is_video

    paths = [] if is_video(source) else find_images(source)
    detector = Detector.load(weights, device)
    settings = DetectSettings(out, conf, iou, parse_classes(classes, detector.names), save_txt, save_json)
    quiet = not sys.stderr.isatty()
    with tqdm(total=len(paths) or None, unit=" images", desc="detect", disable=quiet, leave=False) as bar:
        if paths:
            summary = detect_images(detector, paths, settings, bar.update)
        else:

            def on_frame(total: int) -> None:
                bar.total = total or None
                bar.update()

            summary = detect_video(detector, Path(source), settings, on_frame)
    for message in summary.skipped:
        print(f"skipped: {message}", file=sys.stderr)
    counted = sorted(summary.counts.items(), key=lambda item: (-item[1], item[0]))
    found = ", ".join(f"{count} {printable_line(name)}" for name, count in counted) or "nothing"
    print(f"{summary.images} {'images' if paths else 'frames'}: {found}")
    print(f"wrote {out}")


def parse_classes(text: str | None, names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Labels of a list such as "person,7"; None for None. Raises `MaenasError` naming the nearest class."""
    import difflib

    if text is None:
        return None
    labels = []
    for part in (part.strip() for part in text.split(",")):
        if part in names:
            labels.append(names.index(part))
        elif re.fullmatch(r"[0-9]{1,9}", part) and int(part) < len(names):
            labels.append(int(part))
        else:
            nearest = difflib.get_close_matches(part, names, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else f"; the classes are {', '.join(names[:10])} ..."
            raise MaenasError(f"--classes: there is no class {part!r}{hint}")
    return tuple(dict.fromkeys(labels))


def show_command(
    network: Annotated[str, typer.Argument(help="A spec file, a shipped name, weights, or an ONNX file.")],
    device: Annotated[str, typer.Option("--device", help="Device or table file whose latency is shared out.")] = "t4",
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32, fp16 or int8. [default: a measured table's own, else fp16]")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the network into this file (.png, .svg, .pdf).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but one JSON document.")] = False,
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
        require_packages("matplotlib")
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


@weights_app.command("convert")
def weights_convert(
    old: Annotated[Path, typer.Argument(help="A published checkpoint (.pth).")],
    new: Annotated[Path, typer.Argument(help="File to write (.safetensors).")],
    spec: Annotated[str, typer.Option("--spec", help="The checkpoint's network: a spec file or a shipped name.")],
    names: Annotated[
        Path | None,
        typer.Option("--names", help="Text file with a class name a line. [default: COCO's for 80 classes]"),
    ] = None,
) -> None:
    """Turn a published checkpoint into a weights file with its spec and class names inside."""
    require_packages("torch", "safetensors")
    from detector.model.weights import read_published, write_weights
    from maenas.files import read_text
    from maenas.spec import load_spec

    lines = None if names is None else read_text(names, what="class names").splitlines()
    given = None if lines is None else tuple(line.strip() for line in lines if line.strip())
    weights = read_published(old, load_spec(spec).detector, given)
    write_weights(new, weights.state, weights.spec, weights.names, {"source": old.name})
    print(f"wrote {new}: {len(weights.state)} tensors, {len(weights.names)} classes, spec {weights.spec.id}")


def require_packages(*modules: str) -> None:
    """Raise `MaenasError` naming what to install where a package is missing."""
    import importlib.util

    packages = {"cv2": "opencv-python-headless", "PIL": "pillow"}
    missing = [packages.get(name, name) for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MaenasError(f"this needs {', '.join(missing)}: pip install {' '.join(missing)}")
