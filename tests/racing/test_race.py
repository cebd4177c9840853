"""Races: who stays follows from the scores, the winner is an ordinary run, and nothing is done twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import maenas
from detector import cost
from detector import trial as module
from detector.cost import Measured, first_steps
from detector.guard import LossNotFiniteError
from detector.job import Job, make_job
from detector.model.weights import read_weights
from detector.predict import Detector
from maenas.api import race_setup, race_verdict, race_workers
from maenas.api.race_setup import RaceRequest, prepare_race
from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.lowering import lower
from maenas.racing.state import Interval, Result, read_race
from maenas.racing.text import rung_text, verdict
from maenas.spec import write_spec
from maenas.strict import dump_json, parse_json
from tests.conftest import Maenas
from tests.detector.conftest import TINY, TINY_STAGES
from tests.racing.conftest import RECIPE, ROOT, SETTINGS, race, same_result


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


def test_a_test_split_is_used_or_said_to_be_unfit_before_anything_is_trained(
    place: Path, whole: maenas.RaceResult, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    files = tuple(str(place / f"{name}.json") for name in "ab")
    request = RaceRequest(str(data), files, recipe=RECIPE, rungs=2, train_on="cpu")
    annotations = data / "annotations"
    said: list[str] = []

    def images_of_test() -> int | None:
        said.clear()
        test = prepare_race(request, tmp_path / "race", resume=False, on_step=said.append).test
        return None if test is None else len(test)

    assert images_of_test() is None
    assert not [text for text in said if "test split" in text]
    (annotations / "instances_test.json").write_text("{broken")
    assert images_of_test() is None
    assert [text for text in said if text.startswith("the test split is left out: ") and "instances_test" in text]
    shutil.copy(annotations / "instances_val.json", annotations / "instances_test.json")
    assert images_of_test() == whole.result.images
    assert not [text for text in said if "test split" in text]


def test_a_test_split_of_which_no_image_can_be_read_ends_no_race(
    place: Path, whole: maenas.RaceResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = RaceRequest(str(place / "data"), tuple(str(place / f"{name}.json") for name in "abc"), recipe=RECIPE)
    setup = prepare_race(replace(request, rungs=2, train_on="cpu"), whole.folder, resume=True)
    broken = replace(setup.job.train)
    monkeypatch.setattr(
        race_verdict,
        "resampled_aps",
        lambda job, out, dataset, weights, device: np.full(len(weights), np.nan if dataset is broken else 0.5),
    )
    result = race_verdict.decide(replace(setup, test=broken), whole.race, whole.folder, "cpu")
    assert [row.test for row in result.finalists] == [None, None]
    assert parse_json(dump_json(result), Result, where="") == result


def test_a_race_that_is_over_is_not_run_again(
    place: Path, whole: maenas.RaceResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (whole.folder / "race.json").read_bytes()
    monkeypatch.setattr(race_workers, "run_trial", lambda *_: pytest.fail("a trial was repeated"))
    same_result(whole, race(place, whole.folder, resume=True))
    assert (whole.folder / "race.json").read_bytes() == before


def test_killed_between_a_step_and_its_evaluation_the_evaluation_is_made(
    place: Path, whole: maenas.RaceResult, tmp_path: Path
) -> None:
    out, recipe = str(tmp_path / "run"), replace(RECIPE, eval_every=1)
    trial = module.Trial("a", 0, str(place / "a.json"), str(place / "data"), recipe, None, out, 2, 3, "cpu")

    def die(progress: module.Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(MaenasError, match="interrupted"):
        module.run_trial(trial, die)
    assert module.run_trial(trial).ap == whole.race.score("a", 2)


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


@pytest.mark.slow
def test_finalists_are_repeated_with_other_seeds_and_the_control_stays(place: Path, tmp_path: Path) -> None:
    options = {"control": place / "a.json", "seeds": 2, "settings": ("epochs=3",)}
    recipe = replace(RECIPE, epochs=2)
    found = race(place, tmp_path / "race", names=("b", "c"), **{**options, "recipe": recipe, "settings": ()})
    assert {row.name for row in found.result.finalists} >= {"a"}
    assert all(len(row.by_seed) == 2 for row in found.result.finalists)
    assert (tmp_path / "race" / "runs" / "a-seed1" / "last.pt").exists()


def test_a_difference_within_its_interval_is_called_so(whole: maenas.RaceResult) -> None:
    text = "\n".join(verdict(whole.race, whole.result))
    second = whole.result.finalists[1]
    assert second.behind is not None
    assert ("cannot be told apart" in text) == second.behind.covers_zero


def test_nothing_learned_has_no_winner(whole: maenas.RaceResult) -> None:
    nothing = Interval(0.0, 0.0, 0.0)
    finalists = tuple(replace(row, ap=nothing, behind=row.behind and nothing) for row in whole.result.finalists)
    (line,) = verdict(whole.race, replace(whole.result, finalists=finalists))
    assert line.startswith("no winner  the AP of every finalist is 0")
    none = replace(whole.race, scores=tuple(replace(score, ap=0.0) for score in whole.race.scores))
    assert "no AP is above 0 yet, so that the fastest go on" in rung_text(none, 0)
    assert "no AP is above 0" not in rung_text(whole.race, 0)


def test_the_same_files_in_another_spelling_are_the_same_race(
    place: Path, whole: maenas.RaceResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(place)
    monkeypatch.chdir(place)
    same_result(whole, race(Path(), whole.folder, resume=True))
    monkeypatch.chdir(tmp_path)
    same_result(whole, race(Path("link"), whole.folder, resume=True))


def test_with_json_the_output_is_one_document_and_the_course_goes_elsewhere(place: Path, maenas: Maenas) -> None:
    words = ["race", place / "a.json", place / "b.json", "--data", place / "data", "--rungs", "2", "--train-on", "cpu"]
    words += [word for text in SETTINGS for word in ("--set", text)]
    plan = json.loads(maenas(*words, "--plan", "--json").out)["plan"]
    assert [entrant["name"] for entrant in plan["entrants"]] == ["a", "b"]
    assert (plan["epochs"], plan["devices"]) == (8, ["cpu"])
    done = maenas(*words, "--json")
    assert json.loads(done.out)["winner"] in ("a", "b")
    assert "rung 2/2  epoch   4/4" in done.err


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


def test_latencies_are_of_the_precision_asked_for(place: Path, tmp_path: Path) -> None:
    files = (str(place / "a.json"), str(place / "b.json"))
    for precision in ("fp16", "int8"):
        options = {"recipe": RECIPE, "rungs": 2, "train_on": "cpu", "precision": precision}
        setup = prepare_race(RaceRequest(str(place / "data"), files, **options), tmp_path / "race", resume=False)
        for row in setup.candidates:
            assert row.seconds * 1e3 == maenas.predict(row.spec, device="t4", precision=precision).latency_ms
        assert setup.race.settings.precision == precision


def test_the_batch_is_what_fits_for_the_candidate_that_takes_most_memory(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = TINY_STAGES
    stages = {
        "busy": (first, *others[:-1], replace(others[-1], out_channels=128)),
        "large": (replace(first, depth=3), *others),
    }
    specs = {name: replace(TINY, backbone=replace(TINY.backbone, stages=own)) for name, own in stages.items()}
    costs = {name: total_cost(lower(spec)) for name, spec in specs.items()}
    assert costs["busy"].flops > costs["large"].flops
    assert costs["busy"].activations < costs["large"].activations
    for name, spec in specs.items():
        write_spec(tmp_path / f"{name}.json", spec, name)
    timed: list[Job] = []
    monkeypatch.setattr(race_setup, "measure", lambda job, device: timed.append(job) or Measured(4, 0.01))
    files = tuple(str(tmp_path / f"{name}.json") for name in specs)
    request = RaceRequest(str(place / "data"), files, recipe=RECIPE, rungs=2, train_on="cpu")
    state = prepare_race(request, tmp_path / "race", resume=False).race
    assert [job.spec.backbone for job in timed] == [specs["large"].backbone]
    ratio = state.entrant("busy").epoch_s / state.entrant("large").epoch_s
    assert ratio == pytest.approx(costs["busy"].flops / costs["large"].flops, rel=1e-2)


def test_timed_steps_leave_nothing_on_the_gpu_for_the_trials_in_other_processes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets: list[weakref.ref[Any]] = []
    left: list[Any] = []

    def noted(*args: Any) -> Any:
        steps = first_steps(*args)
        nets.append(weakref.ref(steps.parts.net))
        return steps

    monkeypatch.setattr(cost, "first_steps", noted)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(nets[0]()))
    cost.measure(make_job(place / "a.json", place / "data", recipe=RECIPE), "cpu")
    assert left == [None]


def test_a_race_of_before_there_were_precisions_is_read(whole: maenas.RaceResult, tmp_path: Path) -> None:
    document = json.loads((whole.folder / "race.json").read_text())
    assert document["settings"].pop("precision") is None
    (tmp_path / "race.json").write_text(json.dumps(document))
    assert read_race(tmp_path) == whole.race


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
