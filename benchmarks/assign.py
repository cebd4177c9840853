"""Time and memory of label assignment on a CPU: 64 images of 8400 priors, 50 boxes and 80 classes, on one thread.

Usage: python benchmarks/assign.py [RESULT.json]

Boxes and predictions are random: boxes of 8 to 400 pixels in an image of 640, predictions of an early epoch (noise)
and of a late one (most near a box). Nothing else should be running; the load at the start is among the conditions.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.assign import assign
from detector.boxes import make_priors
from maenas.latency.find import cpu_name

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "assign.json"
IMAGES, BOXES, CLASSES, SIDE = 64, 50, 80, 640
RUNS = 5
PUBLISHED = {
    "ms_per_image": 375,
    "source": "the project's notes on the published loops, one core of the same machine",
    "measured_here": False,
}


def main(arguments: Sequence[str]) -> None:
    path = Path(arguments[0]) if arguments else RESULT
    torch.set_num_threads(1)
    conditions = describe_conditions()
    results = {f"{name} epoch": measure(near_a_box) for name, near_a_box in (("early", 0.0), ("late", 0.9))}
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"conditions": conditions, "published": PUBLISHED, "results": results}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for key, value in conditions.items():
        print(f"{key}: {value}")
    print()
    for name, row in results.items():
        published = PUBLISHED["ms_per_image"]
        print(
            f"{name:<12} {row['ms_per_image']:.1f} ms an image (CPU time {row['cpu_ms_per_image']:.1f} ms), "
            f"{row['ms_per_image'] / published:.1%} of the {published} ms of the published loops, from our notes; "
            f"{row['positives_per_box']:.2f} priors a box; {row['peak_mb_above_inputs']} MB at most above the inputs"
        )
    print(f"wrote {path}")


def describe_conditions() -> dict[str, Any]:
    """Machine, versions and state of the machine."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or None,
        "images": IMAGES,
        "priors": len(make_priors(SIDE, SIDE)),
        "boxes": BOXES,
        "classes": CLASSES,
        "runs": RUNS,
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_average_1min_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def measure(near_a_box: float) -> dict[str, Any]:
    """Median time over runs, after one that warms up; `near_a_box` is the share of predictions that fit a box."""
    inputs = random_batch(near_a_box)
    forget_peak()
    before = status_bytes("VmRSS")
    assignment = assign(*inputs)
    peak = status_bytes("VmHWM")
    seconds, cpu_seconds = [], []
    for _ in range(RUNS):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        assign(*inputs)
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - cpu_begin)
    return {
        "ms_per_image": round(statistics.median(seconds) / IMAGES * 1e3, 2),
        "cpu_ms_per_image": round(statistics.median(cpu_seconds) / IMAGES * 1e3, 2),
        "ms_per_image_of_runs": [round(value / IMAGES * 1e3, 2) for value in seconds],
        "positives_per_box": round((assignment.gt_index >= 0).sum().item() / (IMAGES * BOXES), 3),
        "peak_mb_above_inputs": None if before is None or peak is None else round((peak - before) / 1e6),
    }


def status_bytes(key: str) -> int | None:
    """Memory of this process as Linux counts it: `VmRSS` now, `VmHWM` at most since `forget_peak`; else None."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def forget_peak() -> None:
    """From here on `VmHWM` is the peak."""
    switch = Path("/proc/self/clear_refs")
    if switch.is_file():
        switch.write_text("5", encoding="ascii")


def random_batch(near_a_box: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Arguments of `assign`."""
    random = torch.Generator().manual_seed(0)
    priors = make_priors(SIDE, SIDE)
    shape = (IMAGES, len(priors))
    sides = 8 * 50 ** torch.rand((IMAGES, BOXES, 2), generator=random)
    corner = torch.rand((IMAGES, BOXES, 2), generator=random) * (SIDE - sides)
    gt_boxes = torch.cat((corner, corner + sides), dim=-1)
    reach = torch.rand((*shape, 4), generator=random) * 8 * priors[:, 2:]
    noise = priors[:, [0, 1, 0, 1]] + reach * torch.tensor([-1, -1, 1, 1])
    row = torch.randint(0, BOXES, shape, generator=random)[..., None].expand(-1, -1, 4)
    fitting = gt_boxes.gather(1, row) + torch.randn((*shape, 4), generator=random)
    boxes = fitting.where(torch.rand((*shape, 1), generator=random) < near_a_box, noise)
    scores = (torch.randn((*shape, CLASSES), generator=random) - 4.6).sigmoid()
    return scores, boxes, priors, gt_boxes, torch.randint(0, CLASSES, (IMAGES, BOXES), generator=random)


if __name__ == "__main__":
    main(sys.argv[1:])
