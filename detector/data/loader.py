"""Batches for training and evaluation.

A training batch is a function of its step: which images, which augmentation, which size, all from the seed. So any
number of workers gives the same batches, several processes share a batch as one process would make it, and going on
after an interruption takes nothing but the step.

Legend: B batch of this process, H/W training size, M most boxes of an image in the batch.
"""

from __future__ import annotations

import mmap
import multiprocessing
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detector.data.augment import training_sample
from detector.data.flat import flat
from detector.data.mosaic import Labels
from detector.data.pictures import Pictures, Reports, load_image
from detector.data.sample import Dataset, Sample
from detector.data.scratch import Scratch
from detector.data.settings import AugmentSettings
from detector.images import Placement, prepare, stack
from detector.memory import AHEAD, loaders_that_fit
from maenas.errors import MaenasError
from maenas.spec import InputSpec

# What a random stream is for; the first number of its seed.
_ORDER, _IMAGE, _SIZE = 0, 1, 2
_STRIDE: Final = 32


class Batch(NamedTuple):
    """Images and boxes of one step, RGB."""

    images: Tensor  # uint8 [B, 3, H, W], channels last in memory
    boxes: Tensor  # float32 [B, M, 4], xyxy in pixels of the images; M is one of few numbers, see `padded_count`
    labels: Tensor  # int64 [B, M], -1 where there is no box
    ids: Tensor  # int64 [B], of the (first) image


@dataclass(frozen=True)
class LoaderSettings:
    """How many batches of which images; `batch_size` is that of one process."""

    input: InputSpec
    batch_size: int
    epochs: int
    plain_epochs: int = 0  # last ones, without mosaic and mixup
    seed: int = 0
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    multi_scale: tuple[int, ...] = ()  # longer sides in pixels, one drawn for each step; empty: that of `input`
    workers: int = 0
    pin_memory: bool = False


