"""How fast is one image on a GPU? Deployed networks in fp16: eager, channels-last, as a CUDA graph, compiled.

Usage: python benchmarks/inference_gpu.py [--models damo-yolo-t ...] [--batch 1 32] [--compiled damo-yolo-t]

Random weights, no suppression, input already on the GPU. Of one network and batch all ways to run it are timed in
turn, by CUDA events around a call, so that what the CPU cannot launch in time counts. Compiling takes most of a minute
for each network and batch, hence its own list.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector.model.deploy import deploy
from detector.model.net import DetectorNet
from maenas.cost import total_cost
from maenas.deploy.clock import Timing, TimingSettings, measure, warm_up
from maenas.deploy.gpu_state import gpu_state
from maenas.files import write_atomic
from maenas.lowering import lower
from maenas.profiler.torch_cuda import GraphRunner, TorchCuda
from maenas.spec import published_specs

RESULT = Path(__file__).resolve().parent / "results" / "inference_gpu.json"
MODELS = ("damo-yolo-t", "damo-yolo-s", "damo-yolo-m", "damo-yolo-l")


def timed(run: Callable[[], object]) -> Callable[[], float]:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def time_once() -> float:
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    return time_once


@torch.inference_mode()
def measure_model(name: str, batch: int, *, compiled: bool, rounds: int) -> dict[str, Any]:
    """Timings of every way to run one network, and how far fp16 is from fp32."""
    torch.manual_seed(0)
    spec = published_specs()[name]
    plain = deploy(DetectorNet(spec)).cuda()
    images = 255 * torch.rand(batch, 3, spec.input.height, spec.input.width, device="cuda")
    expected = plain(images[:1])
    half = copy.deepcopy(plain).half()
    last = copy.deepcopy(half).to(memory_format=torch.channels_last)
    images = images.half()
    images_last = images.to(memory_format=torch.channels_last)
    graph = GraphRunner(torch, lambda: last(images_last))
    clocks = {
        "eager": timed(lambda: half(images)),
        "channels-last": timed(lambda: last(images_last)),
        "CUDA graph": graph.time_once,
    }
    if compiled:
        fast = torch.compile(last, mode="reduce-overhead")
        clocks["torch.compile"] = timed(lambda: fast(images_last))
    settings = TimingSettings(rounds=rounds, warm_up_s=0.1, max_warm_up_s=1.0)
    for clock in clocks.values():
        clock()
        warm_up(clock, settings)
    timings = measure(list(clocks.values()), rng=np.random.default_rng(0), settings=settings)
    scores, boxes = last(images_last[:1])
    graph.close()
    return {
        "model": name,
        "batch": batch,
        "gflops_per_image": total_cost(lower(spec)).flops / 1e9,
        "timings": {way: milliseconds(timing) for way, timing in zip(clocks, timings, strict=True)},
        "fp16_from_fp32": {
            "scores": float((scores - expected[0]).abs().max()),
            "boxes_px": float((boxes - expected[1]).abs().max()),
        },
    }


def milliseconds(timing: Timing) -> dict[str, float]:
    return {"ms": round(timing.median_s * 1e3, 4), "iqr_ms": round(timing.iqr_s * 1e3, 4), "samples": timing.samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=sorted(published_specs()))
    parser.add_argument("--compiled", nargs="*", default=["damo-yolo-t"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    backend = TorchCuda()
    rows = []
    for name in arguments.models:
        for batch in arguments.batch:
            row = measure_model(name, batch, compiled=name in arguments.compiled, rounds=arguments.rounds)
            rows.append(row)
            shown = "  ".join(f"{way} {timing['ms']:.3f} ms" for way, timing in row["timings"].items())
            print(f"{name} batch {batch}: {shown}", flush=True)
    document = {
        "benchmark": "inference_gpu",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "conditions": {
            "gpu": backend.device_name,
            "torch": torch.__version__,
            **backend.conditions,
            **gpu_state(),
            "precision": "fp16",
            "nms_included": False,
        },
        "rows": rows,
    }
    write_atomic(arguments.result, json.dumps(document, indent=1) + "\n")
    print(f"wrote {arguments.result}")


if __name__ == "__main__":
    main()
