"""What a training run is made of (network, data, recipe, first weights), and its parts before the first step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from detector.batch_size import choose_batch, require_memory
from detector.checkpoint import TrainingCheckpoint
from detector.data.dataset import align_names, how_to_split, open_dataset, shared_images
from detector.data.flat import flat
from detector.data.loader import Loader, LoaderSettings, make_loader, scaled
from detector.data.sample import Dataset
from detector.data.shapes import SHAPES, SIZE, are_built_in
from detector.device import choose_device
from detector.distributed import World
from detector.memory import node_memory, tell_node
from detector.model.inherit import other_style
from detector.model.net import DetectorNet
from detector.model.weights import Weights, load_into, load_net, read_weights
from detector.recipe import AUTO, Recipe, choose_recipe, load_recipe, override
from detector.step import Parts, Schedule, assemble
from detector.warm_start import warm_start
from maenas.errors import MaenasError, printable_line
from maenas.memory import free_memory
from maenas.spec import SCHEMA, DetectorSpec, SpecFile, load_spec, resized

MOST_NAMES = 8  # shown of the classes
STATISTICS = (".running_mean", ".running_var")  # of batch norms


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and how.

    `spec` has as many classes as `train`; `val` has the same ones. `start` are weights to begin with, of the same
    network but for the class count.
    """

    spec: DetectorSpec
    name: str
    train: Dataset
    val: Dataset | None
    recipe: Recipe
    start: Weights | None = None
    teacher: DetectorNet | None = None
    chosen: str = "given"  # what the recipe is called, and why it was chosen
    spec_file: SpecFile | None = None  # what `spec` was taken from; the weights carry it


class Designed(Protocol):
    """A spec with its origin, as what a search found."""

    @property
    def spec(self) -> DetectorSpec: ...
    @property
    def provenance(self) -> Mapping[str, Any]: ...


def make_job(
    spec: str | Path | DetectorSpec | SpecFile | Designed,
    data: str | Path = SHAPES,
    *,
    recipe: str | Path | Recipe = AUTO,
    settings: Sequence[str] = (),
    epochs: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    patience: int | None = None,
    input_size: int | None = None,
    device: str = "auto",
    finetune: str | Path | None = None,
    init: str | Path | None = None,
    teacher: str | Path | None = None,
) -> Job:
    """What to train: the network `spec` (a file, a shipped name, or the spec itself) on `data`, whose classes it takes.

    `recipe` is a preset or a file; `auto` chooses by data, weights and `device`. `settings` ("key=value"), `epochs`,
    `batch`, `seed` and `patience` change it. `input_size` is the side of the square input, for the built-in shapes 192
    unless given. `finetune` are weights to begin with, `init` those of a detector of other widths and depths to inherit
    from, `teacher` those of a detector to distil from, which short recipes also inherit from (`distill.start`).
    Raises `MaenasError` for what cannot be read, or does not fit together.
    """
    shorts = {"epochs": epochs, "batch": batch, "seed": seed, "patience": patience}
    texts = [*settings, *(f"{key}={value}" for key, value in shorts.items() if value is not None)]
    given = None if recipe == AUTO else override(_named(recipe), texts)  # a mistake shows before data are read
    file = _spec_file(spec)
    detector = file.detector
    train, val = _splits(data)
    detector = replace(detector, head=replace(detector.head, num_classes=len(train.names)))
    if input_size is None and are_built_in(data):
        input_size = SIZE
    detector = resized(detector, input_size)
    if finetune is not None and init is not None:
        raise MaenasError("--finetune and --init both say what to begin with; give one of them")
    start = None if finetune is None else read_weights(finetune)
    chosen = "given" if isinstance(recipe, Recipe) else str(recipe)
    if given is None:
        choice = choose_recipe(
            images=len(train),
            classes=len(train.names),
            device=choose_device(device).type,
            start=start is not None,
            shapes=are_built_in(data),
            depthwise=detector.backbone.stages[0].block == "k1dwk1",
        )
        given, chosen = override(load_recipe(choice.name), texts), f"{choice.name} (chosen: {choice.why})"
    taught = None if teacher is None else load_net(teacher)[0]
    if init is None and finetune is None and taught is not None and given.distill.start == "teacher":
        init = None if other_style(taught.spec, detector) else teacher
    if init is not None:
        start = warm_start(init, detector, train, seed=given.seed)[0]
    return Job(detector, file.name, train, val, given, start, taught, chosen, file)


