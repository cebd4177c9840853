"""One training step: forward, losses, backward, clipping, update, moving average.

Letters: B images of a batch, M boxes of an image (padded).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detector.boxes import make_priors
from detector.data.loader import Batch
from detector.distill import Distiller, distill_weight
from detector.distributed import World, mean_over_processes, sync_batch_norm
from detector.ema import ema_momentum, floating_tensors, make_average, update_average
from detector.images import normalise
from detector.losses import detection_losses
from detector.model.net import DetectorNet, RawPredictions
from detector.optim import lr_at, make_optimizer, set_lr
from detector.recipe import Recipe

SYNC_BELOW = 16  # images of a process; so many are enough for statistics of their own
LOSSES: tuple[str, ...] = ("total", "cls", "box", "dfl", "distill")


@dataclass(frozen=True)
class Schedule:
    """Lengths in steps. An epoch has `batches_per_epoch` batches, up to `accumulate` of them in a step."""

    batches_per_epoch: int
    accumulate: int
    steps_per_epoch: int
    total: int
    warmup: int
    flat: int
    distill_off: int

    @classmethod
    def of(cls, recipe: Recipe, batches_per_epoch: int) -> Schedule:
        """The schedule of a recipe whose epochs have this many batches."""
        steps = -(-batches_per_epoch // recipe.accumulate)
        return cls(
            batches_per_epoch,
            recipe.accumulate,
            steps,
            total=recipe.epochs * steps,
            warmup=round(recipe.warmup_epochs * steps),
            flat=recipe.plain_epochs * steps,
            distill_off=recipe.distill.off_epochs * steps,
        )

    def first_batch(self, step: int) -> int:
        """Number, through all epochs, of the first batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return epoch * self.batches_per_epoch + place * self.accumulate


class Student(nn.Module):
    """What is differentiated: the network, and the distiller where there is a teacher."""

    def __init__(self, net: DetectorNet, distiller: Distiller | None) -> None:
        super().__init__()
        self.net = net
        self.distiller = distiller

    def forward(self, images: Tensor, taught: tuple[Tensor, ...] | None) -> tuple[RawPredictions, Tensor]:
        """Predictions, and the distillation loss against the teacher's features `taught`."""
        features = self.net.features(images)
        raw = self.net.predict_from(features)
        if self.distiller is None:
            return raw, images.new_zeros(())
        if taught is None:
            # DDP waits for a gradient of every parameter.
            return raw, torch.stack([parameter.sum() for parameter in self.distiller.parameters()]).sum() * 0
        return raw, self.distiller(features, taught)


@dataclass(frozen=True)
class Parts:
    """Everything that a step reads and changes."""

    net: DetectorNet
    student: Student | DistributedDataParallel
    distiller: Distiller | None
    teacher: DetectorNet | None
    average: DetectorNet
    averaging: tuple[list[Tensor], list[Tensor]]  # the tensors of `average` that follow those of `net`
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    recipe: Recipe
    schedule: Schedule
    world: World
    layout: torch.memory_format
    lr: float  # full rate
    half: torch.dtype | None  # of mixed precision; None: everything in float32


def assemble(
    net: DetectorNet, teacher: DetectorNet | None, *, recipe: Recipe, batch: int, schedule: Schedule, world: World
) -> Parts:
    """Puts the networks on the device of `world` and makes what trains them; `batch` is of all processes together."""
    device = world.device
    layout = memory_format(net, device)
    net = net.to(device).to(memory_format=layout)
    set_statistics_momentum(net, recipe.bn_momentum)
    average = cast(DetectorNet, make_average(net))
    if world.size > 1 and shares_statistics(recipe, batch // world.size):
        sync_batch_norm(net, device)
    distiller = None
    if teacher is not None:
        teacher = teacher.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        widths = (net.spec.neck.out_channels, teacher.spec.neck.out_channels)
        distiller = Distiller(*widths, kind=recipe.distill.kind).to(device)
    lr = recipe.lr_per_image * batch * recipe.accumulate
    student: Student | DistributedDataParallel = Student(net, distiller).train()
    optimizer = make_optimizer(
        recipe.optimizer, student, lr=lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
    )
    if recipe.compile:
        student.compile()
    if world.size > 1:
        # Statistics are the same everywhere, or those of the main process count, which the evaluation hands out.
        # PyTorch 2.14 warns of the older name.
        names = inspect.signature(DistributedDataParallel).parameters
        unsynced = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        settings: dict[str, Any] = {unsynced: False}
        student = DistributedDataParallel(student, gradient_as_bucket_view=True, **settings)
    half = half_precision(recipe.amp, device)
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    return Parts(
        net=net,
        student=student,
        distiller=distiller,
        teacher=teacher,
        average=average,
        averaging=(floating_tensors(average), floating_tensors(net)),
        optimizer=optimizer,
        scaler=scaler,
        recipe=recipe,
        schedule=schedule,
        world=world,
        layout=layout,
        lr=lr,
        half=half,
    )


def set_statistics_momentum(net: nn.Module, momentum: float) -> None:
    """Give a step this weight in the running statistics of every batch norm. It changes evaluations, not gradients."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = momentum


def shares_statistics(recipe: Recipe, images: int) -> bool:
    """Whether batch statistics are those of all processes, where each has `images`: sharing makes every layer wait."""
    return images < SYNC_BELOW if recipe.sync_bn == "auto" else recipe.sync_bn


def states(parts: Parts) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps of them."""
    return {
        "net": parts.net.state_dict(),
        "average": parts.average.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "scaler": parts.scaler.state_dict(),
        "distiller": {} if parts.distiller is None else parts.distiller.state_dict(),
    }


def is_rated(recipe: Recipe, epoch: int) -> bool:
    """Whether an evaluation follows epoch 0, 1, ...: the last, plain ones, and each `eval_every`-th."""
    left = recipe.epochs - epoch - 1  # epochs after this one
    return left == 0 or left < recipe.plain_epochs or (epoch + 1) % recipe.eval_every == 0


def half_precision(amp: Literal["auto", "none", "bf16", "fp16"], device: torch.device) -> torch.dtype | None:
    """What mixed precision computes in; `auto` is bf16 on a GPU that has it, else fp16, and none elsewhere."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def least_matches(step: int, total: int, early: int) -> int:
    """Priors that a box is given at least: `early` at the start, falling to 1 in the middle of the run."""
    return 1 + round((early - 1) * max(0.0, 1 - 2 * step / total))


def memory_format(net: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, the faster layout, except where it is unsafe.

    On the CPU, oneDNN of PyTorch 2.14 then writes past its memory in the backward pass of a 1x1 convolution of stride 2
    that takes 8 channels (RepConv after a bottleneck of 8).
    """
    unsafe = any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride == (2, 2)
        and layer.in_channels < 16
        for layer in net.modules()
    )
    return torch.contiguous_format if unsafe and device.type == "cpu" else torch.channels_last


