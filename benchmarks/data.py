"""Images per second of the training pipeline, one process and one core, beside what decoding and warping alone take.

    python benchmarks/data.py --data PATH_TO_BCCD

writes benchmarks/results/data.json. The floor of an image from a warm cache is one warp of a whole image into the
training size (with a fourth channel, which OpenCV warps twice as fast); without a cache it is that and the decoding of
the images that an average mosaic needs.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detector.data.augment import mosaic_sample, training_sample
from detector.data.dataset import open_dataset
from detector.data.geometry import Affine, affine_matrix, resizing
from detector.data.pictures import Pictures, load_image
from detector.data.scratch import Scratch
from detector.data.settings import AugmentSettings
from maenas.files import write_atomic
from maenas.spec import InputSpec

RESULTS = Path(__file__).resolve().parent / "results" / "data.json"
SIZE = InputSpec(640, 640)
# From our notes: measured on one core of the same kind of machine, BCCD at 640; not run by this benchmark.
PEERS = {"published pipeline": 45.0, "a well-known fast one, RAM cache, no mixup": 219.0}


def best(works: Mapping[str, Callable[[int], Any]], *, images: int, rounds: int) -> dict[str, float]:
    """Seconds for one image of each work: its best round over images 0 .. `images` - 1.

    Time is that of the processor, which other processes of the machine change least. The works take turns, so that a
    busy moment does not hit one of them alone; the images and what is drawn for them are the same in every round, so
    that the best round is not the one with the cheapest images.
    """
    times = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            for index in range(images):
                work(index)
            times[name] = min(times[name], (time.process_time() - start) / images)
    return times


def pipeline(pictures: Pictures, settings: AugmentSettings, *, strength: float) -> Callable[[int], Any]:
    """Makes training image number i."""
    out, scratch = np.empty((SIZE.height, SIZE.width, 3), np.uint8), Scratch()

    def make(number: int) -> None:
        rng = np.random.default_rng((0, number))
        training_sample(
            number % len(pictures),
            pictures,
            settings,
            rng,
            out,
            scratch,
            mosaic_prob=1.0,
            strength=strength,
            resize=SIZE,
        )

    return make


def mosaic_only(pictures: Pictures, settings: AugmentSettings) -> Callable[[int], Any]:
    """The mosaic alone, with mixup where `settings` has it."""
    out, scratch = np.empty((SIZE.height, SIZE.width, 3), np.uint8), Scratch()
    return lambda number: mosaic_sample(
        number % len(pictures), pictures, settings, np.random.default_rng((0, number)), out, scratch
    )


def warp(pictures: Pictures, prepare: Callable[[np.ndarray], np.ndarray]) -> Callable[[int], Any]:
    """One whole image into the training size, turned and sheared: as much as the parts of a mosaic add up to."""
    images = [prepare(pictures[index].image) for index in range(len(pictures))]
    matrix = affine_matrix(Affine(5.0, 1.0, 1.0, -1.0), 640, 640) @ resizing(images[0].shape[1::-1], (640, 640))

    def work(number: int) -> None:
        image = images[number % len(images)].copy()  # in order, into the cache of the processor: faster than without
        cv2.warpAffine(image, matrix[:2], (640, 640), flags=cv2.INTER_LINEAR, borderValue=(114,) * 4)

    return work


def measure(path: Path, *, images: int, rounds: int) -> dict[str, Any]:
    dataset = open_dataset(path, "train")
    cold, warm = Pictures(dataset.samples), Pictures(dataset.samples, cache=mmap.mmap(-1, 2**34))
    for index in range(len(warm)):
        warm[index]
    full, plain = AugmentSettings(), AugmentSettings(mixup_prob=0, box_prob=0)
    floors = {
        "decode": lambda number: load_image(dataset.samples[number % len(dataset)]),
        "warp": warp(warm, lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)),
        "warp, three channels": warp(warm, lambda image: image),
    }
    from_cache = {
        "mosaic, affine, flip": mosaic_only(warm, plain),
        "mosaic, affine, mixup, flip": mosaic_only(warm, full),
        "all, box-level augmentation half way through": pipeline(warm, full, strength=0.5),
        "all, box-level augmentation at full strength": pipeline(warm, full, strength=1.0),
    }
    without = {"all, box-level augmentation half way through, no cache": pipeline(cold, full, strength=0.5)}
    seconds = best({**floors, **from_cache, **without}, images=images, rounds=rounds)
    floor = seconds["warp"]
    floor_without = floor + (4 + full.mixup_prob) * seconds["decode"]
    return {
        "floors_ms": {name: seconds[name] * 1e3 for name in floors},
        "floor_from_cache_images_per_s": 1 / floor,
        "floor_without_cache_images_per_s": 1 / floor_without,
        "from_cache": {name: rates(seconds[name], floor) for name in from_cache},
        "without_cache": {name: rates(seconds[name], floor_without) for name in without},
    }


def rates(seconds: float, floor: float) -> dict[str, float]:
    return {"images_per_s": 1 / seconds, "share_of_floor": floor / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, or any data set")
    parser.add_argument("--images", type=int, default=100, help="images of a round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    conditions = {
        "date": datetime.now(UTC).date().isoformat(),
        "data": arguments.data.name,
        "size": "640x640",
        "process": "one, one thread",
        "images_per_round": arguments.images,
        "rounds": arguments.rounds,
        "statistic": "processor time of the best round",
        "cpus": os.cpu_count(),
        "load_average_at_start": os.getloadavg()[0],
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    result = measure(arguments.data, images=arguments.images, rounds=arguments.rounds)
    document = {"conditions": conditions, **result, "peers_images_per_s_from_notes": PEERS}
    write_atomic(arguments.out, json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
