"""How far off is a modelled GPU for detectors with transformers, which no setup is calibrated on?

Usage: python benchmarks/attention_detectors.py [--device t4] [--folder FOLDER]    (needs `pip install transformers`)

RT-DETR (arXiv 2304.08069) and D-FINE (arXiv 2410.13842) in all published sizes become ONNX files of 640 x 640 pixels
with random weights, made by the transformers library from the published figures. Each is predicted and compared with
the latency that its authors published for a T4 (TensorRT, fp16, batch 1). The parameters of every network must be the
published ones within 5 %, or nothing is printed.

With `--folder` the files stay there, for `foreign_networks.py --files`, which measures them on a CPU. Writes
benchmarks/results/attention_detectors.json, and kernels and latencies as benchmarks/data/attention_detectors.json.gz,
from which `maenas calibrate FILE --out latency_tables` makes the table of t4@detr-papers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from tqdm import tqdm

from maenas.files import write_atomic
from maenas.latency.onnx.lower import lower_onnx
from maenas.latency.onnx.predict import predict_graph
from maenas.latency.predictor import load_predictor
from maenas.latency.published import Published, PublishedLatency, PublishedNetwork, PublishedSetup, kernel_rows
from maenas.reports.text import columns

HERE = Path(__file__).resolve().parent
RESULT, DATA = HERE / "results" / "attention_detectors.json", HERE / "data" / "attention_detectors.json.gz"
SETUP = PublishedSetup(
    setup="detr-papers",
    device="t4",
    runtime="TensorRT (10.4 for D-FINE, not stated for RT-DETR)",
    precision="fp16",
    batch=1,
    nms_included=False,
    conditions="input 640x640; two laboratories, clocks not stated; no suppression needed",
    source="tables of the papers: RT-DETR (arXiv 2304.08069, frames per second), D-FINE (arXiv 2410.13842)",
)
SIDE = 640


@dataclass(frozen=True)
class Paper:
    """Millions of parameters and T4 milliseconds of a detector, and what its configuration has of its own."""

    params: float
    ms: float
    backbone: Mapping[str, Any]
    detector: Mapping[str, Any]


def _resnet(kind: str, *depths: int) -> dict[str, Any]:
    widths = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    return {"layer_type": kind, "depths": list(depths), "hidden_sizes": widths, "downsample_in_bottleneck": False}


def _hgnet(stem: list[int], ins: list[int], mids: list[int], outs: list[int], blocks: list[int], layers: int) -> dict:
    return {
        "stem_channels": stem,
        "stage_in_channels": ins,
        "stage_mid_channels": mids,
        "stage_out_channels": outs,
        "hidden_sizes": outs,
        "stage_num_blocks": blocks,
        "stage_numb_of_layers": [layers] * 4,
    }


B0 = _hgnet([3, 16, 16], [16, 64, 256, 512], [16, 32, 64, 128], [64, 256, 512, 1024], [1, 1, 2, 1], 3)
B2 = _hgnet([3, 24, 32], [32, 96, 384, 768], [32, 64, 128, 256], [96, 384, 768, 1536], [1, 1, 3, 1], 4)
B4 = _hgnet([3, 32, 48], [48, 128, 512, 1024], [48, 96, 192, 384], [128, 512, 1024, 2048], [1, 1, 3, 1], 6)
B5 = _hgnet([3, 32, 64], [64, 128, 512, 1024], [64, 128, 256, 512], [128, 512, 1024, 2048], [1, 2, 5, 2], 6)
WIDE = {"encoder_hidden_dim": 384, "encoder_ffn_dim": 2048, "decoder_in_channels": [384] * 3}
SLIM = {"hidden_expansion": 0.5}
POINTS = {"decoder_n_points": [3, 6, 3]}
NANO = {
    "encoder_hidden_dim": 128,
    "d_model": 128,
    "encoder_in_channels": [512, 1024],
    "feat_strides": [16, 32],
    "num_feature_levels": 2,
    "encode_proj_layers": [1],
    "decoder_n_points": [6, 6],
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "hidden_expansion": 0.34,
    "depth_mult": 0.5,
    "decoder_layers": 3,
    "decoder_in_channels": [128, 128],
    "decoder_n_levels": 2,
}

DETECTORS: Mapping[str, Paper] = {
    "RT-DETR-R18": Paper(20, 1e3 / 217, _resnet("basic", 2, 2, 2, 2), {"decoder_layers": 3, "hidden_expansion": 0.5}),
    "RT-DETR-R34": Paper(31, 1e3 / 161, _resnet("basic", 3, 4, 6, 3), {"decoder_layers": 4, "hidden_expansion": 0.5}),
    "RT-DETR-R50": Paper(42, 1e3 / 108, _resnet("bottleneck", 3, 4, 6, 3), {}),
    "RT-DETR-R101": Paper(76, 1e3 / 74, _resnet("bottleneck", 3, 4, 23, 3), WIDE),
    "D-FINE-N": Paper(3.7, 2.12, B0, NANO),
    "D-FINE-S": Paper(10.2, 3.49, B0, POINTS | SLIM | {"depth_mult": 0.34, "decoder_layers": 3}),
    "D-FINE-M": Paper(19.2, 5.62, B2, POINTS | {"depth_mult": 0.67, "decoder_layers": 4}),
    "D-FINE-L": Paper(31, 8.07, B4, POINTS),
    "D-FINE-X": Paper(62, 12.89, B5, POINTS | WIDE),
}


class Outputs(nn.Module):
    """Scores and boxes of every query."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """`image` `[1, 3, SIDE, SIDE]`."""
        found = self.detector(pixel_values=image)
        return found.logits, found.pred_boxes


def network(name: str, paper: Paper) -> Outputs:
    """A detector with random weights. Raises `ValueError` where it is not the published one."""
    torch.manual_seed(0)
    stages = ["stage3", "stage4"] if "feat_strides" in paper.detector else ["stage2", "stage3", "stage4"]
    widths = list(paper.backbone["hidden_sizes"])[-len(stages) :]
    settings = {"encoder_in_channels": widths, "hidden_expansion": 1.0, "num_queries": 300, **paper.detector}
    if name.startswith("RT-DETR"):
        backbone = transformers.RTDetrResNetConfig(embedding_size=64, out_features=stages, **paper.backbone)
        config = transformers.RTDetrConfig(backbone_config=backbone, **settings)
        detector = transformers.RTDetrForObjectDetection(config)
    else:
        backbone = transformers.HGNetV2Config(out_features=stages, **paper.backbone)
        config = transformers.DFineConfig(backbone_config=backbone, **settings)
        detector = transformers.DFineForObjectDetection(config)
    params = sum(value.numel() for value in detector.parameters()) / 1e6
    if abs(params / paper.params - 1) > 0.05:
        raise ValueError(f"{name} has {params:.1f} M parameters here, {paper.params} M as published")
    return Outputs(detector.eval())


def exported(name: str, paper: Paper, folder: Path) -> Path:
    """The ONNX file of a detector, as most export it: by the exporter that traces."""
    file = folder / f"{name.lower()}.onnx"
    if not file.exists():
        image = torch.zeros(1, 3, SIDE, SIDE)
        torch.onnx.export(network(name, paper), (image,), str(file), dynamo=False, opset_version=17)
    return file


def published_of(files: Mapping[str, Path]) -> Published:
    """The networks as kernels, operators without a rule by the bytes that they move, and their published latencies."""
    return Published(
        schema="maenas/published-latencies@1",
        setups=(SETUP,),
        networks=tuple(
            PublishedNetwork(name=name, kernels=kernel_rows(lower_onnx(file).kernels)) for name, file in files.items()
        ),
        measurements=tuple(
            PublishedLatency(setup=SETUP.setup, network=name, latency_ms=round(DETECTORS[name].ms, 4)) for name in files
        ),
    )


def row_of(name: str, paper: Paper, file: Path, device: str) -> dict[str, Any]:
    """Predicted and published milliseconds of a detector."""
    predictor = load_predictor(device)
    found = predict_graph(lower_onnx(file), predictor)
    ms = found.prediction.seconds * 1e3
    low, high = found.prediction.low * 1e3, found.prediction.high * 1e3
    narrow = [bound * 1e3 for bound in predictor.interval(found.prediction.seconds)]
    return {
        "network": name,
        "published_ms": round(paper.ms, 3),
        "predicted_ms": round(ms, 3),
        "interval_ms": [round(low, 3), round(high, 3)],
        "interval_of_setup_ms": [round(bound, 3) for bound in narrow],
        "error": round(ms / paper.ms - 1, 3),
        "inside": low <= paper.ms <= high,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="t4")
    parser.add_argument("--folder", type=Path, help="where the ONNX files stay; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            name: exported(name, paper, folder)
            for name, paper in tqdm(DETECTORS.items(), disable=not sys.stderr.isatty())
        }
        rows = [row_of(name, DETECTORS[name], file, arguments.device) for name, file in files.items()]
        data = json.dumps(asdict(published_of(files)), separators=(",", ":"))
    header = ["network", "published", "predicted", "error", "range"]
    table = [
        [
            row["network"],
            f"{row['published_ms']:.2f}",
            f"{row['predicted_ms']:.2f}",
            f"{row['error']:+.0%}",
            "{:.2f} to {:.2f}".format(*row["interval_ms"]),
        ]
        for row in rows
    ]
    print(columns([header, *table]))
    mean = statistics.fmean(abs(row["error"]) for row in rows)
    print(f"\nmean error {mean:.0%}; {sum(row['inside'] for row in rows)} of {len(rows)} inside the range")
    document = {
        "benchmark": "attention_detectors",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "conditions": {
            "device": arguments.device,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        "mean_error": round(mean, 3),
        "networks": rows,
    }
    write_atomic(RESULT, json.dumps(document, indent=1) + "\n")
    write_atomic(DATA, gzip.compress(data.encode(), mtime=0))
    print(f"wrote {RESULT} and {DATA}")


if __name__ == "__main__":
    main()
