"""Detections over a whole data set, shared among the processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from detector.data.loader import EvalBatch, eval_batches
from detector.data.pictures import Reports
from detector.data.sample import Dataset
from detector.distributed import World, gather_rows, same_as_main
from detector.images import normalise
from detector.model.deploy import deploy
from detector.pipeline import detections_in_images
from detector.postprocess import MAX_DETECTIONS, Detections
from detector.predict import Detector
from detector.step import Parts

CONF, IOU = 0.001, 0.7  # the published IoU of T, S, M and L; their conf of 0.05 cuts the precision-recall curve off
BATCH = 16  # images
MOST_CANDIDATES = 4096  # of an image; of those at most 500 are kept, and COCO rates 100 of a class


def lowest_thresholds(detector: Detector) -> tuple[float, float]:
    """The conf and IoU to rate a detector at: `CONF` and `IOU`, but for what suppression in its file rules out."""
    nms = detector.nms
    return (CONF, IOU) if nms is None else (max(CONF, nms.conf), nms.iou)


def detect_in_training(
    parts: Parts,
    dataset: Dataset,
    *,
    batch: int,
    workers: int,
    reports: Reports,
    on_images: Callable[[int], object],
) -> dict[int, Detections]:
    """As `detect_dataset`, with the averaged weights of a training, in its precision; on GPUs in its `batch`, too.

    Every process takes the batch statistics of the main one, which are those that are stored.
    """
    world = parts.world
    same_as_main(parts.average.buffers())
    network = deploy(parts.average).to(world.device).to(memory_format=torch.channels_last)
    detector = Detector(network, parts.net.spec.input, dataset.names, world.device)
    return detect_dataset(
        detector,
        dataset,
        world,
        batch=batch if world.device.type == "cuda" else BATCH,
        workers=workers,
        reports=reports,
        on_images=on_images,
        half=parts.half,
    )


@torch.no_grad()
def detect_dataset(
    detector: Detector,
    dataset: Dataset,
    world: World,
    *,
    conf: float = CONF,
    iou: float = IOU,
    batch: int = BATCH,
    workers: int = 0,
    reports: Reports | None = None,
    on_images: Callable[[int], object] | None = None,
    half: torch.dtype | None = None,
) -> dict[int, Detections]:
    """Detections of every image by its id, in its pixels, on every process; each one runs on its share of the images.

    An image that cannot be read is left out, with a warning, unless `reports` (of this process's share) gave it before.
    `on_images` is told how many more images are done, in all processes equally often. `half` is what mixed precision
    computes in; None: everything in the type of the weights.
    Raises `MaenasError` for thresholds that suppression in the network rules out.
    """
    detector.require_thresholds(conf=conf, iou=iou)
    share = replace(dataset, samples=dataset.samples[world.rank :: world.size])
    ids: list[int] = []
    parts = [torch.zeros(0, 7, dtype=torch.float64)]
    turns = -(-len(range(0, len(dataset), world.size)) // batch)  # of the main process, which has the most
    for images in eval_batches(share, detector.input, batch_size=batch, workers=workers, reports=reports):
        parts += _detect(detector, images, conf, iou, half)
        ids += images.ids
        turns -= 1
        if on_images is not None:
            on_images(len(images.ids))
    if on_images is not None:
        for _ in range(turns):
            on_images(0)
    # MPS has no float64, but never a second process either.
    carrier = world.device if world.size > 1 else torch.device("cpu")
    seen = gather_rows(torch.tensor(ids, dtype=torch.int64, device=carrier)[:, None])
    return _by_image(seen[:, 0].tolist(), gather_rows(torch.cat(parts).to(carrier)).cpu())


def _detect(detector: Detector, batch: EvalBatch, conf: float, iou: float, half: torch.dtype | None) -> list[Tensor]:
    """Rows `[N, 7]` for each image of a batch."""
    with torch.autocast(detector.device.type, dtype=half, enabled=half is not None):
        scores, boxes = detector.network(normalise(batch.images.to(detector.device), detector.input))
    limits = {"max_det": MAX_DETECTIONS, "most": MOST_CANDIDATES}
    left = iou if detector.nms is None else None  # to suppress
    found = detections_in_images(scores.float(), boxes.float(), batch.placements, conf=conf, iou=left, **limits)
    return [_rows(id, row) for id, row in zip(batch.ids, found, strict=True)]


def _rows(id: int, found: Detections) -> Tensor:
    """Detections as rows of id, label, score, box: float64 holds each of them exactly."""
    head = torch.stack([torch.full_like(found.labels, id), found.labels], dim=1).double()
    return torch.cat([head, found.scores[:, None].double(), found.boxes.double()], dim=1)


def _by_image(ids: list[int], rows: Tensor) -> dict[int, Detections]:
    """Inverse of `_rows`, for the images `ids`, with or without detections."""
    rows = rows[rows[:, 0].argsort(stable=True)]
    found, counts = rows[:, 0].long().unique_consecutive(return_counts=True)
    parts = dict(zip(found.tolist(), rows.split(counts.tolist()), strict=True))
    nothing = rows[:0]
    return {
        id: Detections(part[:, 3:].float(), part[:, 2].float(), part[:, 1].long())
        for id, part in ((id, parts.get(id, nothing)) for id in ids)
    }
