"""The page of a race, of one that is over and of one that goes on."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import maenas
from maenas.errors import MaenasError
from maenas.latency.predictor import load_predictor
from maenas.racing.state import Entrant, Finalist, Interval, Out, Race, Result, Score, Settings, new_race, write_race
from maenas.reports.blocks import Block, Facts, Plot, Section, Table
from maenas.reports.race import race_sections
from maenas.run_files import Epoch
from maenas.spec import published_spec, write_spec

NAMES = ("damo-yolo-t", "damo-yolo-s", "damo-yolo-m", "damo-yolo-l")
APS = {"damo-yolo-t": (0.2, 0.31), "damo-yolo-s": (0.3, 0.41), "damo-yolo-m": (0.25, 0.4), "damo-yolo-l": (0.1, None)}


def a_race(folder: Path, *, over: bool) -> Race:
    """Rungs of 2 and 6 epochs: t is the control, l is cut, m has diverged later unless the race is over."""
    settings = Settings("d", (), None, "3ms", "t4", "k1kx", 4, None, (2, 6), 3, 1, {"batch": 8, "seed": 0})
    entrants = []
    for place, name in enumerate(NAMES):
        spec = published_spec(name)
        write_spec(folder / "specs" / f"{name}.json", spec, name)
        entrants.append(Entrant(name, spec.id, f"why {place}", name == "damo-yolo-t", 2.0 + place, 1.0))
        last = 2 if name == "damo-yolo-l" else 6
        run = folder / "runs" / name
        run.mkdir(parents=True)
        epochs = [Epoch(n, 4 * n, 1.0, {"total": 1.0}, {"AP": 0.05 * n}) for n in range(1, last + 1)]
        (run / "epochs.jsonl").write_text("".join(epoch.line() for epoch in epochs))
    scores = [Score(name, 0, 2, first) for name, (first, _) in APS.items()]
    race = replace(new_race(settings, tuple(entrants)), scores=tuple(scores))
    if over:
        ends = [Score(name, 0, 6, last) for name, (_, last) in APS.items() if last is not None]
        finalists = (
            Finalist("damo-yolo-s", Interval(0.41, 0.38, 0.44), (0.41,), None, Interval(0.39, 0.36, 0.42)),
            Finalist("damo-yolo-m", Interval(0.40, 0.37, 0.43), (0.40,), Interval(0.01, -0.01, 0.03), None),
            Finalist("damo-yolo-t", Interval(0.31, 0.28, 0.34), (0.31,), Interval(0.10, 0.07, 0.13), None),
        )
        race = replace(race, scores=(*scores, *ends), result=Result(finalists, 87, 72, 2000))
    else:
        race = replace(race, out=(Out("damo-yolo-m", 0, 6, "diverged: the loss is not finite"),))
    write_race(folder, race)
    return race


def blocks(sections: Sequence[Section]) -> list[Block]:
    return [block for section in sections for block in section.blocks]


def test_the_page_says_who_won_who_was_cut_and_what_cannot_be_told_apart(tmp_path: Path) -> None:
    a_race(tmp_path / "race", over=True)
    out = maenas.report([str(tmp_path / "race")], out=tmp_path / "page.html")
    page = out.read_text(encoding="utf-8")
    for text in (
        "damo-yolo-s, damo-yolo-m cannot be told apart; damo-yolo-s is the fastest",
        "out after 2 epochs",
        "+0.100 [+0.070, +0.130] over the control damo-yolo-t",
        "Learning curves",
        "AP against latency",
        "Allocation of time of the finalists",
        "0.390 [0.360, 0.420]",
    ):
        assert text in page


def test_the_winner_is_marked_and_cut_candidates_stand_apart(tmp_path: Path) -> None:
    a_race(tmp_path, over=True)
    found = blocks(race_sections(tmp_path, load_predictor("t4")))
    plots = {block.title: block.figure for block in found if isinstance(block, Plot)}
    groups = {row["name"]: row for row in plots["AP against latency"]["data"]}
    assert groups["winner"]["text"] == ["damo-yolo-s"]
    assert groups["winner"]["y"] == [0.41]
    assert groups["after 2 epochs"]["text"] == ["damo-yolo-l"]
    assert set(groups["after 6 epochs"]["text"]) == {"damo-yolo-t", "damo-yolo-m"}
    curves = {row["name"]: row for row in plots["Learning curves"]["data"]}
    assert curves["damo-yolo-l"]["x"] == [1, 2]
    assert curves["out"]["text"] == ["damo-yolo-l"]
    shares = plots["Where the time goes"]["data"]
    assert all(sum(row["y"]) == pytest.approx(100) for row in shares)


def test_curves_are_told_apart_without_their_colour(tmp_path: Path) -> None:
    a_race(tmp_path, over=True)
    found = blocks(race_sections(tmp_path, load_predictor("t4")))
    figure = next(block.figure for block in found if isinstance(block, Plot) and block.title == "Learning curves")
    curves = [row for row in figure["data"] if row["name"] != "out"]
    looks = {(row["marker"]["symbol"], row["line"]["dash"]) for row in curves}
    assert len(looks) == len(curves) > 1


def test_a_race_that_goes_on_has_a_page_too(tmp_path: Path) -> None:
    a_race(tmp_path, over=False)
    found = blocks(race_sections(tmp_path, load_predictor("t4")))
    fates = next(block for block in found if isinstance(block, Table) and "Candidates" in block.caption)
    assert {row[0]: row[2] for row in fates.rows} == {
        "damo-yolo-t": "racing",
        "damo-yolo-s": "racing",
        "damo-yolo-m": "diverged: the loss is not finite",
        "damo-yolo-l": "out after 2 epochs",
    }
    assert not any("verdict" in dict(block.rows) for block in found if isinstance(block, Facts))


def test_a_damaged_race_is_refused(tmp_path: Path) -> None:
    a_race(tmp_path, over=True)
    text = json.loads((tmp_path / "race.json").read_text())
    text["scores"][0]["name"] = "stranger"
    (tmp_path / "race.json").write_text(json.dumps(text))
    with pytest.raises(MaenasError, match="stranger"):
        maenas.report([str(tmp_path)], out=tmp_path / "page.html")
    with pytest.raises(MaenasError, match="about one folder"):
        maenas.report([str(tmp_path)], device=["v100"], out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
