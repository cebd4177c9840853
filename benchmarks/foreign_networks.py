"""How well tables predict networks that maenas did not make: classifiers and detectors of others on this CPU.

Usage: python benchmarks/foreign_networks.py --table TABLE [--table TABLE] [--graphs FILE] [--passes 5]
       python benchmarks/foreign_networks.py --table TABLE [--table TABLE] --files FILE.onnx ... --result FILE

Every network becomes an ONNX file with random weights. It is predicted from each table, which must have been measured
on this processor (`maenas profile --device cpu --clock cpu`), and then run by the runtime and the clock of that table.
Predictions are made before anything is timed. All networks are timed in several passes, minutes apart, and the median
of a network's passes counts: a machine that others use has slow minutes. Networks are those of `--files`, ONNX files
with fixed sizes and one image as input, or come from two places:

- torchvision, by its own functions: classifiers, and the bodies of its detectors (backbone and head, no suppression),
  each at two input sizes;
- node lists of other families (`--graphs`, `graphs.json.gz`, in the form that `kernels_from_json` reads), rebuilt node
  by node. A list is of one input size, so only families that it holds twice come at two.

What cannot be predicted is listed with the reason. The result holds each network and, for each runtime, mean and worst
error, the rank correlation, and how many measured times lie in the 90 % interval. Nothing else should be running.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torchvision
from foreign_graphs import model_of
from torch import nn
from tqdm import tqdm

from maenas.deploy.clock import TimingSettings, measure, warm_up
from maenas.errors import MaenasError
from maenas.files import write_atomic
from maenas.latency.onnx.lower import lower_onnx
from maenas.latency.onnx.predict import predict_graph
from maenas.latency.predictor import load_predictor
from maenas.profiler.profile import conditions_of
from maenas.profiler.validate import kendall_tau
from maenas.profiler.verify import clock_of_table

RESULT = Path(__file__).resolve().parent / "results" / "foreign_networks.json"
CLASSIFIERS = (
    *("resnet18", "resnet50", "resnext50_32x4d", "regnet_y_400mf", "regnet_x_800mf", "mobilenet_v2"),
    *(
        "mobilenet_v3_large",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "convnext_tiny",
        "densenet121",
        "shufflenet_v2_x1_0",
    ),
    *("squeezenet1_1", "mnasnet1_0", "inception_v3", "swin_t"),
)
DETECTORS = ("ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn", "fcos_resnet50_fpn")
SIDES = {"classifier": (224, 160), "detector": (320, 224)}
LISTED = (
    *("yolov8n-320", "yolov8n-640", "yolov9t-320", "yolov9t-640", "yolov10n-320", "yolov10n-640", "yolo11n-640"),
    *("yolo26n-640", "yolov5n-640", "yolox-n-640", "yolox-t-416", "yolox-t-640", "yolov8n-cls-224", "mixnet_s-224"),
    *("regnety_002-224", "res2net50_26w_4s-224", "hrnet_w18-224", "dla34-224"),
)


@dataclass(frozen=True)
class Network:
    """A network's name, input side (None: what its file has) and ONNX file."""

    name: str
    side: int | None
    file: Path


class Body(nn.Module):
    """A detector of torchvision without what comes before its backbone and after its head."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The head's outputs, in the order of their names."""
        outputs = self.head(list(self.backbone(images).values()))
        return [outputs[name] for name in sorted(outputs)]


def from_torchvision(folder: Path) -> Iterator[Network]:
    """Each network at each of its sizes; a Vision Transformer is made for its size."""
    for name in CLASSIFIERS:
        network = torchvision.models.get_model(name, weights=None)
        yield from (exported(name, network, side, folder) for side in SIDES["classifier"])
    for side in SIDES["classifier"]:
        yield exported("vit_b_16", torchvision.models.vit_b_16(image_size=side), side, folder)
    for name in DETECTORS:
        body = Body(torchvision.models.get_model(name, weights=None, weights_backbone=None))
        yield from (exported(name, body, side, folder) for side in SIDES["detector"])


