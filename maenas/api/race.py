"""`maenas.race`: candidates trained on one's own data by successive halving, and an honest winner."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tqdm import tqdm

from detector.data.shapes import SHAPES
from detector.trial import Progress, Trial, TrialEnd
from maenas.api.race_cluster import Share, workers
from maenas.api.race_setup import RaceRequest, RaceSetup, prepare_race
from maenas.api.race_verdict import decide, write_winner
from maenas.api.race_workers import Runner
from maenas.choices import Precision
from maenas.errors import MaenasError
from maenas.files import ensure_folder
from maenas.locks import locked
from maenas.racing.progress import seconds_left
from maenas.racing.schedule import WINDOW
from maenas.racing.state import (
    RACE_FILE,
    RUNS,
    SPECS,
    WINNER_WEIGHTS,
    Out,
    Race,
    Result,
    Score,
    read_race,
    run_name,
    write_race,
)
from maenas.racing.text import result_text, rung_text
from maenas.spec import DetectorSpec, write_spec
from maenas.units import format_duration

if TYPE_CHECKING:
    from detector.predict import Detector
    from detector.recipe import Recipe


@dataclass(frozen=True, repr=False)
class RaceResult:
    """A race that is over: its folder, the winner, and how sure that is."""

    folder: Path
    race: Race
    result: Result
    spec: DetectorSpec  # of the winner
    weights: Path

    @property
    def winner(self) -> str:
        """Name of the finalist with the highest AP."""
        return self.result.finalists[0].name

    def detector(self, device: str = "auto") -> Detector:
        """The winner, trained; raises `MaenasError` for a device that is not there."""
        from detector.predict import Detector

        return Detector.load(self.weights, device)

    def __repr__(self) -> str:
        return result_text(self.race, self.result)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def race(
    candidates: Sequence[str | Path] = (),
    *,
    data: str | Path = SHAPES,
    budget: str | None = None,
    device: str = "t4",
    precision: Precision | None = None,
    space: str = "k1kx",
    shortlist: int = 9,
    control: str | Path | None = None,
    recipe: str | Path | Recipe = "auto",
    settings: Sequence[str] = (),
    epochs: int | None = None,
    rungs: int = 3,
    eta: int = 3,
    seeds: int = 1,
    seed: int | None = None,
    input_size: int | None = None,
    train_on: str = "auto",
    ray: str | None = None,
    ray_cpus: float = 1.0,
    ray_gpus: float | None = None,
    out: str | Path = "runs/race",
    resume: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> RaceResult:
    """Train `candidates` (spec files), or a shortlist within `budget` on `device` (as in `search`); keep the best.

    After each of the `rungs` the best `eta`-th goes on from its checkpoint, up to `epochs`. The `control`, in a
    shortlist the published detector of that latency, stays to the end. Finalists are trained with `seeds` seeds.
    `train_on` are devices to train on, one candidate on each; with `ray`, the address of a Ray cluster or "auto", they
    train there, each with that many CPUs and GPUs (parts are allowed). `say` hears who goes on. The race lies in the
    folder `out`; with `resume` it goes on there.

    Raises `MaenasError` as `maenas.train` does, and where the candidates do not fit together.
    """
    request = RaceRequest(
        data=str(data),
        candidates=tuple(map(str, candidates)),
        budget=budget,
        device=device,
        precision=precision,
        space=space,
        shortlist=shortlist,
        control=None if control is None else str(control),
        recipe=str(recipe) if isinstance(recipe, Path) else recipe,
        settings=tuple(settings),
        epochs=epochs,
        rungs=rungs,
        eta=eta,
        seeds=seeds,
        seed=seed,
        input_size=input_size,
        train_on=train_on,
    )
    folder = Path(out)
    with workers(train_on, ray, Share(ray_cpus, ray_gpus), print_progress) as there:
        setup = prepare_race(request, folder, resume=resume)
        return run_race(setup, folder, there.runner, device=there.own, say=say)


def run_race(
    setup: RaceSetup, folder: Path, runner: Runner, *, device: str, say: Callable[[str], object] = lambda text: None
) -> RaceResult:
    """Race, or go on racing, in `folder`; finalists are compared on `device`.

    Raises `MaenasError` where another race runs there, where no candidate is left, and what `runner` raises.
    """
    ensure_folder(folder)
    with locked(folder):
        state = _begun(setup, folder)
        state = _rungs(setup, state, folder, runner, say)
        state = _repeats(setup, state, folder, runner)
        result = state.result
        if result is None:
            result = decide(setup, state, folder, device)
            write_winner(setup, state, result, folder)
            state = replace(state, result=result)
            write_race(folder, state)
        spec = setup.candidate(result.finalists[0].name).spec
        return RaceResult(folder, state, result, spec, folder / WINNER_WEIGHTS)


def _begun(setup: RaceSetup, folder: Path) -> Race:
    """The state in the folder; where there is none, that before the first trial, with the specs beside it."""
    if (folder / RACE_FILE).exists():
        return read_race(folder)
    ensure_folder(folder / SPECS)
    for row in setup.candidates:
        write_spec(folder / SPECS / f"{row.name}.json", row.spec, row.name, row.provenance)
    write_race(folder, setup.race)
    return setup.race


def _rungs(setup: RaceSetup, state: Race, folder: Path, runner: Runner, say: Callable[[str], object]) -> Race:
    for rung, end in enumerate(state.settings.rungs):
        names = state.field(rung)
        todo = [name for name in names if state.score(name, end) is None and not state.is_out(name)]
        trials = [_trial(setup, folder, name, 0, end) for name in todo]
        state = _run(state, folder, runner, trials)
        if not state.ranking(names, end):
            reasons = "; ".join(f"{row.name}: {row.reason}" for row in state.out)
            raise MaenasError(f"no candidate is left. {reasons}")
        if todo:
            say(rung_text(state, rung))
    return state


def _repeats(setup: RaceSetup, state: Race, folder: Path, runner: Runner) -> Race:
    """The finalists with the other seeds."""
    last = state.settings.rungs[-1]
    finalists = state.ranking(state.field(len(state.settings.rungs) - 1), last)
    trials = [
        _trial(setup, folder, name, seed, last)
        for name in finalists
        for seed in range(1, state.settings.seeds)
        if state.score(name, last, seed) is None and not state.is_out(name, seed)
    ]
    return _run(state, folder, runner, trials)


def _trial(setup: RaceSetup, folder: Path, name: str, seed: int, until: int) -> Trial:
    recipe = setup.recipe
    return Trial(
        name=name,
        seed=seed,
        spec=str((folder / SPECS / f"{name}.json").absolute()),
        data=setup.race.settings.data,
        recipe=replace(recipe, seed=recipe.seed + seed),
        input_size=setup.race.settings.input_size,
        out=str((folder / RUNS / run_name(name, seed)).absolute()),
        until=until,
        window=WINDOW,
    )


def _run(state: Race, folder: Path, runner: Runner, trials: Sequence[Trial]) -> Race:
    """The state after these trials; it is written after each of them."""
    with closing(runner(trials, folder.absolute())) as ends:
        for trial, end in ends:
            state = _noted(state, trial, end)
            write_race(folder, state)
    return state


def _noted(state: Race, trial: Trial, end: TrialEnd) -> Race:
    if end.ap is None:
        return replace(state, out=(*state.out, Out(trial.name, trial.seed, trial.until, end.reason)))
    return replace(state, scores=(*state.scores, Score(trial.name, trial.seed, trial.until, end.ap)))


def print_progress(folder: Path, progress: Progress, stream: Literal["stdout", "stderr"] = "stdout") -> None:
    """One line about an evaluation, wherever the trial runs."""
    file = getattr(sys, stream)
    tqdm.write(progress_text(read_race(folder), folder, progress), file=file)  # above the bar of a terminal
    file.flush()


def progress_text(state: Race, folder: Path, progress: Progress) -> str:
    """Rung, epoch, AP, speed, and what is left of the whole race on one device."""
    ends = state.settings.rungs
    rung = next(number for number, end in enumerate(ends, start=1) if progress.epoch <= end)
    name = run_name(progress.name, progress.seed)
    left = format_duration(seconds_left(folder, state))
    return (
        f"{name:<16} rung {rung}/{len(ends)}  epoch {progress.epoch:>3}/{progress.until}  AP {progress.ap:.3f}  "
        f"{progress.images_per_s:.1f} images/s  {left} of training left"
    )


def race_document(found: RaceResult) -> dict[str, object]:
    """The result as plain data for JSON."""
    return {"folder": str(found.folder), "winner": found.winner, "id": found.spec.id, **asdict(found.result)}
