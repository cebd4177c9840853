"""Races: who stays follows from the scores, the winner is an ordinary run, and nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import maenas
from detector import train as trainer
from detector import trial as module
from detector.data.shapes import write_shapes
from detector.guard import LossNotFiniteError
from detector.model.weights import read_weights
from detector.predict import Detector
from detector.recipe import Recipe, override
from maenas.api import race_workers
from maenas.errors import MaenasError
from maenas.racing.bootstrap import compare, image_weights
from maenas.racing.progress import planned_epochs
from maenas.racing.schedule import field_sizes, rung_epochs
from maenas.racing.state import Entrant, Race, Score, Settings, new_race, read_race
from maenas.racing.text import verdict
from maenas.spec import write_spec
from tests.detector.conftest import TINY, TINY_STAGES

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    *("epochs=4", "warmup_epochs=1", "plain_epochs=1", "batch=4", "workers=0", "clip_norm=10", "ema_decay=0.9"),
    *("lr_per_image=0.001", "ema_ramp_steps=10", "augment.mosaic_size=64", "checkpoint_minutes=0"),
]
RECIPE = override(Recipe(), SETTINGS)
WIDTHS = {"a": 16, "b": 24, "c": 32}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and the candidates a, b and c."""
    folder = tmp_path_factory.mktemp("race")
    write_shapes(folder / "data", images=20, size=64, seed=0)
    for name, width in WIDTHS.items():
        stages = (*TINY_STAGES[:-1], replace(TINY_STAGES[-1], out_channels=width))
        write_spec(folder / f"{name}.json", replace(TINY, backbone=replace(TINY.backbone, stages=stages)), name)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One thread, so that sums are bit-identical, and no plots and trackers, which take longer than these runs."""
    monkeypatch.setattr(trainer, "curves_plot", lambda out: b"")
    monkeypatch.setattr(trainer, "label_plot", lambda data: b"")
    monkeypatch.setattr(trainer, "write_report", lambda *_: None)
    monkeypatch.setattr(module, "is_installed", lambda name: False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def race(place: Path, out: Path, names: Sequence[str] = ("a", "b", "c"), **options: Any) -> maenas.RaceResult:
    files = [place / f"{name}.json" for name in names]
    given = {"recipe": RECIPE, "rungs": 2, "train_on": "cpu", **options}
    return maenas.race(files, data=place / "data", out=out, **given)


@pytest.fixture(scope="module")
def whole(place: Path) -> maenas.RaceResult:
    """A race that nothing has interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "curves_plot", lambda out: b"")
        patch.setattr(trainer, "write_report", lambda *_: None)
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        found = race(place, place / "whole")
        torch.set_num_threads(before)
    return found


# The course -----------------------------------------------------------------------------------------------------------


def test_rungs_end_an_eta_th_before_the_next_and_at_an_evaluation() -> None:
    assert rung_epochs(300, rungs=3, eta=3) == (35, 100, 300)
    assert rung_epochs(60, rungs=3, eta=3) == (7, 20, 60)
    assert rung_epochs(27, rungs=1, eta=3) == (27,)
    with pytest.raises(MaenasError, match="too few for 4 rungs"):
        rung_epochs(4, rungs=4, eta=3)


def test_an_eta_th_goes_on_and_two_reach_the_end() -> None:
    assert field_sizes(9, 3, 3) == (9, 3, 2)
    assert field_sizes(27, 3, 3) == (27, 9, 3)
    assert field_sizes(2, 3, 3) == (2, 2, 2)


def settings(**given: Any) -> Settings:
    common = dict(data="d", candidates=(), control=None, budget=None, device="t4", space="k1kx", shortlist=9)
    return Settings(**{**common, "input_size": None, "rungs": (1, 3, 9), "eta": 3, "seeds": 1, "recipe": {}, **given})


def scored(aps: Sequence[float], *, control: int | None = None) -> Race:
    entrants = tuple(Entrant(f"n{i}", f"{i}", "", i == control, 9.0 - i, 1.0) for i in range(len(aps)))
    scores = tuple(Score(f"n{i}", 0, end, ap) for i, ap in enumerate(aps) for end in (1, 3))
    return replace(new_race(settings(), entrants), scores=scores)


def test_the_best_third_stays_and_the_control_with_them() -> None:
    aps = [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.0, 0.4, 0.5]
    assert scored(aps).field(0) == tuple(f"n{i}" for i in range(9))
    assert scored(aps).field(1) == ("n1", "n3", "n5")
    assert scored(aps, control=6).field(2) == ("n1", "n3", "n6")
    assert planned_epochs(scored(aps)) == 9 + 3 * 2 + 2 * 6


