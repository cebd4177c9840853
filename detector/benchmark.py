"""How long detection takes: preprocessing, network, postprocessing, and all of it through the public interface.

Every stage of every detector, batch size and number of threads is timed in turn, round after round in random order, so
that a drift of the machine hits all of them alike (`maenas.deploy.clock`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from detector.model.net import DetectorNet
from detector.pipeline import detections_in_images, preprocess
from detector.predict import MAX_DET, Detector
from detector.runtime.interface import Runtime
from maenas.deploy.clock import TimeOnce, Timing, TimingSettings, measure, warm_up
from maenas.deploy.gpu_state import gpu_limits
from maenas.spec import DetectorSpec

STAGES = ("preprocessing", "network", "postprocessing", "total")


@dataclass(frozen=True)
class Subject:
    """One detector in one setup; `threads` are those that it was loaded with, `name` is what it is called."""

    name: str
    runtime: Runtime
    batch: int
    threads: int


@dataclass(frozen=True)
class Row:
    """Timings of the stages, in seconds for a batch; `detections` is how many were found, on average, in an image.

    `preprocessing` begins with decoded images and ends with the tensor on the device; `network` includes suppression
    where that is in the file; `postprocessing` ends with boxes on the CPU in pixels of the images. `total` is
    `Detector.predict`, which does the three one after another.
    """

    subject: Subject
    stages: dict[str, Timing]
    detections: float

    @property
    def images_per_s(self) -> float:
        """Throughput of `Detector.predict`."""
        return self.subject.batch / self.stages["total"].median_s


def benchmark(
    subjects: Sequence[Subject],
    images: Sequence[np.ndarray],
    *,
    settings: TimingSettings,
    conf: float | None = None,
    iou: float | None = None,
    on_warm: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Time every subject on uint8 RGB images `[H, W, 3]`, which are repeated to fill its batch.

    `on_warm` is called as each subject is warmed up. Raises `MaenasError` where one cannot run.
    """
    items: list[TimeOnce] = []
    found = []
    for subject in subjects:
        batch = [images[number % len(images)] for number in range(subject.batch)]
        with threads_set(subject.threads):
            stages = _stages(subject, batch, conf=conf, iou=iou)
            results = Detector.of(subject.runtime).predict(batch, conf=conf, iou=iou, batch=subject.batch)
        found.append(sum(len(result.scores) for result in results) / len(results))
        items += [_timed(stage, subject) for stage in stages]
        for item in items[-len(STAGES) :]:
            warm_up(item, settings)
        on_warm()
    timings = measure(items, rng=np.random.default_rng(0), settings=settings)
    parts = [timings[at : at + len(STAGES)] for at in range(0, len(timings), len(STAGES))]
    return [
        Row(subject, dict(zip(STAGES, part, strict=True)), count)
        for subject, part, count in zip(subjects, parts, found, strict=True)
    ]


def random_net(spec: DetectorSpec) -> tuple[DetectorNet, tuple[str, ...]]:
    """A network with random weights, always the same, and made-up class names: what a spec alone can be timed with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DetectorNet(spec).eval()
    return net, tuple(f"class {number}" for number in range(spec.head.num_classes))


def library_conditions(subjects: Sequence[Subject]) -> dict[str, str]:
    """Version of PyTorch, and the GPU where one is used."""
    found = {"torch": torch.__version__}
    for device in {subject.runtime.device for subject in subjects if subject.runtime.device.type == "cuda"}:
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "cuda": str(torch.version.cuda), **gpu_limits(str(properties.uuid))}
    return found


def _stages(
    subject: Subject, images: list[np.ndarray], *, conf: float | None, iou: float | None
) -> list[Callable[[], object]]:
    """In the order of `STAGES`, each with the results of the one before."""
    runtime, detector = subject.runtime, Detector.of(subject.runtime)
    conf, iou = detector.thresholds(conf, iou)
    size = runtime.spec.input

    def preprocessing() -> torch.Tensor:
        return preprocess(images, size, runtime.device)[0]

    tensor, placements = preprocess(images, size, runtime.device)
    with torch.inference_mode():
        scores, boxes = runtime.network(tensor)

    def network() -> object:
        return runtime.network(tensor)

    def postprocessing() -> object:
        left = iou if runtime.nms is None else None  # to suppress
        return detections_in_images(scores, boxes, placements, conf=conf, iou=left, max_det=MAX_DET)

    def total() -> object:
        return detector.predict(images, conf=conf, iou=iou, batch=subject.batch)

    return [preprocessing, network, postprocessing, total]


def _timed(run: Callable[[], object], subject: Subject) -> TimeOnce:
    """Wall-clock seconds of one run, with what it left to a GPU."""
    on_gpu = subject.runtime.device.type == "cuda"

    def time_once() -> float:
        with threads_set(subject.threads), torch.inference_mode():
            if on_gpu:
                torch.cuda.synchronize(subject.runtime.device)
            begin = time.perf_counter()
            run()
            if on_gpu:
                torch.cuda.synchronize(subject.runtime.device)
            return time.perf_counter() - begin

    return time_once


@contextmanager
def threads_set(count: int) -> Iterator[None]:
    """PyTorch and OpenCV with this many threads; ONNX Runtime's belong to its session."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
