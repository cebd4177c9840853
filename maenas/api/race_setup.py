"""A race before it starts: its candidates, its settings, and what it will take."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detector.cost import epoch_seconds, measure, run_bytes
from detector.data.dataset import align_names, open_dataset
from detector.data.sample import Dataset
from detector.data.shapes import SIZE, are_built_in
from detector.job import Job, make_job
from detector.recipe import Recipe
from maenas.api.search import make_request
from maenas.choices import Precision
from maenas.cost import total_cost
from maenas.errors import MaenasError, NoSplitError
from maenas.latency.predictor import load_predictor, predict
from maenas.lowering import lower
from maenas.nas.shortlist import shortlist, shortlist_provenance
from maenas.outputs import check_folder
from maenas.racing.schedule import evaluation_pace, field_sizes, rung_epochs
from maenas.racing.state import RACE_FILE, SPECS, Entrant, Race, Settings, new_race, read_race, require_same
from maenas.spec import DetectorSpec, load_spec, read_spec, resized
from maenas.strict import parse_json
from maenas.units import format_latency, parse_latency_s
from maenas.unused import refuse_unused

CONTROL = "control"


@dataclass(frozen=True)
class RaceRequest:
    """What a race is asked for; see `maenas.race`."""

    data: str
    candidates: tuple[str, ...] = ()
    budget: str | None = None
    device: str = "t4"
    precision: Precision | None = None
    space: str = "k1kx"
    shortlist: int = 9
    control: str | None = None
    recipe: str | Recipe = "auto"
    settings: tuple[str, ...] = ()
    epochs: int | None = None
    rungs: int = 3
    eta: int = 3
    seeds: int = 1
    seed: int | None = None
    input_size: int | None = None
    train_on: str = "auto"  # devices to train on, "cuda:0,cuda:1"


@dataclass(frozen=True)
class Candidate:
    """A detector that may race, with what its file says about its origin."""

    name: str
    spec: DetectorSpec
    provenance: Mapping[str, Any] | None
    why: str
    control: bool
    seconds: float  # predicted


@dataclass(frozen=True)
class RaceSetup:
    """A race that can start, or go on."""

    race: Race
    candidates: tuple[Candidate, ...]
    job: Job  # of the first candidate: data and recipe are those of all
    disk_bytes: int
    test: Dataset | None = None  # images that nothing is chosen by

    def candidate(self, name: str) -> Candidate:
        """The candidate called so."""
        return next(row for row in self.candidates if row.name == name)

    @property
    def recipe(self) -> Recipe:
        """Of every candidate."""
        return parse_json(json.dumps(dict(self.race.settings.recipe)), Recipe, where="recipe of the race")


def prepare_race(
    request: RaceRequest, out: Path, *, resume: bool, on_step: Callable[[str], object] = lambda text: None
) -> RaceSetup:
    """The race that `request` asks for, or with `resume` the one that was begun in `out`.

    Raises `MaenasError` for data or candidates that do not fit, and for a folder with a race where it is not to go on,
    or with another one.
    """
    begun = (out / RACE_FILE).exists()
    if begun and not resume:
        raise MaenasError(f"{out} already holds a race; add --resume to go on with it, or choose another --out")
    check_folder(out)
    _check(request)
    stored = read_race(out) if begun else None
    if stored is not None:
        candidates = _stored_candidates(stored, out)
        job = _job(candidates[0], request)
        require_same(stored.settings, _settings(request, job.recipe), out)
        if request.candidates:
            _check_same_files(request, candidates, len(job.train.names))
        return RaceSetup(stored, candidates, job, 0, _test_split(request.data, job, on_step))
    names = open_dataset(request.data, "train").names
    on_step("candidates")
    candidates = _given(request, len(names)) if request.candidates else _shortlisted(request, len(names))
    _check_candidates(candidates, request)
    job = _job(candidates[0], request)
    if job.val is None:
        raise MaenasError(f"{request.data}: a race needs validation images")
    test = _test_split(request.data, job, on_step)
    on_step("a few timed steps")
    return replace(_costed(request, candidates, job), test=test)


def _check(request: RaceRequest) -> None:
    if not request.candidates and request.budget is None:
        raise MaenasError("a race needs candidates: name spec files, or give --budget 3ms to make a shortlist")
    if request.candidates and len(request.candidates) + (request.control is not None) < 2:
        raise MaenasError(f"one candidate ({request.candidates[0]}) is no race; name at least two")
    if not request.candidates and request.control is not None:
        raise MaenasError("a shortlist has its own control; --control goes with candidates of your own")
    if request.candidates:
        refuse_unused(RaceRequest, vars(request), ("shortlist", "space"), needs="a race that makes its own shortlist")
    if request.rungs == 1:
        refuse_unused(RaceRequest, vars(request), ("eta",), needs="--rungs of 2 and more")
    if request.seeds < 1:
        raise MaenasError(f"--seeds is {request.seeds}; it must be at least 1")


def _given(request: RaceRequest, classes: int) -> tuple[Candidate, ...]:
    """The candidates named, and the control, for so many classes; raises `MaenasError` where their own differ."""
    files = [(load_spec(name), False) for name in request.candidates]
    if request.control is not None:
        files.append((load_spec(request.control), True))
    own = {file.name: file.detector.head.num_classes for file, _ in files}
    if len(set(own.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in own.items())
        raise MaenasError(f"the candidates have different numbers of classes ({shown}); race those of one task")
    predictor = load_predictor(request.device, precision=request.precision)
    rows = []
    for file, is_control in files:
        spec = _fitted(file.detector, request, classes)
        why = "control" if is_control else "given"
        seconds = predict(lower(spec), predictor).seconds
        rows.append(Candidate(file.name, spec, file.provenance, why, is_control, seconds))
    return tuple(rows)


def _fitted(spec: DetectorSpec, request: RaceRequest, classes: int) -> DetectorSpec:
    """`spec` as it races: with the input size asked for, and the classes of the data."""
    return resized(replace(spec, head=replace(spec.head, num_classes=classes)), _input_size(request))


def _input_size(request: RaceRequest) -> int | None:
    return SIZE if request.input_size is None and are_built_in(request.data) else request.input_size


def _first_device(request: RaceRequest) -> str:
    return request.train_on.split(",")[0]


def _shortlisted(request: RaceRequest, classes: int) -> tuple[Candidate, ...]:
    assert request.budget is not None
    asked = make_request(
        request.budget,
        request.device,
        precision=request.precision,
        space=request.space,
        classes=classes,
        input_size=_input_size(request),
    )
    rows = []
    for number, entry in enumerate(shortlist(asked, request.shortlist), start=1):
        is_control = entry.kind == "control"
        name = CONTROL if is_control else f"candidate-{number}"
        origin = shortlist_provenance(entry, asked)
        rows.append(Candidate(name, entry.spec, origin, entry.reason, is_control, entry.seconds))
    return tuple(rows)


def _check_candidates(candidates: Sequence[Candidate], request: RaceRequest) -> None:
    """Raises `MaenasError` for equal ones, and ones beyond the budget."""
    seen: dict[str, str] = {}
    for row in candidates:
        for what, key in (("the same network", row.spec.id), ("the same name", f"name {row.name}")):
            if key in seen:
                raise MaenasError(f"{row.name} and {seen[key]} have {what}; each candidate races once")
            seen[key] = row.name
    if request.budget is None:
        return
    limit = parse_latency_s(request.budget)
    slow = [row for row in candidates if row.seconds > limit * (1 + 1e-9) and not row.control]
    if slow:
        shown = ", ".join(f"{row.name} {format_latency(row.seconds)}" for row in slow)
        raise MaenasError(f"beyond the budget of {request.budget} on {request.device}: {shown}; leave them out")


def _job(candidate: Candidate, request: RaceRequest) -> Job:
    job = make_job(
        candidate.spec,
        request.data,
        recipe=request.recipe,
        settings=request.settings,
        epochs=request.epochs,
        seed=request.seed,
        input_size=_input_size(request),
        device=_first_device(request),
    )
    ends = rung_epochs(job.recipe.epochs, rungs=request.rungs, eta=request.eta)
    pace = min(job.recipe.eval_every, evaluation_pace(ends[0]))
    if ends[0] < job.recipe.warmup_epochs:
        raise MaenasError(
            f"the first rung ends after {ends[0]} epochs, within the warm-up of {job.recipe.warmup_epochs:g}; "
            "give fewer --rungs, or --set warmup_epochs=..."
        )
    return replace(job, recipe=replace(job.recipe, eval_every=pace, patience=0))


def _test_split(data: str, job: Job, on_step: Callable[[str], object]) -> Dataset | None:
    """The test split of the data, where they have one; one that is not fit to be evaluated on is said and left out."""
    if are_built_in(data) or data.lower().endswith(".json"):
        return None
    try:
        return align_names(open_dataset(data, "test"), job.train.names)
    except NoSplitError:
        return None
    except MaenasError as error:
        on_step(f"the test split is left out: {error}")
        return None


def _settings(request: RaceRequest, recipe: Recipe) -> Settings:
    return Settings(
        data=request.data if are_built_in(request.data) else os.path.abspath(request.data),
        candidates=tuple(map(_placed, request.candidates)),
        control=None if request.control is None else _placed(request.control),
        budget=request.budget,
        device=_placed(request.device),
        space=_placed(request.space),
        shortlist=0 if request.candidates else request.shortlist,
        input_size=_input_size(request),
        rungs=rung_epochs(recipe.epochs, rungs=request.rungs, eta=request.eta),
        eta=request.eta,
        seeds=request.seeds,
        recipe=json.loads(json.dumps(asdict(recipe))),
        precision=request.precision,
    )


def _placed(name: str) -> str:
    """The name of a file so that it holds in every folder; other names as they are."""
    return os.path.abspath(name) if os.path.isfile(name) else name


def _costed(request: RaceRequest, candidates: tuple[Candidate, ...], job: Job) -> RaceSetup:
    """The batch and the time of each, from the one that takes the most memory: the batch has to fit for all."""
    costs = [total_cost(lower(row.spec)) for row in candidates]
    largest = max(range(len(costs)), key=lambda index: costs[index].activations)
    spec = candidates[largest].spec
    timed = make_job(spec, request.data, recipe=job.recipe, input_size=_input_size(request))
    measured = measure(timed, _first_device(request))
    recipe = replace(job.recipe, batch=measured.batch)
    entrants = tuple(
        Entrant(
            name=row.name,
            id=row.spec.id,
            why=row.why,
            control=row.control,
            ms=_rounded(row.seconds * 1e3),
            epoch_s=_rounded(epoch_seconds(job, measured.image_s * own.flops / costs[largest].flops)),
        )
        for row, own in zip(candidates, costs, strict=True)
    )
    disk = sum(run_bytes(cost.params, recipe) for cost in costs)
    finalists = field_sizes(len(candidates), request.rungs, request.eta)[-1] + 1
    disk += (request.seeds - 1) * finalists * run_bytes(max(cost.params for cost in costs), recipe)
    return RaceSetup(new_race(_settings(request, recipe), entrants), candidates, replace(job, recipe=recipe), disk)


def _stored_candidates(race: Race, out: Path) -> tuple[Candidate, ...]:
    rows = []
    for entrant in race.entrants:
        file = read_spec(out / SPECS / f"{entrant.name}.json")
        stated = (file.name, file.detector, file.provenance)
        rows.append(Candidate(*stated, entrant.why, entrant.control, entrant.ms / 1e3))
    return tuple(rows)


def _check_same_files(request: RaceRequest, candidates: Sequence[Candidate], classes: int) -> None:
    """The files may have been changed since the race began."""
    ids = {row.spec.id for row in candidates}
    for name in request.candidates:
        if _fitted(load_spec(name).detector, request, classes).id not in ids:
            raise MaenasError(f"{name} is not what it was when the race began; race it in another --out")


def _rounded(value: float) -> float:
    return float(f"{value:.8g}")