def test_of_equal_aps_the_faster_one_stays() -> None:
    assert scored([0.5] * 9).field(2) == ("n7", "n8")


# Who has won ----------------------------------------------------------------------------------------------------------


def test_an_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for case in range(100):
        images = rng.normal(0.1, 0.3, 60)  # a mean over images stands for AP
        weights = image_weights(60, case, 400)
        rows = [(weights @ images / 60)[None], np.zeros((1, 401))]
        order, _, behind = compare(rows, case)
        loser = behind[order[1]]
        low, high = (loser.low, loser.high) if order[0] == 0 else (-loser.high, -loser.low)
        covered += low <= 0.1 <= high
    assert 88 <= covered <= 99


def test_seeds_that_differ_widen_the_interval() -> None:
    weights = image_weights(50, 0, 500)
    images = np.random.default_rng(1).normal(0.5, 0.2, 50)
    one = (weights @ images / 50)[None]
    _, [alone, _], _ = compare([one, one * 0], 0)
    _, [several, _], _ = compare([np.concatenate([one - 0.1, one, one + 0.1]), one * 0], 0)
    assert several.value == pytest.approx(alone.value)
    assert several.high - several.low > alone.high - alone.low


def test_a_difference_within_its_interval_is_called_so(whole: maenas.RaceResult) -> None:
    text = "\n".join(verdict(whole.race, whole.result))
    second = whole.result.finalists[1]
    assert second.behind is not None
    assert ("cannot be told apart" in text) == second.behind.covers_zero


# Races ----------------------------------------------------------------------------------------------------------------


def test_the_winner_is_what_training_it_alone_gives(place: Path, whole: maenas.RaceResult, tmp_path: Path) -> None:
    state = whole.race
    assert {score.name for score in state.scores if score.epoch == 2} == {"a", "b", "c"}
    assert len([score for score in state.scores if score.epoch == 4]) == 2
    recipe = replace(RECIPE, eval_every=1)
    options = {"recipe": recipe, "out": tmp_path / "alone", "device": "cpu"}
    alone = maenas.train(place / f"{whole.winner}.json", data=place / "data", **options)
    run = whole.folder / "runs" / whole.winner
    assert (run / "weights.safetensors").read_bytes() == alone.weights.read_bytes()
    rows = [[json.loads(line) for line in (f / "epochs.jsonl").read_text().splitlines()] for f in (run, alone.folder)]
    assert [row["losses"] for row in rows[0]] == [row["losses"] for row in rows[1]]


def test_the_winners_ap_is_the_evaluators(place: Path, whole: maenas.RaceResult) -> None:
    weights = read_weights(whole.weights)
    rated = maenas.evaluate(Detector.load(whole.weights, "cpu"), place / "data")
    assert rated.ap == whole.result.finalists[0].ap.value
    assert weights.spec_file is not None
    assert weights.spec_file.provenance is not None
    assert weights.spec_file.provenance["race"]["finalists"][0]["name"] == whole.winner
    assert maenas.load_spec(str(whole.folder / "winner.json")).id == whole.spec.id


def test_the_ap_that_ranks_is_the_mean_of_the_last_evaluations(whole: maenas.RaceResult) -> None:
    rows = (whole.folder / "runs" / whole.winner / "epochs.jsonl").read_text().splitlines()
    aps = [json.loads(row)["metrics"]["AP"] for row in rows]
    assert whole.race.score(whole.winner, 2) == pytest.approx(np.mean(aps[:2]))
    assert whole.race.score(whole.winner, 4) == pytest.approx(np.mean(aps[1:4]))


def same_result(one: maenas.RaceResult, two: maenas.RaceResult) -> None:
    assert {(s.name, s.epoch, s.ap) for s in one.race.scores} == {(s.name, s.epoch, s.ap) for s in two.race.scores}
    assert one.result == two.result
    assert one.weights.read_bytes() == two.weights.read_bytes()