class Loader:
    """The batches of a whole training, step by step; steps count from 0 through all epochs.

    An epoch takes every image once, except for a rest that is smaller than a batch. If the whole data set is smaller
    than a batch, its images repeat until the batch is full.
    """

    def __init__(
        self, dataset: Dataset, settings: LoaderSettings, *, rank: int, world_size: int, cache: mmap.mmap | None
    ) -> None:
        self._settings = settings
        self._ids = flat(dataset.samples).ids
        sizes = training_sizes(settings)
        largest = max(size.width for size in sizes), max(size.height for size in sizes)
        self._pictures = Pictures(dataset.samples, size=largest, cache=cache)
        self.cached = self._pictures.cached
        self._scratch = Scratch()
        self._rank = rank
        self._global_batch = settings.batch_size * world_size
        self.steps_per_epoch = max(1, len(dataset) // self._global_batch)
        self.total_steps = self.steps_per_epoch * settings.epochs

    def batches(self, start: int = 0) -> Generator[Batch]:
        """The batches of the steps `start`, `start` + 1, ... to the end of the training; close it when it is over.

        Raises MaenasError where so many images are broken that none can be put in their place.
        """
        for batch in _made(_Step(self), range(start, self.total_steps), self._settings):
            if isinstance(batch, MaenasError):
                raise batch
            yield batch

    def batch(self, step: int) -> Batch:
        """The batch of one step; the same whenever and wherever it is made."""
        settings = self._settings
        epoch, number = divmod(step, self.steps_per_epoch)
        plain = epoch >= settings.epochs - settings.plain_epochs
        size = self._size(step)
        first = number * self._global_batch + self._rank * settings.batch_size
        positions = range(first, first + settings.batch_size)
        order = np.random.default_rng((_ORDER, settings.seed, epoch)).permutation(len(self._ids))
        indices = order[np.arange(positions.start, positions.stop) % len(order)]
        images = torch.empty((settings.batch_size, size.height, size.width, 3), dtype=torch.uint8)
        labels = [
            training_sample(
                int(index),
                self._pictures,
                settings.augment,
                np.random.default_rng((_IMAGE, settings.seed, epoch, position)),
                image.numpy(),
                self._scratch,
                mosaic_prob=0.0 if plain else settings.augment.mosaic_prob,
                strength=step / self.total_steps,
                resize=size,
            )
            for position, index, image in zip(positions, indices, images, strict=True)
        ]
        return Batch(images.permute(0, 3, 1, 2), *_padded(labels), torch.from_numpy(self._ids[indices]))

    def _size(self, step: int) -> InputSpec:
        """The training size of a step, the same in every process."""
        sides = self._settings.multi_scale
        if not sides:
            return self._settings.input
        side = sides[np.random.default_rng((_SIZE, self._settings.seed, step)).integers(len(sides))]
        return scaled(self._settings.input, side)


def training_sizes(settings: LoaderSettings) -> list[InputSpec]:
    """The sizes of the images that steps may have."""
    return [scaled(settings.input, side) for side in settings.multi_scale] or [settings.input]


def scaled(size: InputSpec, side: int) -> InputSpec:
    """The training size whose longer side is `side`, as near to the ratio of `size` as multiples of 32 are."""
    scale = side / max(size.height, size.width)
    height, width = (max(1, round(length * scale / _STRIDE)) * _STRIDE for length in (size.height, size.width))
    return replace(size, height=height, width=width)


def make_loader(
    dataset: Dataset, settings: LoaderSettings, *, rank: int = 0, world_size: int = 1, cache: mmap.mmap | None = None
) -> Loader:
    """The training batches of process `rank` of `world_size`; `cache` is memory for decoded images, as for `Pictures`.

    Raises MaenasError for an empty data set or a batch size under 1.
    """
    if len(dataset) == 0:
        raise MaenasError(f"{dataset.source}: there is no image to train on")
    if settings.batch_size < 1:
        raise MaenasError(f"the batch size is {settings.batch_size}; it must be at least 1 in every process")
    return Loader(dataset, settings, rank=rank, world_size=world_size, cache=cache)


class EvalBatch(NamedTuple):
    """Images for evaluation, not augmented, and where each one lies in the network's input."""

    images: Tensor  # uint8 [B, 3, H, W], channels last in memory
    ids: tuple[int, ...]
    placements: tuple[Placement, ...]


def eval_batches(
    dataset: Dataset, size: InputSpec, *, batch_size: int, workers: int = 0, reports: Reports | None = None
) -> Iterator[EvalBatch]:
    """All images in order, resized for the network; those that cannot be read are left out, with a warning.

    The same `reports` given to later evaluations keep a warning from being repeated.
    """
    parts = [range(len(dataset))[at : at + batch_size] for at in range(0, len(dataset), batch_size)]
    source = _Parts(dataset.samples, parts, size, reports or Reports(dataset.samples))
    found = _made(source, range(len(parts)), LoaderSettings(size, batch_size, epochs=1, workers=workers))
    yield from (batch for batch in found if batch is not None)


def padded_count(boxes: int) -> int:
    """Rows for up to so many boxes: 8, 12, 16, 24, 32, ... so that steps have few shapes, with a half more at most."""
    rows = 8
    while rows < boxes:
        rows = rows * 3 // 2 if rows & (rows - 1) == 0 else rows // 3 * 4
    return rows


def _padded(labels: list[Labels]) -> tuple[Tensor, Tensor]:
    """Boxes `[B, M, 4]` and labels `[B, M]`."""
    most = padded_count(max(len(entry.labels) for entry in labels))
    boxes = torch.zeros((len(labels), most, 4))
    classes = torch.full((len(labels), most), -1)
    for row, entry in enumerate(labels):
        boxes[row, : len(entry.labels)] = torch.from_numpy(entry.boxes)
        classes[row, : len(entry.labels)] = torch.from_numpy(entry.labels)
    return boxes, classes


# Worker processes ---------------------------------------------------------------------------------------------------


class _Step:
    """Batches by step, errors as values: a traceback from a worker is no message."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getitem__(self, step: int) -> Batch | MaenasError:
        try:
            return self._loader.batch(step)
        except MaenasError as error:
            return error


class _Parts:
    """Evaluation batches by number; None where no image can be read."""

    def __init__(self, samples: Sequence[Sample], parts: list[range], size: InputSpec, reports: Reports) -> None:
        self._samples = samples
        self._parts = parts
        self._size = size
        self._reports = reports

    def __getitem__(self, number: int) -> EvalBatch | None:
        images, ids, placements = [], [], []
        for index in self._parts[number]:
            sample, warn = self._samples[index], partial(self._reports.warn, index)
            try:
                image, placement = prepare(load_image(sample, warn=warn), self._size)
            except MaenasError as error:
                warn(f"left out of the evaluation: {error}")
                continue
            images.append(image)
            ids.append(sample.id)
            placements.append(placement)
        return EvalBatch(stack(images), tuple(ids), tuple(placements)) if images else None


def _made(source: Any, order: range, settings: LoaderSettings) -> Iterator[Any]:
    """source[i] for i in `order`, made ahead of time by as many of the wanted processes as there is room for."""
    batch_bytes = 3 * settings.batch_size * max(size.height * size.width for size in training_sizes(settings))
    workers = loaders_that_fit(settings.workers, batch_bytes)
    if workers:
        yield from _in_workers(source, order, replace(settings, workers=workers))
    else:
        yield from map(source.__getitem__, order)


def _in_workers(source: Any, order: range, settings: LoaderSettings) -> Iterator[Any]:
    """source[i] for i in `order`, made by worker processes ahead of time; the processes end with the iterator.

    One that hangs is killed: it ignores the signal by which Python would end it, and would wait for, at its own exit.
    """
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=order,
        collate_fn=_as_it_is,
        num_workers=settings.workers,
        prefetch_factor=AHEAD,
        pin_memory=settings.pin_memory,
        worker_init_fn=_start_worker,
        # Forked workers share the image cache.
        multiprocessing_context="fork" if sys.platform == "linux" else None,
    )
    others = {process.pid for process in multiprocessing.active_children()}
    batches = iter(loader)
    workers = [process for process in multiprocessing.active_children() if process.pid not in others]
    try:
        yield from batches
    finally:
        del batches  # which asks them to end, and waits for a few seconds
        for process in workers:
            if process.is_alive():
                process.kill()


@contextmanager
def lost_loaders(advice: Callable[[], str]) -> Iterator[None]:
    """Raises MaenasError where a worker process was killed, which torch tells wherever the main process just is."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MaenasError(
            "a process that loads images was killed, perhaps because memory ran out; with --set workers=0 there is "
            f"none. {advice()}"
        ) from error


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # terminals and schedulers send them to all; the main process answers
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # and then ends its workers
