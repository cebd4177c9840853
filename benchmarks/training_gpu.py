"""How many images a second does a GPU train, and what is the limit? The step and the data pipeline, apart.

Usage: python benchmarks/training_gpu.py --data BCCD [--model damo-yolo-t] [--batch 16 64] [--workers 1 4 8]

The step: forward, assignment, losses, backward, update and moving average on random images with 40 boxes each, bf16,
channels-last. `gpu_busy` is the share of the step in which a kernel ran (torch.profiler): what is missing to 1 is the
CPU launching too slowly. `floor` is 3 times the operations of the training network's forward pass at the rate of a
large bf16 matrix product, measured here. The pipeline: batches of the recipe's augmentation at the same size.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import time
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from detector.batch_size import random_batch
from detector.data.dataset import open_dataset
from detector.data.loader import LoaderSettings, make_loader
from detector.distributed import join_world
from detector.model.net import DetectorNet
from detector.recipe import PRESETS
from detector.step import Schedule, assemble, train_step
from maenas.deploy.gpu_state import gpu_state
from maenas.files import write_atomic
from maenas.profiler.torch_cuda import TorchCuda
from maenas.spec import published_specs

RESULT = Path(__file__).resolve().parent / "results" / "training_gpu.json"
BOXES = 40
WARM_UP, TIMED, PROFILED = 5, 15, 5
SHOWN = 12  # kinds of kernels


def step_speed(name: str, batch: int, *, compiled: bool) -> dict[str, Any]:
    """Speed and memory of training steps, and where the GPU's time goes."""
    torch.manual_seed(0)
    recipe = replace(PRESETS["damo"], amp="bf16", compile=compiled)
    with join_world("cuda") as world:
        net = DetectorNet(published_specs()[name])
        parts = assemble(net, None, recipe=recipe, batch=batch, schedule=Schedule.of(recipe, 100), world=world)
        images = random_batch(net.spec.input, batch, BOXES)
        torch.cuda.reset_peak_memory_stats()
        for step in range(WARM_UP):
            train_step(parts, [images], step)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for step in range(TIMED):
            train_step(parts, [images], step)
        queued = time.perf_counter() - begin
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - begin) / TIMED
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
            for step in range(PROFILED):
                train_step(parts, [images], step)
            torch.cuda.synchronize()
        kernels = kernel_seconds(found)
        memory = torch.cuda.max_memory_reserved()
    return {
        "model": name,
        "batch": batch,
        "compiled": compiled,
        "step_ms": seconds * 1e3,
        "cpu_ms": queued / TIMED * 1e3,
        "images_per_s": batch / seconds,
        "memory_gb": memory / 1e9,
        "gpu_busy": sum(kernels.values()) / seconds,
        "kernel_ms": {kind: value * 1e3 for kind, value in list(kernels.items())[:SHOWN]},
    }


def kernel_seconds(found: profile) -> dict[str, float]:
    """Seconds of a step by kind of kernel, most first."""
    sums: dict[str, float] = defaultdict(float)
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and "#" not in event.name:  # which marks a range
            sums[kind_of(event.name)] += event.device_time_total / 1e6 / PROFILED
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def kind_of(name: str) -> str:
    """A kernel's name in a word or two."""
    lower = name.lower()
    kinds = {
        "batch norm": ("batch_norm", "bn_"),
        "convolution backward": ("dgrad", "wgrad"),
        "convolution": ("conv", "fprop", "gemm", "cutlass", "xmma", "cudnn"),
        "optimizer": ("multi_tensor", "fused_sgd", "foreach"),
        "copy": ("memcpy", "copy"),
        "memset": ("memset",),
        "top-k, sort, scatter": ("topk", "sort", "scatter", "gather", "radix", "scan"),
        "reduction": ("reduce",),
        "pointwise": ("elementwise", "pointwise", "vectorized", "triton"),
    }
    return next((kind for kind, words in kinds.items() if any(word in lower for word in words)), name[:60])


def step_flops(name: str) -> float:
    """Operations of one image's step, a multiply-add being two: the forward pass in training form, times three."""
    spec = published_specs()[name]
    net = DetectorNet(spec).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.zeros(1, 3, spec.input.height, spec.input.width))
    return 3.0 * counter.get_total_flops()


def matrix_rate(size: int = 8192, repeats: int = 20) -> float:
    """FLOP/s of a large bf16 product of random matrices."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        left @ right
    end.record()
    end.synchronize()
    return 2 * size**3 * repeats / (begin.elapsed_time(end) / 1e3)


def pipeline_speed(data: Path, name: str, workers: int, *, batches: int, batch: int) -> dict[str, Any]:
    """Images per second of the loader alone, from a warm cache."""
    recipe = PRESETS["damo"]
    dataset = open_dataset(str(data), "train")
    settings = LoaderSettings(
        published_specs()[name].input,
        batch,
        epochs=1000,
        augment=recipe.augment,
        workers=workers,
        pin_memory=True,
    )
    loader = make_loader(dataset, settings, cache=mmap.mmap(-1, 2**32))
    stream = loader.batches(500 * loader.steps_per_epoch)  # half way: box-level augmentation has half its strength
    warm = max(workers * 4, len(dataset) // batch)
    for _ in islice(stream, warm):
        pass
    begin = time.perf_counter()
    count = sum(len(found.images) for found in islice(stream, batches))
    return {"workers": workers, "batch": batch, "images_per_s": count / (time.perf_counter() - begin)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="damo-yolo-t", choices=sorted(published_specs()))
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--compiled", type=int, nargs="*", default=[], help="batches to time with torch.compile, too")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    backend = TorchCuda()
    rate, flops = matrix_rate(), step_flops(arguments.model)
    setups = [(batch, False) for batch in arguments.batch] + [(batch, True) for batch in arguments.compiled]
    rows = []
    for batch, compiled in setups:
        rows.append(step_speed(arguments.model, batch, compiled=compiled))
        rows[-1]["share_of_floor"] = batch * flops / rate / (rows[-1]["step_ms"] / 1e3)
        print(json.dumps(rows[-1]), flush=True)
    loading = [
        pipeline_speed(arguments.data, arguments.model, workers, batches=max(8, 4 * workers), batch=32)
        for workers in arguments.workers
    ]
    document = {
        "benchmark": "training_gpu",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "conditions": {
            "gpu": backend.device_name,
            "torch": torch.__version__,
            "cpus": os.cpu_count(),
            **backend.conditions,
            **gpu_state(),
            "amp": "bf16",
            "data": arguments.data.name,
        },
        "matrix_tflops": rate / 1e12,
        "step_gflops_per_image": flops / 1e9,
        "floor_images_per_s": rate / flops,
        "steps": rows,
        "pipeline": loading,
    }
    write_atomic(arguments.result, json.dumps(document, indent=1) + "\n")
    print(json.dumps(loading))
    print(f"wrote {arguments.result}")


if __name__ == "__main__":
    main()