def test_a_race_that_is_over_is_not_run_again(
    place: Path, whole: maenas.RaceResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (whole.folder / "race.json").read_bytes()
    monkeypatch.setattr(race_workers, "run_trial", lambda *_: pytest.fail("a trial was repeated"))
    same_result(whole, race(place, whole.folder, resume=True))
    assert (whole.folder / "race.json").read_bytes() == before


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_result(
    place: Path, whole: maenas.RaceResult, tmp_path: Path
) -> None:
    code = (
        "import sys, torch, maenas\nfrom detector import trial\nfrom detector.recipe import Recipe, override\n"
        "torch.set_num_threads(1)\ntrial.is_installed = lambda name: False\nplace, out = sys.argv[1:3]\n"
        f"recipe = override(Recipe(), {SETTINGS!r})\nfiles = [f'{{place}}/{{name}}.json' for name in 'abc']\n"
        "maenas.race(files, data=f'{place}/data', recipe=recipe, rungs=2, train_on='cpu', out=out, resume=True)\n"
    )
    out = tmp_path / "race"
    rng = np.random.default_rng(0)
    for _ in range(20):
        command = [sys.executable, "-c", code, str(place), str(out)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(2):  # evaluations
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        if process.returncode == 0:
            break
    same_result(whole, race(place, out, resume=True))


@pytest.mark.slow
def test_several_processes_give_the_result_of_one(place: Path, whole: maenas.RaceResult, tmp_path: Path) -> None:
    environment = {"OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        same_result(whole, race(place, tmp_path / "two", train_on="cpu,cpu"))


def test_a_candidate_that_diverges_is_out_and_the_race_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.run_job

    def fails(job: Any, **options: Any) -> Any:
        if job.name == "a":
            raise LossNotFiniteError("step 3: the loss is not finite")
        if job.name == "b":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return real(job, **options)

    monkeypatch.setattr(module, "run_job", fails)
    found = race(place, tmp_path / "race")
    assert found.winner == "c"
    assert {row.name: row.reason.partition(":")[0] for row in found.race.out} == {"a": "diverged", "b": "out of memory"}
    monkeypatch.setattr(module, "run_job", lambda *_, **__: (_ for _ in ()).throw(LossNotFiniteError("nan")))
    with pytest.raises(MaenasError, match=r"no candidate is left\. a: diverged"):
        race(place, tmp_path / "none", names=("a", "b"))


def test_finalists_are_repeated_with_other_seeds_and_the_control_stays(place: Path, tmp_path: Path) -> None:
    options = {"control": place / "a.json", "seeds": 2, "settings": ("epochs=3",)}
    recipe = replace(RECIPE, epochs=2)
    found = race(place, tmp_path / "race", names=("b", "c"), **{**options, "recipe": recipe, "settings": ()})
    assert {row.name for row in found.result.finalists} >= {"a"}
    assert all(len(row.by_seed) == 2 for row in found.result.finalists)
    assert (tmp_path / "race" / "runs" / "a-seed1" / "last.pt").exists()


# Mistakes -------------------------------------------------------------------------------------------------------------


def test_a_mistake_is_one_message_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    other = maenas.load_spec(str(place / "b.json")).detector
    write_spec(tmp_path / "more.json", replace(other, head=replace(other.head, num_classes=7)), "more")
    write_spec(tmp_path / "again.json", maenas.load_spec(str(place / "a.json")).detector, "again")
    out = tmp_path / "race"
    a, b = place / "a.json", place / "b.json"
    cases: list[tuple[list[Path], dict[str, Any], str]] = [
        ([a, b], {"data": tmp_path / "nothing"}, "there is no such file or folder"),
        ([a, tmp_path / "more.json"], {}, "different numbers of classes"),
        ([a, tmp_path / "again.json"], {}, "again and a have the same network"),
        ([a, b], {"budget": "0.01ms"}, "beyond the budget of 0.01ms on t4: a .*, b .*leave them out"),
        ([a], {}, "is no race"),
        ([], {}, "--budget 3ms to make a shortlist"),
        ([a, b], {"rungs": 4}, "too few for 4 rungs"),
        ([a, b], {"train_on": "cuda:9"}, "CUDA devices"),
    ]
    for files, options, message in cases:
        given = {"data": place / "data", "recipe": RECIPE, "rungs": 2, "out": out, "train_on": "cpu", **options}
        with pytest.raises(MaenasError, match=message):
            maenas.race(files, **given)
        assert not out.exists()


def test_a_folder_of_a_race_is_not_overwritten(place: Path, whole: maenas.RaceResult) -> None:
    before = (whole.folder / "race.json").read_bytes()
    with pytest.raises(MaenasError, match="already holds a race; add --resume"):
        race(place, whole.folder)
    with pytest.raises(MaenasError, match=r"holds another race; different rungs \(2, 4 there, 4 here\)"):
        race(place, whole.folder, rungs=1, resume=True)
    with pytest.raises(MaenasError, match=r"different .*seed \(0 there, 5 here\)"):
        race(place, whole.folder, seed=5, recipe=replace(RECIPE, seed=5), resume=True)
    assert (whole.folder / "race.json").read_bytes() == before
    assert read_race(whole.folder) == whole.race


def test_a_second_race_in_one_folder_is_refused(place: Path, whole: maenas.RaceResult) -> None:
    from maenas.locks import locked

    with locked(whole.folder), pytest.raises(MaenasError, match=f"in use by process {os.getpid()}"):
        race(place, whole.folder, resume=True)