def exported(name: str, network: nn.Module, side: int, folder: Path) -> Network:
    """`network` in evaluation mode as an ONNX file for one image of a side."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after a training: activations keep their scale
            layer.running_var.uniform_(0.5, 1.5)
    file = folder / f"{name}-{side}.onnx"
    program = torch.onnx.export(network.eval(), (torch.zeros(1, 3, side, side),), dynamo=True, verbose=False)
    assert program is not None
    program.save(str(file))
    return Network(name, side, file)


def from_graphs(graphs: Mapping[str, Any], folder: Path) -> Iterator[Network]:
    for key in LISTED:
        name, _, side = key.rpartition("-")
        file = folder / f"{key}.onnx"
        file.write_bytes(model_of(graphs[key], np.random.default_rng(0)).SerializeToString())
        yield Network(name, int(side), file)


def prediction(network: Network, table: str) -> dict[str, Any]:
    """The row of a network before it is timed: predicted times and shares, or why it is refused."""
    row: dict[str, Any] = {"network": network.name, "side": network.side}
    try:
        found = predict_graph(lower_onnx(network.file), load_predictor(table))
    except MaenasError as error:
        return row | {"refused": str(error).replace(str(network.file), network.file.name)}
    ms = found.prediction
    return row | {
        "predicted_ms": round(ms.seconds * 1e3, 4),
        "interval_ms": [round(ms.low * 1e3, 4), round(ms.high * 1e3, 4)],
        "estimated_share": round(ms.estimated_seconds / ms.seconds, 4),
        "guessed_share": round(found.unmodelled_share, 4),
        "guessed": [part.op for part in found.unmodelled],
        "untimed": {op: count for op, count in found.untimed},
    }


def timed(networks: list[Network], backend: Any, passes: int) -> list[dict[str, Any]]:
    """Median of each network's medians in `passes` passes, one network at a time in memory; and all of them."""
    settings, seconds = TimingSettings(), np.empty((passes, len(networks)))
    for at, network in tqdm(list(np.ndindex(seconds.shape)), desc=backend.runtime, disable=not sys.stderr.isatty()):
        runner = backend.build_model(networks[network].file.read_bytes())
        warm_up(runner.time_once, settings)
        (timing,) = measure([runner.time_once], rng=np.random.default_rng(0), settings=settings)
        runner.close()
        seconds[at, network] = timing.median_s
    ms = seconds.T * 1e3
    return [{"measured_ms": round(float(np.median(row)), 4), "passes_ms": row.round(4).tolist()} for row in ms]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the networks that were predicted."""
    known = [row for row in rows if "predicted_ms" in row]
    wrong = [abs(row["predicted_ms"] / row["measured_ms"] - 1) for row in known]
    inside = [row["interval_ms"][0] <= row["measured_ms"] <= row["interval_ms"][1] for row in known]
    worst = max(range(len(known)), key=wrong.__getitem__)
    return {
        "networks": len(known),
        "refused": len(rows) - len(known),
        "mape": round(statistics.fmean(wrong), 4),
        "worst": round(wrong[worst], 4),
        "worst_network": "-".join(str(known[worst][key]) for key in ("network", "side") if known[worst][key]),
        "kendall_tau": round(kendall_tau(*([row[key] for row in known] for key in ("predicted_ms", "measured_ms"))), 4),
        "inside_interval": round(statistics.fmean(inside), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="append", required=True, help="a CPU table of this machine; repeatable")
    parser.add_argument("--graphs", type=Path, help="node lists of other families; without: torchvision's only")
    parser.add_argument("--files", type=Path, nargs="+", default=[], help="ONNX files, in place of all others")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the ONNX files stay; default: a temporary folder")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.files and arguments.graphs:
        parser.error("give --files or --graphs")
    predictors = {table: load_predictor(table) for table in arguments.table}
    if any(predictor.precision != "fp32" for predictor in predictors.values()):
        parser.error("the networks are files in fp32: give tables that were measured in fp32")
    clocks = {table: clock_of_table(predictor) for table, predictor in predictors.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        networks = [Network(file.stem, None, file) for file in arguments.files] or list(from_torchvision(folder))
        if arguments.graphs is not None:
            with gzip.open(arguments.graphs) as file:
                networks += from_graphs(json.load(file), folder)
        document: dict[str, Any] = {
            "benchmark": "foreign_networks",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "onnx": onnx.__version__},
            "load_before": [round(load, 2) for load in os.getloadavg()],
            "runtimes": {},
        }
        for table in arguments.table:
            clock = clocks[table]
            rows = [prediction(network, table) for network in networks]
            measured = timed(networks, clock.backend, arguments.passes)
            rows = [row | timing for row, timing in zip(rows, measured, strict=True)]
            document["runtimes"][clock.backend.runtime] = {
                "table": Path(table).stem,
                "conditions": conditions_of(clock),
                "summary": summary(rows),
                "networks": rows,
            }
            print(clock.backend.runtime, summary(rows), flush=True)
            write_atomic(arguments.result, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
