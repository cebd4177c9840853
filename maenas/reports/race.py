"""A race as a page: who learned how, who was cut when, what the winner costs, and how sure the result is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from maenas.latency.predictor import AnyPredictor, provenance_word
from maenas.racing.progress import logged
from maenas.racing.state import SPECS, Interval, Race, Result, read_race, run_name
from maenas.racing.text import interval_text, verdict
from maenas.reports.blocks import Block, Facts, Note, Plot, Section, Table
from maenas.reports.figures import LEGEND, Figure, parts_figure, plain
from maenas.reports.network import parts_of
from maenas.run_files import Epoch
from maenas.spec import read_spec

Runs = Mapping[tuple[str, int], Sequence[Epoch]]

# The page has eight colours, which not everyone tells apart: so 20 curves differ in these, too.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down")
DASHES = ("solid", "dash", "dot", "dashdot")


def race_sections(folder: Path, predictor: AnyPredictor) -> list[Section]:
    """All sections about the race in `folder`, over or not; raises `MaenasError` for damaged files."""
    race = read_race(folder)
    runs = logged(folder, race)
    sections = [_outcome_section(race, predictor), _curves_section(race, runs)]
    points = _last_aps(race, runs)
    if points:
        sections.append(_latency_section(race, points, predictor))
    return [*sections, _parts_section(race, folder, predictor), _settings_section(race)]


# Result ---------------------------------------------------------------------------------------------------------------


def _outcome_section(race: Race, predictor: AnyPredictor) -> Section:
    result = race.result
    if result is None:
        return Section("Result", [Note("The race is not over yet; maenas race ... --resume goes on with it.")])
    rows = verdict(race, result)
    facts = [(line[:11].strip() or "difference", line[11:]) for line in rows]
    return Section("Result", [Facts(facts), _finalists_table(race, result, predictor)])


def _finalists_table(race: Race, result: Result, predictor: AnyPredictor) -> Table:
    tested = result.test_images > 0
    several = race.settings.seeds > 1
    header = ["finalist", "AP", "behind the winner", f"ms {provenance_word(predictor)}", "role"]
    header += ["AP of each seed"] if several else []
    header += ["AP on the test split"] if tested else []
    rows = []
    for row in result.finalists:
        entrant = race.entrant(row.name)
        role = "winner" if row.behind is None else "control" if entrant.control else ""
        cells = [row.name, interval_text(row.ap), _shown(row.behind), f"{entrant.ms:.3f}", role]
        cells += [", ".join(f"{value:.3f}" for value in row.by_seed)] if several else []
        cells += [_shown(row.test)] if tested else []
        rows.append(cells)
    return Table(f"Finalists on {result.images} validation images, 95 % intervals", header, rows)


def _shown(value: Interval | None) -> str:
    return "" if value is None else interval_text(value)


# Learning curves ------------------------------------------------------------------------------------------------------


def _curves_section(race: Race, runs: Runs) -> Section:
    figure = _curves_figure(race, runs)
    ends = ", ".join(map(str, race.settings.rungs))
    text = f"AP of {len(race.entrants)} candidates by epoch; rungs end after {ends} epochs. A cross marks who is out."
    blocks: list[Block] = [Plot("Learning curves", text, figure, height=440), _fates_table(race)]
    return Section("The course of the race", blocks)


def _curves_figure(race: Race, runs: Runs) -> Figure:
    data: list[Figure] = []
    for number, ((name, seed), epochs) in enumerate(runs.items()):
        rated = [epoch for epoch in epochs if epoch.metrics is not None]
        if rated:
            line: Figure = {"type": "scatter", "mode": "lines+markers", "name": plain(run_name(name, seed))}
            line |= {"x": [epoch.epoch for epoch in rated], "y": [(e.metrics or {}).get("AP", 0.0) for e in rated]}
            look = {"marker": {"size": 6, "symbol": SYMBOLS[number % len(SYMBOLS)]}}
            data.append(line | look | {"line": {"dash": DASHES[number % len(DASHES)]}})
    cuts = [(name, end, race.score(name, end)) for name, end in _cuts(race).items()]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "out",
            "x": [end for _, end, ap in cuts if ap is not None],
            "y": [ap for *_, ap in cuts if ap is not None],
            "text": [plain(name) for name, _, ap in cuts if ap is not None],
            "marker": {"symbol": "x", "size": 11},
            "hovertemplate": "%{text} is out after epoch %{x}, mean AP %{y:.4f}<extra></extra>",
        }
    )
    shapes = [
        {"type": "line", "x0": end, "x1": end, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot", "width": 1}}
        for end in race.settings.rungs
    ]
    axes = {"xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": "AP"}, "rangemode": "tozero"}}
    return {"data": data, "layout": {**axes, "legend": LEGEND, "shapes": shapes}}


def _cuts(race: Race) -> dict[str, int]:
    """At which rung's end each candidate that was beaten was cut; as far as the race is."""
    cuts: dict[str, int] = {}
    for rung, end in enumerate(race.settings.rungs[:-1]):
        names = race.field(rung)
        if any(race.score(name, end) is None and not race.is_out(name) for name in names):
            break  # this rung is not over
        kept = race.field(rung + 1)
        cuts |= {name: end for name in names if name not in kept and not race.is_out(name)}
    return cuts


