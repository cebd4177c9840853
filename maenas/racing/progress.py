"""How far a race is, read from its folder: any process that trains can say it."""

from __future__ import annotations

from pathlib import Path

from maenas.errors import MaenasError
from maenas.racing.schedule import field_sizes
from maenas.racing.state import RUNS, Race, run_name
from maenas.run_files import EPOCHS_FILE, Epoch, read_epochs


def logged(folder: Path, race: Race) -> dict[tuple[str, int], list[Epoch]]:
    """The epochs that each run of a race has logged, by name and seed; runs without any are not there."""
    found = {}
    for entrant in race.entrants:
        for seed in range(race.settings.seeds):
            path = folder / RUNS / run_name(entrant.name, seed) / EPOCHS_FILE
            if path.is_file():
                try:
                    found[entrant.name, seed] = read_epochs(path)
                except MaenasError:  # no epoch has ended yet
                    continue
    return found


def planned_epochs(race: Race) -> float:
    """Epochs of all candidates together, at most: a control that is beaten goes on all the same."""
    settings = race.settings
    beaten = int(race.control is not None)
    sizes = field_sizes(len(race.entrants), len(settings.rungs), settings.eta)
    total, before = 0, 0
    for number, (size, end) in enumerate(zip(sizes, settings.rungs, strict=True)):
        total += (size + (beaten if number else 0)) * (end - before)
        before = end
    finalists = sizes[-1] + (beaten if len(sizes) > 1 else 0)
    return total + (settings.seeds - 1) * finalists * settings.rungs[-1]


def planned_seconds(race: Race) -> float:
    """Estimated seconds of training on one device, from the timed steps."""
    return planned_epochs(race) * sum(entrant.epoch_s for entrant in race.entrants) / len(race.entrants)


def seconds_left(folder: Path, race: Race) -> float:
    """Estimated seconds of training that are left on one device, corrected by what the epochs so far took."""
    seconds, estimated = 0.0, 0.0
    for (name, _), epochs in logged(folder, race).items():
        seconds += sum(epoch.seconds for epoch in epochs)
        estimated += len(epochs) * race.entrant(name).epoch_s
    pace = seconds / estimated if estimated else 1.0
    return max(0.0, planned_seconds(race) - estimated) * pace
