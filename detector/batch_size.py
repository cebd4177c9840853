"""The batch that fits into the memory of the device."""

from __future__ import annotations

import copy

import torch

from detector.data.loader import Batch, padded_count, scaled
from detector.distributed import World
from detector.model.net import DetectorNet
from detector.recipe import Recipe
from detector.step import Schedule, assemble, train_step
from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.lowering import lower
from maenas.memory import total_memory
from maenas.spec import DetectorSpec, InputSpec

CPU_BATCH = 16
EPOCH_STEPS = 16  # that an epoch of a small data set keeps, as long as a batch stays at least CPU_BATCH
GPU_BATCHES = (256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
MEMORY_SHARE = 0.9  # of what is free on a GPU that a step may take: later images may hold more boxes
TRIAL_STEPS = 2  # momentum and the like exist from the second on


def choose_batch(
    net: DetectorNet, teacher: DetectorNet | None, *, recipe: Recipe, images: int, boxes: int, world: World
) -> int:
    """Images of all processes together: the recipe's number, or for `auto` what fits and suits a set of `images`.

    On a GPU, steps on random images with `boxes` boxes each are tried from the largest batch down. Raises MaenasError
    for a number that the processes cannot share, for `auto` among several GPUs, and if not even one image fits.
    """
    if recipe.batch != "auto":
        if recipe.batch % world.size:
            raise MaenasError(f"batch is {recipe.batch}, which {world.size} processes cannot share; choose a multiple")
        return recipe.batch
    if world.device.type != "cuda":
        return CPU_BATCH * world.size
    if world.size > 1:
        raise MaenasError("batch is auto, which works with one GPU; say how many images with --batch")
    most = max(CPU_BATCH, images // EPOCH_STEPS)
    sizes = [batch for batch in GPU_BATCHES if batch <= most]
    batch = next((batch for batch in sizes if _fits(net, teacher, recipe, batch, boxes, world)), None)
    if batch is None:
        raise MaenasError("not even one image fits into the memory of the GPU; choose a smaller --input")
    return batch


def require_memory(spec: DetectorSpec, batch: int) -> None:
    """Raise `MaenasError` where a training step on `batch` images on the CPU cannot fit into this machine.

    What counts is what the network's kernels write, kept for the gradients as float32: a step takes more than that.
    """
    needed = batch * total_cost(lower(spec)).activations * 4
    there = total_memory()
    if needed > there:
        side = f"{spec.input.height}x{spec.input.width}"
        raise MaenasError(
            f"a step on {batch} images of {side} needs more than {needed / 1e9:,.1f} GB of memory, and this machine "
            f"has {there / 1e9:,.1f} GB: lower --batch or --input"
        )


def _fits(net: DetectorNet, teacher: DetectorNet | None, recipe: Recipe, batch: int, boxes: int, world: World) -> bool:
    """Whether steps on copies of the networks stay within their share of the memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(world.device)
    free, _ = torch.cuda.mem_get_info(world.device)
    there = free + torch.cuda.memory_reserved(world.device)
    try:
        parts = assemble(
            copy.deepcopy(net),
            copy.deepcopy(teacher),
            recipe=recipe,
            batch=batch,
            schedule=Schedule.of(recipe, TRIAL_STEPS),
            world=world,
        )
        images = random_batch(largest_size(net.spec.input, recipe), batch, boxes)
        for step in range(TRIAL_STEPS):
            train_step(parts, [images], step)
        torch.cuda.synchronize(world.device)
    except torch.cuda.OutOfMemoryError:
        return False
    return torch.cuda.max_memory_reserved(world.device) <= MEMORY_SHARE * there


def largest_size(size: InputSpec, recipe: Recipe) -> InputSpec:
    """The largest that a step of this recipe trains in."""
    sizes = [scaled(size, side) for side in recipe.multi_scale] or [size]
    return max(sizes, key=lambda one: one.height * one.width)


def random_batch(size: InputSpec, batch: int, boxes: int) -> Batch:
    """Noise of this size, with random boxes of class 0, as many as a batch of up to `boxes` is padded to."""
    boxes = padded_count(boxes)
    sides = torch.tensor([size.width, size.height, size.width, size.height])
    corners = torch.rand(batch, boxes, 2, 2).sort(dim=2).values.flatten(2) * sides  # [B, M, 4]
    return Batch(
        images=torch.randint(256, (batch, 3, size.height, size.width), dtype=torch.uint8),
        boxes=corners,
        labels=torch.zeros(batch, boxes, dtype=torch.int64),
        ids=torch.arange(batch),
    )
