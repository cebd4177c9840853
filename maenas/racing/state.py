"""What a race's folder says about it: `race.json`, written after every trial. Everything else follows from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Final

from maenas import __version__
from maenas.choices import Precision
from maenas.errors import MaenasError
from maenas.files import read_text, write_atomic
from maenas.racing.schedule import field_sizes
from maenas.strict import STRICT, dump_json, parse_json
from maenas.units import parse_latency_s

SCHEMA: Final = "maenas/race@1"
RACE_FILE: Final = "race.json"
RUNS, SPECS = "runs", "specs"  # folders
WINNER_SPEC, WINNER_WEIGHTS = "winner.json", "winner.safetensors"


@dataclass(frozen=True)
class Settings:
    """What decides the course of a race; `--resume` goes on only with the same."""

    __pydantic_config__: ClassVar = STRICT
    data: str
    candidates: tuple[str, ...]  # the files; empty: a shortlist
    control: str | None
    budget: str | None
    device: str  # of the latency
    space: str
    shortlist: int
    input_size: int | None
    rungs: tuple[int, ...]  # epochs at which they end
    eta: int
    seeds: int
    recipe: Mapping[str, Any]  # of every candidate
    precision: Precision | None = None  # of the latency; None: a measured table's own, else fp16


@dataclass(frozen=True)
class Entrant:
    """One candidate: its name, which its folder and its spec file have, and why it is here."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    id: str  # of the spec
    why: str
    control: bool
    ms: float  # predicted
    epoch_s: float  # estimated seconds of training and evaluating for one epoch


@dataclass(frozen=True)
class Score:
    """AP of a candidate at the end of a rung, the mean over its last evaluations there."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    seed: int  # 0 for the race's own seed, 1, 2, ... for repeats
    epoch: int
    ap: float


@dataclass(frozen=True)
class Out:
    """A candidate that could not go on, before which rung's end, and why."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    seed: int
    epoch: int
    reason: str


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval over resampled images."""

    __pydantic_config__: ClassVar = STRICT
    value: float
    low: float
    high: float

    @property
    def covers_zero(self) -> bool:
        """Whether the sign of the number is open."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Finalist:
    """A candidate that was trained to the end: AP of its last averaged weights, mean over its seeds."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    ap: Interval
    by_seed: tuple[float, ...]
    behind: Interval | None  # the winner's AP less this one's; None for the winner
    test: Interval | None  # AP on the test split


@dataclass(frozen=True)
class Result:
    """How the race ended: the finalists, the winner first."""

    __pydantic_config__: ClassVar = STRICT
    finalists: tuple[Finalist, ...]
    images: int  # of the validation data
    test_images: int  # 0: there is no test split
    samples: int  # of the bootstrap

    def __post_init__(self) -> None:
        if not self.finalists:
            raise MaenasError("a result has at least one finalist")


@dataclass(frozen=True)
class Race:
    """A race so far."""

    __pydantic_config__: ClassVar = STRICT
    schema: str
    made_by: str
    settings: Settings
    entrants: tuple[Entrant, ...]
    scores: tuple[Score, ...] = ()
    out: tuple[Out, ...] = ()
    result: Result | None = None

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise MaenasError(f"schema is {self.schema!r}; this version reads {SCHEMA!r}")
        known = {entrant.name for entrant in self.entrants}
        finalists = () if self.result is None else self.result.finalists
        strangers = {row.name for row in (*self.scores, *self.out, *finalists)} - known
        if len(known) < len(self.entrants) or strangers:
            raise MaenasError(f"the entrants have equal names, or lack {', '.join(sorted(strangers)) or 'none'}")

    def entrant(self, name: str) -> Entrant:
        """The candidate called so."""
        return next(entrant for entrant in self.entrants if entrant.name == name)

    @property
    def control(self) -> str | None:
        """Name of the control, which races to the end."""
        return next((entrant.name for entrant in self.entrants if entrant.control), None)

    def score(self, name: str, epoch: int, seed: int = 0) -> float | None:
        """AP at the end of a rung; None where that is not reached."""
        rows = (s.ap for s in self.scores if (s.name, s.seed, s.epoch) == (name, seed, epoch))
        return next(rows, None)

    def is_out(self, name: str, seed: int = 0) -> bool:
        """Whether training this candidate has failed."""
        return any((row.name, row.seed) == (name, seed) for row in self.out)

    def field(self, rung: int) -> tuple[str, ...]:
        """Who trains in a rung (0, 1, ...): all, then the best of the rung before, and the control.

        Of equal APs the faster one stays. Only of a rung whose trials are done.
        """
        names = tuple(entrant.name for entrant in self.entrants)
        sizes = field_sizes(len(names), len(self.settings.rungs), self.settings.eta)
        for size, end in zip(sizes[1:], self.settings.rungs[:rung], strict=False):
            kept = {*self.ranking(names, end)[:size], self.control}
            names = tuple(name for name in names if name in kept and not self._failed_before(name, end))
        return names

    def _failed_before(self, name: str, end: int) -> bool:
        """Whether training this candidate failed before the end of this rung: later ones change no earlier field."""
        return any((row.name, row.seed) == (name, 0) and row.epoch <= end for row in self.out)

    def ranking(self, names: tuple[str, ...], end: int) -> list[str]:
        """Those of `names` that have an AP at this rung's end, the best first."""
        rated = [(-ap, self.entrant(name).ms, name) for name in names if (ap := self.score(name, end)) is not None]
        return [name for *_, name in sorted(rated)]


