"""Options that the commands of the detector share, each declared once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from detector.choices import RuntimeName


def _device(name: str) -> str:
    """A bare number is what others call a CUDA device."""
    if name.isdecimal():
        print(f"note: --device {name} is taken for cuda:{name}", file=sys.stderr)
        return f"cuda:{name}"
    return name


Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", callback=_device)]
Runtime = Annotated[
    RuntimeName | None,
    typer.Option(
        "--runtime",
        help="Library that runs it; all but torch export weights in memory. bf16: for CPUs with AVX512_BF16 or AMX.",
        show_default="torch for weights and specs, onnxruntime for ONNX files",
    ),
]
FORMS = (
    "COCO, YOLO, Pascal VOC, KITTI, DOTA, VisDrone, WIDER FACE, CSV, LabelMe, Supervisely, CVAT, Label Studio, VIA, "
    "CreateML, metadata.jsonl, Open Images, MOT"
)
DataSet = Annotated[
    str,
    typer.Option(
        "--data",
        help=f"A folder or file of annotated images ({FORMS}), or shapes: generated ones.",
    ),
]
WeightsFile = Annotated[
    Path,
    typer.Option("--weights", "-w", help="Folder of a run, weights (.safetensors), exported ONNX file, or engine."),
]
CONF_HELP = "Boxes with a score above this count."
IOU_HELP = "Overlap above which the better box of a class suppresses another."
Conf = Annotated[float, typer.Option("--conf", help=CONF_HELP, min=0, max=1)]
Iou = Annotated[float, typer.Option("--iou", help=IOU_HELP, min=0, max=1)]
OWN = "or what suppression in the file has"
ConfOrOwn = Annotated[float | None, typer.Option("--conf", help=CONF_HELP, show_default=f"0.25, {OWN}", min=0, max=1)]
IouOrOwn = Annotated[float | None, typer.Option("--iou", help=IOU_HELP, show_default=f"0.7, {OWN}", min=0, max=1)]
Side = Annotated[
    int | None,
    typer.Option("--size", help="Side of the square input.", show_default="the spec's", min=32, max=8192),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print nothing but one JSON document.")]