def _splits(data: str | Path) -> tuple[Dataset, Dataset]:
    """Training and validation images; labels of both count the classes of the first."""
    if str(data).lower().endswith(".json"):
        raise MaenasError(
            f"data {data}: one file is one split, and AP on the images of the training says nothing; name the folder. "
            f"{how_to_split(data)}"
        )
    train = open_dataset(data, "train")
    return train, align_names(open_dataset(data, "val"), train.names)


def _named(recipe: str | Path | Recipe) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe))


def _spec_file(spec: str | Path | DetectorSpec | SpecFile | Designed) -> SpecFile:
    if isinstance(spec, str | Path):
        return load_spec(str(spec))
    if isinstance(spec, SpecFile):
        return spec
    if isinstance(spec, DetectorSpec):
        return SpecFile(SCHEMA, "detector", spec.id, spec)
    return SpecFile(SCHEMA, "detector", spec.spec.id, spec.spec, spec.provenance)


def leak_text(job: Job) -> str:
    """How many validation images are among those of the training, and what that means; empty for none."""
    shared = 0 if job.val is None else shared_images(job.train, job.val)
    return f"{shared} validation images are trained on, too: AP says little about new images" if shared else ""


def start_text(job: Job) -> str:
    """Where the weights to begin with come from, and what they do not cover; empty for random ones."""
    if job.start is None:
        if job.teacher is None or job.recipe.distill.start == "random":
            return ""
        return f"random weights: the teacher is of another style ({other_style(job.teacher.spec, job.spec)})"
    report = load_into(DetectorNet(job.spec), job.start)
    parts = [
        f"{what} {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        for what, names in (("new", report.reinitialised), ("missing", report.missing), ("unused", report.unexpected))
        if names
    ]
    if not report.reinitialised and job.start.names != job.train.names:
        parts.append(
            f"the class convolutions were trained for {', '.join(map(printable_line, job.start.names[:MOST_NAMES]))}"
        )
    if new := job.start.metadata.get("new_classes"):
        parts.append(f"new classes: {new} of {len(job.start.names)}")
    source = job.start.metadata.get("inherited_from")
    own = job.teacher is not None and source == job.teacher.spec.id
    words = "given weights" if source is None else f"inherited from {'the teacher' if own else f'detector {source}'}"
    return f"{words}; {'; '.join(parts) or 'all tensors fit'}"


