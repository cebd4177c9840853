"""What training would take, measured on a few steps that are then thrown away."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from itertools import islice

import torch

from detector.distributed import World, join_world
from detector.job import Job, assemble_run
from detector.process import algorithms
from detector.recipe import Recipe
from detector.step import Parts, train_step

STEPS = 3  # the first one is not timed: it allocates, and chooses algorithms
FORWARD = 1 / 3  # of a training step's time: backward takes twice as long
STATES = {"sgd": 1, "adamw": 2, "muon": 1}  # numbers that the optimizer keeps for each parameter


@dataclass(frozen=True)
class Steps:
    """A run's parts, its batch over all processes, and when its first steps began and each of them ended, seconds."""

    parts: Parts
    batch: int
    began: float
    ends: tuple[float, ...]


def first_steps(job: Job, world: World, count: int) -> Steps:
    """Run up to `count` steps of `job` with the algorithms of a training, waiting for the device after each."""
    with algorithms(deterministic=job.recipe.deterministic):
        parts, loader, batch = assemble_run(job, world, stored=None)
        batches, schedule, ends = loader.batches(), parts.schedule, []
        began = time.perf_counter()
        for step in range(min(count, schedule.total)):
            group = list(islice(batches, schedule.first_batch(step + 1) - schedule.first_batch(step)))
            train_step(parts, group, step).tolist()
            ends.append(time.perf_counter())
    return Steps(parts, batch, began, tuple(ends))


@dataclass(frozen=True)
class Measured:
    """The batch that `auto` comes to, and seconds to train on one image."""

    batch: int
    image_s: float


def measure(job: Job, device: str) -> Measured:
    """Time a few steps of `job`; the memory that they took on a GPU is free afterwards, for other processes too."""
    with join_world(device) as world:
        steps = first_steps(job, world, STEPS)
        batch, times = steps.batch, steps.ends if len(steps.ends) > 1 else (steps.began, *steps.ends)
        del steps
        gc.collect()  # a compiled network refers to itself
        torch.cuda.empty_cache()
    return Measured(batch, (times[-1] - times[0]) / (len(times) - 1) / (batch * job.recipe.accumulate))


def epoch_seconds(job: Job, image_s: float) -> float:
    """Of training for one epoch, and of its share of the evaluations."""
    rated = 0 if job.val is None else len(job.val) * FORWARD / job.recipe.eval_every
    return image_s * (len(job.train) + rated)


def run_bytes(params: int, recipe: Recipe) -> int:
    """Disk that a run takes: two checkpoints with network, average and optimizer, and the weights, in float32."""
    return 4 * params * (2 * (2 + STATES[recipe.optimizer]) + 1)
