"""An evolution cut short, on disk."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from maenas.errors import MaenasError
from maenas.files import read_text, write_atomic
from maenas.nas.evolution import STRATEGY, State
from maenas.nas.evolution import resume as resume_evolution
from maenas.nas.request import Setup
from maenas.nas.run import SearchResult, run
from maenas.nas.space import space_id
from maenas.strict import STRICT, dump_json, parse_json

SCHEMA = "maenas/checkpoint@1"
STORE_EVERY_S = 2.0


@dataclass(frozen=True)
class Checkpoint:
    """An evolution cut short. `fingerprint` is of everything that its course depends on."""

    __pydantic_config__: ClassVar = STRICT
    schema: str
    fingerprint: str
    generation: int
    evaluated: int
    genes: tuple[tuple[int, ...], ...]
    generator: str  # hexadecimal state and increment, and the buffered half draw

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise MaenasError(f"schema is {self.schema!r}; this version reads {SCHEMA!r}")


def fingerprint(setup: Setup) -> str:
    """Identity of a search: request, space, tables and the version of the strategy."""
    parts = [
        asdict(setup.request),
        space_id(setup.space),
        [p.table_id for p in setup.predictors],
        STRATEGY,
        np.__version__,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write_checkpoint(path: Path, setup: Setup, state: State) -> None:
    """Store `state` atomically."""
    inner = state.generator["state"]
    words = [
        f"{inner['state']:x}",
        f"{inner['inc']:x}",
        str(state.generator["has_uint32"]),
        str(state.generator["uinteger"]),
    ]
    genes = tuple(tuple(int(value) for value in row) for row in state.genes)
    write_atomic(
        path,
        dump_json(Checkpoint(SCHEMA, fingerprint(setup), state.generation, state.evaluated, genes, " ".join(words))),
    )


def read_checkpoint(path: Path, setup: Setup) -> State:
    """Strict inverse of `write_checkpoint`; raises `MaenasError`, also where the checkpoint is of another search."""
    stored = parse_json(read_text(path, what="checkpoint"), Checkpoint, where=str(path))
    if stored.fingerprint != fingerprint(setup):
        raise MaenasError(
            f"{path}: this checkpoint belongs to another search (another space, budget, device, seed or version); "
            "repeat that command to resume it, or run without --resume"
        )
    try:
        state, increment, has_half, half = stored.generator.split()
        generator: Any = {
            "bit_generator": "PCG64",
            "state": {"state": int(state, 16), "inc": int(increment, 16)},
            "has_uint32": int(has_half),
            "uinteger": int(half),
        }
        np.random.PCG64().state = generator
        genes = np.array(stored.genes, dtype=np.int64)
        return resume_evolution(setup.problem, stored.generation, stored.evaluated, genes, generator)
    except (ValueError, OverflowError) as error:
        raise MaenasError(f"{path}: the checkpoint is damaged ({error})") from error


def refuse_foreign(path: Path, setup: Setup) -> None:
    """Raise `MaenasError` where `path` is the checkpoint of another search, which a new one would overwrite."""
    try:
        stored = parse_json(read_text(path, what="checkpoint"), Checkpoint, where=str(path))
    except MaenasError:
        return  # damaged: nobody can go on from it
    if stored.fingerprint != fingerprint(setup):
        raise MaenasError(
            f"{path} is the checkpoint of another search that was interrupted: repeat that command with --resume, "
            "choose another --name or --out, or add --overwrite"
        )


def run_with_checkpoint(
    setup: Setup,
    path: Path,
    *,
    state: State | None = None,
    on_generation: Callable[[State], None] = lambda state: None,
    on_proof: Callable[[], None] = lambda: None,
) -> SearchResult:
    """`run` from `state` on, leaving the checkpoint `path` every few seconds and on Ctrl-C.

    Raises `MaenasError` where it is interrupted, saying what is stored, and as `run` does.
    """
    last: list[State | None] = [state]
    stored = [time.monotonic()]

    def keep(now: State) -> None:
        last[0] = now
        on_generation(now)
        if time.monotonic() - stored[0] > STORE_EVERY_S:
            write_checkpoint(path, setup, now)
            stored[0] = time.monotonic()

    try:
        return run(setup, on_generation=keep, state=state, on_proof=on_proof)
    except KeyboardInterrupt:
        if last[0] is None:
            raise MaenasError("interrupted before the first generation; nothing to resume") from None
        write_checkpoint(path, setup, last[0])
        raise MaenasError(f"interrupted; {path} is stored: repeat the command with --resume to go on") from None
