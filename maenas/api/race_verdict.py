"""The end of a race: finalists compared on resampled images, and the winner's files."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.sample import Dataset
from detector.device import choose_device
from detector.job import Job
from detector.trial import resampled_aps, write_last_weights
from maenas import __version__
from maenas.api.race_setup import RaceSetup
from maenas.racing.bootstrap import SAMPLES, compare, image_weights, interval, mean_over_seeds
from maenas.racing.state import (
    RUNS,
    WINNER_SPEC,
    WINNER_WEIGHTS,
    Finalist,
    Interval,
    Race,
    Result,
    run_name,
)
from maenas.spec import SCHEMA, SpecFile, write_spec


def decide(setup: RaceSetup, state: Race, folder: Path, device: str) -> Result:
    """The finalists by AP of their last averaged weights, with intervals; then, once, their AP on a test split."""
    last = state.settings.rungs[-1]
    names = state.ranking(state.field(len(state.settings.rungs) - 1), last)
    val = setup.job.val
    assert val is not None
    aps = _aps(setup, state, names, folder, val, device)
    order, own, behind = compare(aps, setup.recipe.seed)
    test = setup.test
    tested: list[Interval | None] = [None] * len(names)
    if test is not None:
        rng = np.random.default_rng(setup.recipe.seed)
        rows = _aps(setup, state, names, folder, test, device)
        # without an image that can be read there is no AP
        tested = [None if np.isnan(row).all() else interval(mean_over_seeds(row, rng)) for row in rows]
    finalists = tuple(
        Finalist(
            name=names[index],
            ap=own[index],
            by_seed=tuple(float(value) for value in aps[index][:, 0]),
            behind=None if index == order[0] else behind[index],
            test=tested[index],
        )
        for index in order
    )
    return Result(finalists, len(val), 0 if test is None else len(test), SAMPLES)


def _aps(
    setup: RaceSetup, state: Race, names: list[str], folder: Path, dataset: Dataset, device: str
) -> list[np.ndarray]:
    """APs `[K, 1 + B]` of each finalist on the same resamples of a data set's images."""
    weights = image_weights(len(dataset), setup.recipe.seed)
    last = state.settings.rungs[-1]
    found = []
    for name in names:
        job = candidate_job(setup, name)
        seeds = [seed for seed in range(state.settings.seeds) if state.score(name, last, seed) is not None]
        folders = [folder / RUNS / run_name(name, seed) for seed in seeds]
        found.append(np.stack([resampled_aps(job, out, dataset, weights, choose_device(device)) for out in folders]))
    return found


def candidate_job(setup: RaceSetup, name: str) -> Job:
    """The job of one candidate, with the data of all."""
    return replace(setup.job, spec=setup.candidate(name).spec, name=name)


def write_winner(setup: RaceSetup, state: Race, result: Result, folder: Path) -> None:
    """The winner's spec, with the race in its provenance, and its last averaged weights (of the first seed)."""
    winner = result.finalists[0]
    row = setup.candidate(winner.name)
    origin = {**(row.provenance or {}), "race": _stated(state, result)}
    write_spec(folder / WINNER_SPEC, row.spec, winner.name, origin)
    file = SpecFile(SCHEMA, winner.name, row.spec.id, row.spec, origin)
    about = (
        ("trained_as", winner.name),
        ("data", setup.job.train.source),
        ("AP", f"{winner.by_seed[0]:.6f}"),
        ("epochs", str(state.settings.rungs[-1])),
    )
    run = folder / RUNS / run_name(winner.name, 0)
    write_last_weights(candidate_job(setup, winner.name), run, folder / WINNER_WEIGHTS, file, about)


def _stated(state: Race, result: Result) -> dict[str, Any]:
    """What the winner's spec says about the race."""
    return {
        "made_by": f"maenas {__version__}",
        "data": state.settings.data,
        "candidates": {entrant.name: entrant.id for entrant in state.entrants},
        "rungs": list(state.settings.rungs),
        "seeds": state.settings.seeds,
        "images": result.images,
        "finalists": [asdict(row) for row in result.finalists],
    }