def new_race(settings: Settings, entrants: tuple[Entrant, ...]) -> Race:
    """A race before its first trial."""
    return Race(SCHEMA, f"maenas {__version__}", settings, entrants)


def write_race(folder: Path, race: Race) -> None:
    """Replace the state in `folder`; raises `MaenasError`."""
    write_atomic(folder / RACE_FILE, dump_json(race))


def read_race(folder: Path) -> Race:
    """The race in `folder`; raises `MaenasError` where there is none, or it is damaged."""
    path = folder / RACE_FILE
    return parse_json(read_text(path, what="race"), Race, where=str(path))


def run_name(name: str, seed: int) -> str:
    """Folder of a run among those of a race."""
    return name if seed == 0 else f"{name}-seed{seed}"


def require_same(stored: Settings, ours: Settings, folder: Path) -> None:
    """Raise `MaenasError`, naming what differs, unless a race with our settings would go on with the stored one."""
    same = replace(ours, recipe={**ours.recipe, "batch": stored.recipe.get("batch")})  # what `auto` came to there
    if ours.recipe.get("batch") != "auto":
        same = ours
    differ = []
    for field in fields(Settings):
        old, new = getattr(stored, field.name), getattr(same, field.name)
        if field.name == "recipe":
            keys = [key for key in new if key != "workers" and _plain(old.get(key)) != _plain(new[key])]
            differ += [f"{key} ({old.get(key)} there, {new[key]} here)" for key in keys]
        elif field.name == "budget" and old and new and parse_latency_s(old) == parse_latency_s(new):
            continue
        elif _same_place(old) != _same_place(new):
            differ.append(f"{field.name} ({_shown(old)} there, {_shown(new)} here)")
    if differ:
        raise MaenasError(
            f"{folder} holds another race; different {', '.join(differ)}. Repeat the first command with --resume, or "
            "choose another --out"
        )


def _same_place(value: object) -> object:
    """A path, or each of several, in the one way that all its spellings come to; other values as they are."""
    if isinstance(value, tuple):
        return [_same_place(item) for item in value]
    return os.path.realpath(value) if isinstance(value, str) and os.path.exists(value) else value


def _plain(value: object) -> object:
    """Lists for tuples, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
