"""A race in words, for a terminal; its plan also as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from maenas.racing.progress import planned_epochs, planned_seconds
from maenas.racing.state import Finalist, Interval, Race, Result
from maenas.units import format_bytes, format_duration


def plan_text(race: Race, *, train: int, val: int, disk_bytes: int, devices: Sequence[str]) -> str:
    """Who races and what it takes, before it starts."""
    settings = race.settings
    lines = [f"{'name':<14}{'ms ' + settings.device:>10}  why"]
    lines += [f"{entrant.name:<14}{entrant.ms:>10.3f}  {entrant.why}" for entrant in race.entrants]
    epochs = planned_epochs(race)
    longest = race.settings.rungs[-1]
    time = format_duration(planned_seconds(race) / len(devices))
    seeds = "" if settings.seeds == 1 else f"; finalists with {settings.seeds} seeds"
    lines += [
        "",
        f"{'images':<11}{train} to train on, {val} to compare on",
        f"{'rungs':<11}end after {', '.join(map(str, settings.rungs))} epochs; the best 1/{settings.eta} go on{seeds}",
        f"{'epochs':<11}{epochs:g} in total, as much as {epochs / longest:.1f} full runs",
        f"{'time':<11}{time} on {len(devices)} x {devices[0].partition(':')[0]}, from a few timed steps",
    ]
    if disk_bytes:
        lines.append(f"{'disk':<11}{format_bytes(disk_bytes)}")
    return "\n".join(lines)


def plan_document(race: Race, *, train: int, val: int, disk_bytes: int, devices: Sequence[str]) -> dict[str, object]:
    """What `plan_text` says, as plain data for JSON; `seconds` on all devices together."""
    return {
        "entrants": [asdict(entrant) for entrant in race.entrants],
        "images": {"train": train, "val": val},
        "rungs": list(race.settings.rungs),
        "eta": race.settings.eta,
        "seeds": race.settings.seeds,
        "epochs": planned_epochs(race),
        "seconds": planned_seconds(race) / len(devices),
        "devices": list(devices),
        "disk_bytes": disk_bytes,
    }


def rung_text(race: Race, rung: int) -> str:
    """The ranking at the end of a rung, and who goes on."""
    end = race.settings.rungs[rung]
    names = race.field(rung)
    last = rung + 1 == len(race.settings.rungs)
    kept = set(race.field(rung + 1)) if not last else set(names)
    learned = any(race.score(name, end) for name in names)
    note = "" if learned or last else " no AP is above 0 yet, so that the fastest go on"
    lines = [f"rung {rung + 1} of {len(race.settings.rungs)}, after {end} epochs:{note}"]
    for place, name in enumerate(race.ranking(names, end), start=1):
        fate = "" if last else "  goes on" if name in kept else "  is out"
        lines.append(f"  {place}. {name:<14} AP {race.score(name, end) or 0.0:.4f}{fate}")
    lines += [f"  -  {row.name:<14} {row.reason}" for row in race.out if row.epoch == end and row.seed == 0]
    return "\n".join(lines)


def interval_text(value: Interval, *, sign: bool = False) -> str:
    """A number with its interval."""
    form = "+.3f" if sign else ".3f"
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"


def verdict(race: Race, result: Result) -> list[str]:
    """What may be said about the winner: against the second and the control, and what cannot be told apart."""
    winner, *others = result.finalists
    if winner.ap.value == 0:
        reason = f"the AP of every finalist is 0, and {winner.name} is none the better for being first"
        return [f"{'no winner':<11}{reason}; race again in another --out, with more --epochs or another --recipe"]
    lines = [f"winner     {winner.name}: AP {interval_text(winner.ap)}, {race.entrant(winner.name).ms:.3f} ms"]
    if others:
        lines.append(_against(race, winner, others[0], "second"))
    control = next((row for row in others[1:] if row.name == race.control), None)
    if control is not None:
        lines.append(_against(race, winner, control, "control"))
    alike = [row for row in others if row.behind is not None and row.behind.covers_zero]
    if alike:
        fastest = min([winner, *alike], key=lambda row: race.entrant(row.name).ms)
        names = ", ".join(row.name for row in [winner, *alike])
        lines.append(f"{'verdict':<11}{names} cannot be told apart; {fastest.name} is the fastest")
    elif others:
        lines.append(f"{'verdict':<11}{winner.name} is the most accurate of the finalists")
    noise = "over images and seeds" if race.settings.seeds > 1 else "over images; one seed, so not over training"
    lines.append(f"{'intervals':<11}95 %, paired bootstrap of {result.samples} samples {noise}")
    if winner.test is not None:
        lines.append(f"{'test':<11}AP {interval_text(winner.test)} on {result.test_images} images that chose nothing")
    return lines


def _against(race: Race, winner: Finalist, other: Finalist, what: str) -> str:
    assert other.behind is not None
    role = f"{what}, the control," if other.name == race.control and what != "control" else what
    faster = "slower" if race.entrant(other.name).ms > race.entrant(winner.name).ms else "faster"
    sure = f"; cannot be told apart, {other.name} is {faster}" if other.behind.covers_zero else ""
    return f"{'':<11}{interval_text(other.behind, sign=True)} over the {role} {other.name}{sure}"


def result_text(race: Race, result: Result) -> str:
    """All finalists, and the verdict."""
    tested = any(row.test is not None for row in result.finalists)
    head = f"{'finalist':<14}{'AP':>24}{'behind the winner':>28}{'ms':>9}" + (f"{'AP test':>24}" if tested else "")
    lines = [head]
    for row in result.finalists:
        behind = "" if row.behind is None else interval_text(row.behind, sign=True)
        test = f"{interval_text(row.test):>24}" if row.test is not None else ""
        ms = race.entrant(row.name).ms
        lines.append(f"{row.name:<14}{interval_text(row.ap):>24}{behind:>28}{ms:>9.3f}{test}")
    return "\n".join([*lines, "", *verdict(race, result)])
