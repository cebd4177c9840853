"""Everything a training run needs to go on where it stopped, in one file that is whole or absent."""

from __future__ import annotations

import dataclasses
import io
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from detector.model.unpickle import unpickle
from detector.recipe import Recipe
from maenas.errors import MaenasError
from maenas.files import ensure_folder, refuse_pipe, write_atomic
from maenas.locks import locked
from maenas.spec import DetectorSpec
from maenas.strict import dump_json, parse_json

SCHEMA: Final = "maenas/training@2"
LAST: Final = "last.pt"  # in the folder of a run

# What may change between a run and its continuation: none of it touches the course of the weights.
FREE: Final = frozenset({"workers", "cache", "checkpoint_minutes", "patience", "bn_momentum"})

# What the file holds under each name; the rest are states.
_KINDS: Final = MappingProxyType(
    {
        "spec": str,
        "names": list,
        "recipe": str,
        "batch": int,
        "data": str,
        "step": int,
        "closed": int,
        "best_ap": float | int,
        "best_epoch": int,
    }
)

State = dict[str, Any]  # a state dict: tensors, numbers and texts in plain containers


@dataclass(frozen=True)
class TrainingCheckpoint:
    """A run between two steps.

    `step` stands for the state of all random generators and for the place in the data: both follow from the recipe's
    seed and the step alone.
    """

    spec: DetectorSpec
    names: tuple[str, ...]  # of the classes
    recipe: Recipe
    batch: int  # images of all processes together; what `auto` came to
    data: str  # fingerprint of the training and validation data
    step: int  # steps done
    closed: int  # epochs done, evaluated and logged
    best_ap: float  # of all evaluations so far; below 0 before the first
    best_epoch: int  # counted from 1, 0 before the first
    net: State
    average: State  # of the moving average
    optimizer: State
    scaler: State
    distiller: State  # empty without a teacher


def write_checkpoint(path: Path, checkpoint: TrainingCheckpoint) -> None:
    """Replaces the file at `path` atomically; raises MaenasError (disk full, say) and then leaves the old file."""
    document = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    document |= {
        "schema": SCHEMA,
        "spec": dump_json(checkpoint.spec),
        "recipe": dump_json(checkpoint.recipe),
        "names": list(checkpoint.names),
    }
    buffer = io.BytesIO()
    torch.save(document, buffer)
    write_atomic(path, buffer.getvalue())


def read_checkpoint(path: Path, data: bytes | None = None) -> TrainingCheckpoint:
    """Strict inverse of `write_checkpoint`, on the CPU; of `data` where another process has read the file.

    Raises MaenasError for a missing, damaged or foreign file. No code in the file is run.
    """
    if data is None and not path.exists():
        raise MaenasError(f"checkpoint {path}: there is no such file; nothing to resume")
    try:
        document = unpickle(path, data)
    except MaenasError as error:
        raise MaenasError(f"{error}; it cannot be read as the last.pt of a training run") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise MaenasError(f"checkpoint {path}: not a training checkpoint of this version ({SCHEMA})")
    known = {field.name for field in dataclasses.fields(TrainingCheckpoint)}
    del document["schema"]
    if document.keys() != known:
        raise MaenasError(
            f"checkpoint {path}: damaged; missing or unknown {', '.join(sorted(document.keys() ^ known))}"
        )
    wrong = [name for name, value in document.items() if not isinstance(value, _KINDS.get(name, dict))]
    if wrong or not all(isinstance(name, str) for name in document["names"]):
        raise MaenasError(f"checkpoint {path}: damaged; of the wrong kind: {', '.join(wrong) or 'names'}")
    ranges = (document["step"], document["closed"], document["best_epoch"], document["batch"] - 1)
    if not all(0 <= number < 2**53 for number in ranges) or document["best_epoch"] > document["closed"]:
        raise MaenasError(f"checkpoint {path}: damaged; step, epochs or batch are out of range")
    document["spec"] = parse_json(document["spec"], DetectorSpec, where=f"{path}: spec")
    document["recipe"] = parse_json(document["recipe"], Recipe, where=f"{path}: recipe")
    document["names"] = tuple(document["names"])
    return TrainingCheckpoint(**document)


def check_same_run(stored: TrainingCheckpoint, *, spec: DetectorSpec, recipe: Recipe, data: str, path: Path) -> None:
    """Raises MaenasError, naming what differs, if a run with these settings would not continue the stored one."""
    ours, theirs = dataclasses.asdict(recipe), dataclasses.asdict(stored.recipe)
    differ = [
        f"{name} ({theirs[name]} there, {ours[name]} here)"
        for name in ours
        if name not in FREE and ours[name] != theirs[name]
    ]
    if spec != stored.spec:
        differ.append(f"spec (id {stored.spec.id} there, {spec.id} here)")
    if data != stored.data:
        differ.append("data")
    if differ:
        raise MaenasError(
            f"{path}: this checkpoint is of another run; different {', '.join(differ)}. "
            "Repeat the first command with --resume, or choose another --out"
        )


def take_folder(out: Path, stack: ExitStack, *, resume: bool) -> bytes:
    """Keep `out` for this run until `stack` ends; what its last checkpoint holds, nothing where there is none."""
    ensure_folder(out)
    stack.enter_context(locked(out))
    last = out / LAST
    if not last.exists():
        return b""
    if not resume:
        raise MaenasError(f"{out} already holds a training run; add --resume to go on with it, or choose another --out")
    refuse_pipe(last, what="checkpoint")
    return last.read_bytes()


def how_to_go_on(last: Path) -> str:
    """What to do about a run that stopped; for the end of a message."""
    if not last.exists():
        return "there is no checkpoint yet: start again"
    return f"{last} is whole: repeat the command with --resume to go on from it"
