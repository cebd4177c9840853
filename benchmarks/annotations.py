"""Load time and memory of annotations as many as COCO's: 118,000 images, 860,000 boxes, outlines of 24 points.

Usage: python benchmarks/annotations.py [RESULT.json] [--images 118000] [--boxes 860000] [--points 24] [--workers 8]

The annotations are random and the images empty files. A first process finds no cache and parses them, a second one
takes them from the cache. Each then starts worker processes, as a loader does, and all of them read every sample.
Memory is the proportional set size (PSS) of the process and its workers together: a page that several share counts
once. That of the same processes without data is told apart; the difference is what the annotations take.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from detector.data.coco import read_coco
from detector.data.pictures import Pictures
from maenas import __version__
from maenas.latency.find import cpu_name

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "annotations.json"
CLASSES: Final = 80
CONTEXT: Final = multiprocessing.get_context("fork")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("result", nargs="?", type=Path, default=RESULT)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # a process of the measurement itself
    options = parser.parse_args()
    if options.load is not None:
        print(json.dumps(load(options.load, options.workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_annotations(Path(folder), options.images, options.boxes, options.points)
        rows = {name: measure(path, Path(folder), options.workers) for name in ("cold", "warm")}
        document = {
            "conditions": conditions(path, options),
            "cold": rows["cold"],
            "warm": rows["warm"],
        }
    options.result.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name, row in rows.items():
        print(
            f"{name}: {row['seconds']:.1f} s; the annotations take {row['annotations_mb']:.0f} MB in "
            f"{1 + options.workers} processes together; {row['peak_mb']:.0f} MB at most in one while it loads"
        )
    print(f"wrote {options.result}")


def write_annotations(folder: Path, images: int, boxes: int, points: int) -> Path:
    """A COCO file, line by line, and empty image files."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    path = folder / "annotations" / "instances_train.json"
    with path.open("w", encoding="utf-8") as file:
        names = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
        file.write(f'{{"categories": {json.dumps(names)},\n"images": [')
        for number in range(images):
            name = f"{number:012d}.jpg"
            (folder / "images" / name).touch()
            entry = {"id": number, "file_name": name, "width": 640, "height": 480, "license": 1}
            file.write(f"{',' if number else ''}\n{json.dumps(entry)}")
        file.write('],\n"annotations": [')
        outlines = [json.dumps(outline) for outline in (rng.random((1000, 2 * points)) * 480).round(2).tolist()]
        corners = (rng.random((boxes, 4)) * [320, 240, 319, 239] + [0, 0, 1, 1]).round(2).tolist()
        owners, labels = rng.integers(images, size=boxes).tolist(), rng.integers(1, CLASSES + 1, boxes).tolist()
        for number in range(boxes):
            area = corners[number][2] * corners[number][3]
            entry = {"area": area, "iscrowd": 0, "image_id": owners[number], "id": number}
            entry |= {"bbox": corners[number], "category_id": labels[number]}
            outline = outlines[number % len(outlines)]
            file.write(f'{"," if number else ""}\n{{"segmentation": [{outline}], {json.dumps(entry)[1:]}')
        file.write("]}\n")
    time.sleep(3)  # folders that have just changed are not trusted
    return path


def measure(path: Path, folder: Path, workers: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--load", str(path), "--workers", str(workers)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def load(path: Path, workers: int) -> dict[str, Any]:
    """Read the annotations, then look at all of them in workers; megabytes are of all processes together."""
    alone = together(workers, lambda: None)
    before = pss()
    began = time.perf_counter()
    dataset = read_coco(path)
    seconds = time.perf_counter() - began
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    pictures = Pictures(dataset.samples)

    def look() -> float:
        return sum(float(sample.boxes.sum()) for sample in dataset.samples)

    whole = together(workers, look)
    return {
        "seconds": round(seconds, 2),
        "images": len(dataset),
        "images_with_boxes": len(pictures.with_boxes),
        "boxes": int(sum(len(sample.labels) for sample in dataset.samples)),
        "without_data_mb": round(alone / 1e6, 1),
        "with_data_mb": round(whole / 1e6, 1),
        "annotations_mb": round((whole - alone) / 1e6, 1),
        "main_process_grew_mb": round((pss() - before) / 1e6, 1),
        "peak_mb": round(peak * 1024 / 1e6),
    }


def together(workers: int, work: Any) -> int:
    """PSS of this process and of workers that have done `work`, in bytes."""
    ready, leave = CONTEXT.Semaphore(0), CONTEXT.Event()

    def run() -> None:
        work()
        ready.release()
        leave.wait()

    processes = [CONTEXT.Process(target=run) for _ in range(workers)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    total = pss() + sum(pss(process.pid) for process in processes)
    leave.set()
    for process in processes:
        process.join()
    return total


def pss(process: int | str | None = "self") -> int:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def conditions(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or None,
        "images": options.images,
        "boxes": options.boxes,
        "points_of_an_outline": options.points,
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "cache_mb": round(sum(file.stat().st_size for file in path.parents[1].glob("cache/maenas/*")) / 1e6, 1),
        "workers": options.workers,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "maenas": __version__,
    }


if __name__ == "__main__":
    main()
