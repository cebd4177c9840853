"""Losses read without making the GPU wait, and the stop at the first that is not a number."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from detector.data.loader import Batch
from detector.distributed import World
from detector.step import LOSSES
from maenas.errors import MaenasError
from maenas.files import write_atomic

MOST_WAITING = 4  # steps that the GPU may be behind without anybody waiting for it


class LossNotFiniteError(MaenasError):
    """Training has diverged."""


class StepLosses(NamedTuple):
    """What a step gave, on the CPU."""

    step: int  # counted from 0
    losses: dict[str, float]
    images: int
    at: float  # when the step was handed to the device, seconds: several are read in a moment at the end of an epoch


class _Waiting(NamedTuple):
    step: int
    batches: Sequence[Batch]
    values: Tensor  # [5], on the CPU once `ready` has happened
    ready: torch.cuda.Event | None
    at: float


class LossReader:
    """Queue of losses on their way from the device; keeps the batches of a step until its losses are known."""

    def __init__(self, out: Path, world: World) -> None:
        self._path = out / ("bad_batch.safetensors" if world.size == 1 else f"bad_batch_{world.rank}.safetensors")
        self._queue: deque[_Waiting] = deque()

    def push(self, step: int, batches: Sequence[Batch], losses: Tensor) -> None:
        """The `LOSSES` `[5]` of a step, still on the device."""
        if losses.device.type != "cuda":
            self._queue.append(_Waiting(step, batches, losses.cpu(), None, time.monotonic()))
            return
        values = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
        values.copy_(losses, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        self._queue.append(_Waiting(step, batches, values, ready, time.monotonic()))

    def arrived(self, *, everything: bool = False) -> Iterator[StepLosses]:
        """The steps whose losses are read now, in order: on a GPU those of `MOST_WAITING` steps ago, or `everything`.

        So all processes read the same, however fast each of their GPUs is.
        Raises LossNotFiniteError at the first loss that is not finite, after storing the batches of that step.
        """
        while self._queue:
            first = self._queue[0]
            if first.ready is not None:
                if not everything and len(self._queue) <= MOST_WAITING:
                    return
                first.ready.synchronize()
            self._queue.popleft()
            losses: dict[str, float] = dict(zip(LOSSES, first.values.tolist(), strict=True))
            self._check(first, losses)
            images = sum(len(batch.images) for batch in first.batches)
            yield StepLosses(first.step, losses, images, first.at)

    def _check(self, row: _Waiting, losses: dict[str, float]) -> None:
        parts = [name for name in LOSSES[1:] if not math.isfinite(losses[name])]
        if math.isfinite(losses["total"]) and not parts:
            return
        tensors = {
            f"{number}.{name}": tensor.contiguous()
            for number, batch in enumerate(row.batches)
            for name, tensor in batch._asdict().items()
        }
        write_atomic(self._path, save(tensors))
        raise LossNotFiniteError(
            f"step {row.step + 1}: the loss {' and '.join(parts) or 'total'} is not finite; the batch is in "
            f"{self._path}. The last checkpoint is from before. Lower lr_per_image, set clip_norm, or use amp none, "
            "and start again"
        )