def step_lr(parts: Parts, step: int) -> float:
    """Learning rate of step 0, 1, ..."""
    schedule = parts.schedule
    return lr_at(
        step,
        base_lr=parts.lr,
        total_steps=schedule.total,
        warmup_steps=schedule.warmup,
        flat_steps=schedule.flat,
        final_ratio=parts.recipe.min_lr_ratio,
    )


def train_step(parts: Parts, batches: Sequence[Batch], step: int) -> Tensor:
    """Step 0, 1, ... with the batches whose gradients are averaged; the mean `LOSSES` `[5]` of all processes.

    Does not wait for the device (except Muon in fp16, whose overflows the host reads). Randomness follows from the
    seed, the step and the rank.
    """
    recipe, world = parts.recipe, parts.world
    torch.manual_seed(int(np.random.SeedSequence([recipe.seed, step, world.rank]).generate_state(1, np.uint64)[0] >> 1))
    set_lr(parts.optimizer, step_lr(parts, step))
    parts.optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(len(LOSSES), device=world.device)
    for number, batch in enumerate(batches, start=1):
        with nullcontext() if number == len(batches) else _unsynchronised(parts.student):
            losses = _losses(parts, batch, step)
            parts.scaler.scale(losses[0] / len(batches)).backward()
        sums += losses.detach()
    _update(parts)
    momentum = ema_momentum(step, momentum=recipe.ema_decay, ramp_steps=recipe.ema_ramp_steps)
    update_average(*parts.averaging, momentum)
    return mean_over_processes(sums / len(batches))


def _unsynchronised(student: Student | DistributedDataParallel):
    """Gradients of all but the last batch stay in their process."""
    return student.no_sync() if isinstance(student, DistributedDataParallel) else nullcontext()


def _losses(parts: Parts, batch: Batch, step: int) -> Tensor:
    """`LOSSES` `[5]` of one batch, with their graph."""
    recipe, device = parts.recipe, parts.world.device
    pixels = batch.images.to(device, non_blocking=True)  # [B, 3, H, W]
    images = normalise(pixels, parts.net.spec.input)
    boxes = batch.boxes.to(device, non_blocking=True)  # [B, M, 4]
    labels = batch.labels.to(device, non_blocking=True)  # [B, M]
    images = images.contiguous(memory_format=parts.layout)
    weight = 0.0
    if parts.teacher is not None:
        off_steps = parts.schedule.distill_off
        weight = recipe.distill.weight * distill_weight(step, parts.schedule.total, off_steps=off_steps)
    with torch.autocast(device.type, dtype=parts.half, enabled=parts.half is not None):
        taught = None
        if parts.teacher is not None and weight > 0:
            with torch.no_grad():
                taught = parts.teacher.features(normalise(pixels, parts.teacher.spec.input))
        raw, distill = parts.student(images, taught)
    priors = make_priors(images.shape[-2], images.shape[-1], device)
    task = detection_losses(
        raw,
        priors,
        boxes,
        labels,
        reg_max=parts.net.spec.head.reg_max,
        cls_weight=recipe.cls_weight,
        box_weight=recipe.box_weight,
        dfl_weight=recipe.dfl_weight,
        least_matches=least_matches(step, parts.schedule.total, recipe.early_matches),
    )
    distill = weight * distill
    return torch.stack([task.total + distill, task.cls, task.box, task.dfl, distill])


def _update(parts: Parts) -> None:
    """Clip and apply the gradients; after an overflow of fp16 the scaler leaves the weights as they are."""
    recipe = parts.recipe
    limit = recipe.clip_norm if parts.teacher is None else recipe.distill.clip_norm
    if limit is not None:
        parts.scaler.unscale_(parts.optimizer)
        torch.nn.utils.clip_grad_norm_(parts.student.parameters(), limit)
    parts.scaler.step(parts.optimizer)
    parts.scaler.update()