def assemble_run(job: Job, world: World, stored: TrainingCheckpoint | None) -> tuple[Parts, Loader, int]:
    """The parts of a run, new or as `stored`, its data, and its batch over all processes."""
    recipe = job.recipe
    torch.manual_seed(recipe.seed)
    net = DetectorNet(job.spec)
    if job.start is not None:
        load_into(net, job.start)
    # A mosaic has the boxes of four images, and mixup adds those of a fifth.
    boxes = int(flat(job.train.samples).counts.max()) * (5 if recipe.augment.mixup_prob > 0 else 4)
    batch = (
        choose_batch(net, job.teacher, recipe=recipe, images=len(job.train), boxes=boxes, world=world)
        if stored is None
        else _stored_batch(stored, world)
    )
    _require_statistics(job, batch // world.size)
    if world.device.type == "cpu":
        require_memory(job.spec, batch // world.size)
    cache = node_memory(world, free_memory() // 2) if recipe.cache == "ram" else None
    settings = LoaderSettings(
        job.spec.input,
        batch // world.size,
        recipe.epochs,
        recipe.plain_epochs,
        seed=recipe.seed,
        augment=recipe.augment,
        multi_scale=recipe.multi_scale,
        workers=worker_count(recipe),
        pin_memory=world.device.type == "cuda",
    )
    loader = make_loader(job.train, settings, rank=world.rank, world_size=world.size, cache=cache)
    if cache is not None and loader.cached < len(job.train):
        tell_node(
            f"only {loader.cached} of {len(job.train)} images fit, decoded, into the {len(cache) / 1e9:.1f} GB for "
            "them; the others are decoded at every use"
        )
    schedule = Schedule.of(recipe, loader.steps_per_epoch)
    parts = assemble(net, job.teacher, recipe=recipe, batch=batch, schedule=schedule, world=world)
    if stored is not None:
        _restore(parts, stored)
    return parts, loader, batch


def _require_statistics(job: Job, images: int) -> None:
    """Raise `MaenasError` where batch norm would have one number a channel: one image, one cell at the last stride."""
    sizes = [scaled(job.spec.input, side) for side in job.recipe.multi_scale] or [job.spec.input]
    if images == 1 and any(max(size.height, size.width) == 32 for size in sizes):
        raise MaenasError("one image of 32x32 a step leaves batch norm nothing to average; raise --batch or --input")


def _stored_batch(stored: TrainingCheckpoint, world: World) -> int:
    """Images of all processes together, which may be more or fewer than before: a batch is made alike by any number."""
    if stored.batch % world.size:
        raise MaenasError(
            f"the run takes {stored.batch} images a step, which {world.size} processes cannot share; resume it with a "
            "number of processes that divides them"
        )
    return stored.batch


def _restore(parts: Parts, stored: TrainingCheckpoint) -> None:
    try:
        parts.net.load_state_dict(stored.net)
        parts.average.load_state_dict(stored.average)
        parts.optimizer.load_state_dict(stored.optimizer)
        _fit_optimizer(parts.optimizer)
        if stored.scaler:  # empty where the run had no fp16
            parts.scaler.load_state_dict(stored.scaler)
        if parts.distiller is not None:
            parts.distiller.load_state_dict(stored.distiller)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise MaenasError(f"the checkpoint does not hold the states of this run: {error!s:.300}") from error


def _fit_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Lays the state out in memory as the parameters, which differs between devices and which fused optimisers ignore.

    Raises `ValueError` for a state of another shape than its parameter, which torch would use until it fails.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, torch.Tensor) or not value.ndim:
                continue
            if value.shape != parameter.shape:
                raise ValueError(f"{name} of the optimiser is {tuple(value.shape)}, not {tuple(parameter.shape)}")
            state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def worker_count(recipe: Recipe) -> int:
    """Processes that load images: as many as wanted, but not more than there are CPUs for this process."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(recipe.workers, cpus)


def fingerprint(job: Job) -> str:
    """Identity of the data, of the weights to begin with, and of the teacher.

    Statistics of inherited weights do not count: they come from the data, rounded as the number of threads has it.
    """
    digest = hashlib.sha256()
    for dataset in (job.train, job.val):
        if dataset is None:
            continue
        digest.update(repr(dataset.names).encode())
        for sample in dataset.samples:
            text = f"{sample.id} {sample.path.name} {sample.width} {sample.height}"
            digest.update(os.fsencode(text))
            digest.update(sample.boxes.tobytes() + sample.labels.tobytes())
    start = {} if job.start is None else job.start.state
    if job.start is not None and "inherited_from" in job.start.metadata:
        start = {name: tensor for name, tensor in start.items() if not name.endswith(STATISTICS)}
    teacher = {} if job.teacher is None else job.teacher.state_dict()
    for name, tensor in (*start.items(), *teacher.items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
