"""How fast is one image? Our export and torch's own in ONNX Runtime, against torch eager, channels-last and compiled.

Usage: python benchmarks/inference.py [--threads 1 2] [--models damo-yolo-t ...] [--rounds 21] [--result FILE]

The deployed networks without suppression, random weights, batch 1, fp32. Of one network all ways to run it are timed
in turn, round after round, so that a drift of the machine hits all of them alike; every number of threads has its own
process. Nothing else should be running; the load at the start is among the conditions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector.export.onnx import ExportSettings, count_nodes, to_onnx
from detector.model.deploy import deploy
from detector.model.net import DetectorNet
from maenas.deploy.clock import Timing, TimingSettings, measure, warm_up
from maenas.latency.find import processor
from maenas.profiler.onnxruntime import OnnxRuntime
from maenas.spec import published_specs

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "inference.json"
MODELS = ("damo-yolo-t", "damo-yolo-s", "damo-yolo-m", "damo-yolo-nano-m")  # 640, 640, 640, 416


def timed(run: Callable[[], object]) -> Callable[[], float]:
    def time_once() -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    return time_once


def milliseconds(timing: Timing) -> dict[str, float]:
    return {"ms": round(timing.median_s * 1e3, 3), "iqr_ms": round(timing.iqr_s * 1e3, 3), "samples": timing.samples}


@torch.inference_mode()
def measure_model(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """Timings of every way to run one network, and how far apart their boxes and scores are."""
    torch.manual_seed(0)
    spec = published_specs()[name]
    net = deploy(DetectorNet(spec))
    model = to_onnx(net, tuple(map(str, range(spec.head.num_classes))), ExportSettings())
    runner = OnnxRuntime("cpu", threads=threads).build_model(model.SerializeToString())
    exported = torch.onnx.export(
        net, (torch.zeros(1, 3, spec.input.height, spec.input.width),), dynamo=True, opset_version=20, verbose=False
    )
    assert exported is not None
    peer = OnnxRuntime("cpu", threads=threads).build_model(exported.model_proto.SerializeToString())
    image = torch.from_numpy(np.random.default_rng(0).random((1, 3, spec.input.height, spec.input.width), np.float32))
    last = deploy(DetectorNet(spec)).to(memory_format=torch.channels_last)
    last.load_state_dict(net.state_dict())
    image_last = image.to(memory_format=torch.channels_last)
    compiled = torch.compile(last)
    ways: dict[str, Callable[[], Any]] = {
        "onnxruntime": runner.run,
        "onnxruntime, torch.onnx export": peer.run,
        "torch eager": lambda: net(image),
        "torch channels-last": lambda: last(image_last),
        "torch.compile": lambda: compiled(image_last),
    }
    clocks = [timed(run) for run in ways.values()]
    settings = TimingSettings(rounds=rounds, max_warm_up_s=3.0)
    for clock in clocks:
        warm_up(clock, settings)
    timings = measure(clocks, rng=np.random.default_rng(0), settings=settings)
    eager = net(image)
    runner.run()
    return {
        "input": spec.input.height,
        "nodes": {"maenas": sum(count_nodes(model).values()), "torch.onnx": len(exported.model_proto.graph.node)},
        "timings": {way: milliseconds(timing) for way, timing in zip(ways, timings, strict=True)},
        "difference": {
            "onnxruntime": difference([torch.from_numpy(out).transpose(1, 2) for out in runner.outputs()], eager),
            "torch channels-last": difference(last(image_last), eager),
            "torch.compile": difference(compiled(image_last), eager),
        },
    }


def difference(outputs: Any, expected: Any) -> float:
    """Largest difference of scores and boxes (pixels)."""
    return max(float((one - two).abs().max()) for one, two in zip(outputs, expected, strict=True))


def child(arguments: argparse.Namespace) -> None:
    (threads,) = arguments.threads
    torch.set_num_threads(threads)
    print(json.dumps({name: measure_model(name, threads, arguments.rounds) for name in arguments.models}))


def parent(arguments: argparse.Namespace) -> None:
    conditions = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "onnxruntime": OnnxRuntime("cpu").runtime,
        "precision": "fp32",
        "batch": 1,
        "nms_included": False,
        "load_at_start": os.getloadavg(),
    }
    results = {}
    for threads in arguments.threads:
        command = [sys.executable, __file__, "--child", "--threads", str(threads), "--rounds", str(arguments.rounds)]
        output = subprocess.run(
            [*command, "--models", *arguments.models], check=True, stdout=subprocess.PIPE, text=True
        )
        results[str(threads)] = json.loads(output.stdout.splitlines()[-1])
    document = {
        "benchmark": "inference",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "conditions": {**conditions, "load_at_end": os.getloadavg()},
        "threads": results,
    }
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    arguments.result.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    print(f"wrote {arguments.result}")


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table, in milliseconds."""
    ways = list(next(iter(next(iter(results.values())).values()))["timings"])
    rows = [["network", "input", "threads", *ways]]
    for threads, models in results.items():
        for name, row in models.items():
            rows.append([name, str(row["input"]), threads, *(f"{row['timings'][way]['ms']:.1f}" for way in ways)])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=sorted(published_specs()))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    (child if arguments.child else parent)(arguments)


if __name__ == "__main__":
    main()
