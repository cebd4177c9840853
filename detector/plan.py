"""What a training run would take: its steps, memory and time, measured on a few steps that are then thrown away."""

from __future__ import annotations

import resource
import sys

import torch

from detector.cost import first_steps
from detector.distributed import World, join_world
from detector.job import Job
from maenas.units import format_duration, number_of

STEPS = 5  # the first one is not timed: it allocates, and chooses algorithms


def plan_job(job: Job, device: str = "auto") -> str:
    """Lines of `plan_text`, on the device called so; nothing in processes other than the main one."""
    with join_world(device) as world:
        text = plan_text(job, world)
        return f"{'recipe':<11}{job.chosen}\n{text}\n" if world.is_main else ""


def plan_text(job: Job, world: World) -> str:
    """Steps, batch, memory and an estimate of the time of the run, without evaluation; one line each."""
    steps = first_steps(job, world, STEPS)
    parts, batch, times = steps.parts, steps.batch, steps.ends
    recipe, schedule = job.recipe, parts.schedule
    lines = [
        f"images     {len(job.train)}, {schedule.steps_per_epoch} steps of {batch} x {recipe.accumulate} an epoch",
        f"steps      {schedule.total} in {number_of(recipe.epochs, 'epoch')}; full learning rate {parts.lr:.3g}",
        f"device     {world.device}, {world.size} process{'es' if world.size > 1 else ''}, {_precision(parts.half)}",
        f"memory     {_memory_bytes(world.device) / 1e9:.2f} GB at most so far",
    ]
    if len(times) > 1:
        seconds = (times[-1] - times[0]) / (len(times) - 1)
        speed, whole = batch * recipe.accumulate / seconds, format_duration(seconds * schedule.total)
        lines.append(f"time       {seconds:.3f} s a step ({speed:.1f} images/s): {whole}")
    else:
        lines.append("time       one step only: too few to estimate from")
    return "\n".join(lines)


def _precision(half: torch.dtype | None) -> str:
    return "float32" if half is None else f"float32 and {str(half).removeprefix('torch.')}"


def _memory_bytes(device: torch.device) -> int:
    """Most memory taken: on the GPU, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
