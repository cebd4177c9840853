"""Which library runs a detector fastest on one CPU thread? PyTorch, ONNX Runtime and OpenVINO, in fp32, bf16 and int8.

Usage: python benchmarks/inference_runtimes.py [--models damo-yolo-t FILE.json ...] [--input 320] [--result FILE]

The deployed networks without suppression, random weights, batch 1. int8 in both forms of `maenas export`: `tensorrt`
(the rest in fp32) and `cpu`; OpenVINO takes the second one only. bf16 in OpenVINO, where the CPU has it. Of one network
all ways are timed in turn, round after round, by the CPU time of the thread, so that a machine that others use too
gives fair ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector.model.deploy import deploy
from detector.model.net import DetectorNet
from maenas.deploy.clock import TimingSettings, measure, warm_up
from maenas.deploy.onnx_writer import write_onnx
from maenas.deploy.openvino import has_bf16, import_openvino
from maenas.deploy.program import network
from maenas.deploy.quantize import quantize
from maenas.files import write_atomic
from maenas.latency.find import processor
from maenas.lowering import lower
from maenas.profiler.onnxruntime import OnnxRuntime
from maenas.profiler.openvino import OpenVino
from maenas.spec import DetectorSpec, load_spec, resized

RESULT = Path(__file__).resolve().parent / "results" / "inference_runtimes.json"
MODELS = ("damo-yolo-t", "damo-yolo-nano-m")


def timed(run: Callable[[], object]) -> Callable[[], float]:
    def time_once() -> float:
        begin = time.thread_time()
        run()
        return time.thread_time() - begin

    return time_once


def ways_of(spec: DetectorSpec) -> dict[str, Callable[[], object]]:
    """Every way to run one network, each ready to run."""
    plain = write_onnx(network(lower(spec)))
    files = {"fp32": plain, "int8 tensorrt": quantize(plain), "int8 cpu": quantize(plain, form="cpu")}
    ways: dict[str, Callable[[], object]] = {}
    for name, backend in (("onnxruntime", OnnxRuntime("cpu")), ("openvino", OpenVino())):
        for precision, model in files.items():
            if (name, precision) != ("openvino", "int8 tensorrt"):
                ways[f"{name} {precision}"] = backend.build_model(model.SerializeToString()).run
    if has_bf16(import_openvino()):
        ways["openvino bf16"] = OpenVino().build_model(plain.SerializeToString(), "bf16").run
    net = deploy(DetectorNet(spec)).to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, spec.input.height, spec.input.width).to(memory_format=torch.channels_last)
    return {"torch fp32": lambda: net(image), **ways}


@torch.inference_mode()
def measure_model(spec: DetectorSpec, rounds: int) -> dict[str, Any]:
    """Milliseconds of every way, and what each takes of ONNX Runtime's time in fp32."""
    ways = ways_of(spec)
    clocks = [timed(run) for run in ways.values()]
    settings = TimingSettings(rounds=rounds, attempts=1, max_warm_up_s=1.0)
    for clock in clocks:
        warm_up(clock, settings)
    timings = dict(zip(ways, measure(clocks, rng=np.random.default_rng(0), settings=settings), strict=True))
    base = timings["onnxruntime fp32"].median_s
    return {
        "id": spec.id,
        "input": spec.input.height,
        "ms": {way: round(timing.median_s * 1e3, 2) for way, timing in timings.items()},
        "iqr_ms": {way: round(timing.iqr_s * 1e3, 2) for way, timing in timings.items()},
        "ratio": {way: round(timing.median_s / base, 3) for way, timing in timings.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--input", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {}
    for name in arguments.models:
        stored = load_spec(name)
        results[stored.name] = measure_model(resized(stored.detector, arguments.input), arguments.rounds)
        print(stored.name, json.dumps(results[stored.name]["ratio"]), flush=True)
    document = {
        "benchmark": "inference_runtimes",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "conditions": {
            "cpu": processor(),
            "cores": os.cpu_count(),
            "threads": 1,
            "clock": "CPU time of the thread",
            "rounds": arguments.rounds,
            "load": os.getloadavg(),
            "libraries": [f"torch {torch.__version__}", OnnxRuntime("cpu").runtime, OpenVino().runtime],
            "nms_included": False,
        },
        "networks": results,
    }
    write_atomic(arguments.result, json.dumps(document, indent=1) + "\n")
    print(table(results))


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table, in milliseconds."""
    ways = list(next(iter(results.values()))["ms"])
    rows = [["network", "input", *ways], ["---"] * (len(ways) + 2)]
    rows += [[name, str(row["input"]), *(f"{row['ms'][way]:.1f}" for way in ways)] for name, row in results.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