def _fates_table(race: Race) -> Table:
    cuts = _cuts(race)
    ends = race.settings.rungs
    rows = []
    for entrant in race.entrants:
        failed = next((row for row in race.out if row.name == entrant.name and row.seed == 0), None)
        if failed is not None:
            fate = failed.reason
        elif entrant.name in cuts:
            fate = f"out after {cuts[entrant.name]} epochs"
        else:
            fate = "finalist" if race.score(entrant.name, ends[-1]) is not None else "racing"
        aps = [race.score(entrant.name, end) for end in ends]
        rows.append([entrant.name, entrant.why, fate, *("" if ap is None else f"{ap:.4f}" for ap in aps)])
    header = ["candidate", "why it is here", "fate", *(f"AP at epoch {end}" for end in ends)]
    return Table("Candidates: AP is the mean of the last evaluations of a rung", header, rows, left=3)


# Latency and time -----------------------------------------------------------------------------------------------------


def _last_aps(race: Race, runs: Runs) -> dict[str, tuple[int, float]]:
    """The last rung that each candidate has ended, and its AP there; of a race without any, its last evaluation."""
    found = {}
    for entrant in race.entrants:
        ends = [(end, ap) for end in race.settings.rungs if (ap := race.score(entrant.name, end)) is not None]
        rated = [epoch for epoch in runs.get((entrant.name, 0), ()) if epoch.metrics is not None]
        if ends:
            found[entrant.name] = ends[-1]
        elif rated:
            found[entrant.name] = (rated[-1].epoch, (rated[-1].metrics or {}).get("AP", 0.0))
    return found


def _latency_section(race: Race, points: Mapping[str, tuple[int, float]], predictor: AnyPredictor) -> Section:
    groups: dict[str, list[str]] = {}
    winner = None if race.result is None else race.result.finalists[0].name
    for name, (epoch, _) in points.items():
        groups.setdefault("winner" if name == winner else f"after {epoch} epochs", []).append(name)
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": plain(group),
            "x": [race.entrant(name).ms for name in names],
            "y": [points[name][1] for name in names],
            "text": [plain(name) for name in names],
            "textposition": "top center",
            "marker": {"symbol": "star", "size": 16} if group == "winner" else {"size": 9},
            "hovertemplate": "%{text}<br>%{x:.4g} ms, AP %{y:.4f}<extra>%{fullData.name}</extra>",
        }
        for group, names in groups.items()
    ]
    word = f"latency in ms on {plain(race.settings.device)}, {provenance_word(predictor)}"
    layout = {"xaxis": {"title": {"text": word}}, "yaxis": {"title": {"text": "AP"}}, "legend": LEGEND}
    note = Note("Candidates that were cut have the AP of their last rung: compare those of one group.")
    text = f"AP against predicted latency of {len(points)} candidates" + (f"; {winner} has won." if winner else ".")
    return Section("AP against latency", [Plot("AP against latency", text, {"data": data, "layout": layout}), note])


def _parts_section(race: Race, folder: Path, predictor: AnyPredictor) -> Section:
    result = race.result
    names = [entrant.name for entrant in race.entrants] if result is None else [row.name for row in result.finalists]
    times: dict[str, dict[str, float]] = {}
    for name in names:
        spec = read_spec(folder / SPECS / f"{name}.json").detector
        times[name] = {part.name: part.seconds * 1e3 for part in parts_of(spec, predictor)}
    found = {part for row in times.values() for part in row}
    titles = [*sorted(found - {"neck", "head"}, key=lambda part: (part != "stem", part)), "neck", "head"]
    shares = {name: [100 * row.get(part, 0.0) / sum(row.values()) for part in titles] for name, row in times.items()}
    rows = [
        [name, *(f"{row[part]:.3f}" if part in row else "" for part in titles), f"{sum(row.values()):.3f}"]
        for name, row in times.items()
    ]
    table = Table(f"Milliseconds by part, {provenance_word(predictor)}", ["", *titles, "all"], rows)
    text = f"Share of the latency of each part, for {', '.join(names)}."
    who = "candidates" if result is None else "finalists"
    plot = Plot("Where the time goes", text, parts_figure(shares, titles), table, height=340)
    return Section(f"Allocation of time of the {who}", [plot])


def _settings_section(race: Race) -> Section:
    settings, recipe = race.settings, race.settings.recipe
    rows = [
        ("data", settings.data),
        ("rungs end after", ", ".join(map(str, settings.rungs)) + " epochs"),
        ("of so many goes on one", str(settings.eta)),
        ("seeds of a finalist", str(settings.seeds)),
        ("device of the latency", settings.device),
        ("batch", str(recipe.get("batch"))),
        ("seed", str(recipe.get("seed"))),
        ("made by", race.made_by),
    ]
    return Section("Settings", [Facts(rows)])
