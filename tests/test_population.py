"""The population benchmark: which networks it takes, what it computes from them, and that it trains nothing twice."""

import itertools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import population
import population_choice as choice
import population_statistics as stats
import pytest
import yaml

from detector.recipe import load_recipe
from maenas.latency.predictor import load_predictor, predict
from maenas.lowering import lower
from maenas.nas.request import Request
from maenas.spec import load_spec

pytestmark = pytest.mark.slow  # every test prepares the space for each score

SPACE = str(Path(choice.__file__).parent / "population_space.yaml")
REQUEST = Request(space=SPACE, devices=("t4",), latency_s=(0.78e-3,), num_classes=4, input_size=192, generations=20)


@pytest.fixture(scope="module")
def members() -> list[choice.Member]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "POOL", 60)
        return choice.choose_members(REQUEST, count=6, seed=0)


def drawn(members: Sequence[choice.Member]) -> list[choice.Member]:
    return [member for member in members if choice.DRAWN in member.roles]


# Choice


def test_every_member_takes_the_latency(members: list[choice.Member]) -> None:
    model = load_predictor("t4")
    for member in members:
        seconds = predict(lower(member.spec), model).seconds
        assert abs(seconds / 0.78e-3 - 1) <= choice.NEAR + 1e-6
        assert math.isclose(seconds * 1e3, member.measures["latency_ms"], rel_tol=1e-6)


def test_every_score_has_its_optimum_and_nothing_drawn_scores_higher(members: list[choice.Member]) -> None:
    for name in choice.SCORES:
        roles = {f"optimum of {name}", f"optimum of {name}, not proven"}
        best = next(member for member in members if roles & {*member.roles})
        within = [m for m in drawn(members) if m.measures["latency_ms"] <= 0.78]
        assert all(best.measures[name] >= member.measures[name] for member in within)


def test_the_order_is_random_and_the_same_each_time(members: list[choice.Member]) -> None:
    kinds = [choice.DRAWN in member.roles for member in members]
    assert kinds != sorted(kinds)
    assert kinds != sorted(kinds, reverse=True)
    others = [member for member in members if choice.DRAWN not in member.roles]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "POOL", 60)
        patch.setattr(choice, "optima", lambda *_: others)
        again = choice.choose_members(REQUEST, count=6, seed=0)
    assert drawn(again) == drawn(members)
    assert [choice.DRAWN in member.roles for member in again] == kinds


def test_the_control_is_the_published_detector_where_that_takes_the_latency() -> None:
    published = load_spec("damo-yolo-t").detector
    latency = predict(lower(published), load_predictor("t4")).seconds
    request = Request(space="k1kx-tiny", devices=("t4",), latency_s=(latency,))
    assert choice.control(request, choice.prepare_all(request)).spec == published


def test_a_latency_that_nothing_takes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "ROUNDS", 1)
    setup = choice.prepare_all(replace(REQUEST, latency_s=(50e-3,)))["mae"]
    with pytest.raises(SystemExit, match="only 0 of 100000"):
        choice.draw(setup, 5, np.random.default_rng(0))


def test_maximin_spreads() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 3))

    def closest(indices: list[int]) -> float:
        return min(math.dist(points[a], points[b]) for a, b in itertools.combinations(indices, 2))

    chosen = choice.maximin(points, 12, first=3)
    assert chosen[0] == 3
    assert len(set(chosen)) == 12
    at_random = [closest(list(rng.choice(500, 12, replace=False))) for _ in range(200)]
    assert closest(chosen) > max(at_random)
    for step in range(1, 12):  # the slow way
        distance = [min(math.dist(point, points[taken]) for taken in chosen[:step]) for point in points]
        assert math.isclose(distance[chosen[step]], max(distance))


def test_whitened_features_are_uncorrelated() -> None:
    rng = np.random.default_rng(0)
    depth = rng.normal(size=400)
    features = np.stack([depth + 0.1 * rng.normal(size=400), 5 * depth, rng.normal(size=400)], axis=1)
    np.testing.assert_allclose(np.cov(choice.whitened(features), rowvar=False), np.eye(3), atol=1e-9)


# Statistics


def slow_tau_b(x: list[float], y: list[float], owners: list[int]) -> float:
    score = untied_x = untied_y = 0.0
    for a, b in itertools.combinations(range(len(x)), 2):
        if owners[a] != owners[b]:
            left, right = np.sign(x[a] - x[b]), np.sign(y[a] - y[b])
            score, untied_x, untied_y = score + left * right, untied_x + abs(left), untied_y + abs(right)
    return score / math.sqrt(untied_x * untied_y)


def test_tau_equals_counting_pairs_also_in_resamples() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=14).astype(float), rng.normal(size=14)
    weights = np.vstack([np.ones(14), rng.multinomial(14, np.full(14, 1 / 14), size=5)]).astype(float)
    taus = stats.tau_b([x, y], weights)
    for row, counts in zip(taus, weights.astype(int), strict=True):
        owners = list(np.repeat(np.arange(14), counts))
        assert math.isclose(row[0, 1], slow_tau_b(list(x[owners]), list(y[owners]), owners))
        assert row[0, 1] == row[1, 0]


def test_partial_tau_equals_that_of_the_inverse_matrix() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=40)
    columns = [base + rng.normal(size=40) for _ in range(4)]
    taus = stats.tau_b(columns, np.ones((1, 40)))
    inverse = np.linalg.inv(taus[0])
    expected = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
    assert math.isclose(stats.partial(taus, 0, 1, [2, 3])[0], expected)
    assert math.isclose(stats.partial(taus, 0, 1, [3, 2])[0], expected)


def toy(count: int = 30) -> tuple[list[dict], list[dict]]:
    """Members whose AP follows `good` exactly and `flops` loosely; three are trained twice, 0.02 apart."""
    rng = np.random.default_rng(0)
    good = rng.permutation(count) / count
    flops = good + rng.normal(size=count)
    noise = rng.normal(size=(2, count))
    rows, runs = [], []
    for i in range(count):
        measures = {"good": good[i], "flops": flops[i], "bad": noise[0, i], "latency_ms": noise[1, i]}
        rows.append({"id": f"n{i}", "roles": ["drawn"], "measures": measures})
        runs.append({"id": f"n{i}", "seed": 0, "AP": 0.5 + 0.1 * good[i]})
    runs += [{"id": f"n{i}", "seed": 1, "AP": runs[i]["AP"] + 0.02} for i in range(3)]
    rows.append({"id": "best", "roles": ["optimum of good"], "measures": rows[0]["measures"]})
    runs.append({"id": "best", "seed": 0, "AP": 0.55})
    return rows, runs


def test_the_summary_finds_what_is_there() -> None:
    rows, runs = toy()
    document = stats.summary(rows, runs, seed=0)
    assert document["networks"] == 30  # the optimum is no draw
    good, flops, bad = (document["measures"][name] for name in ("good", "flops", "bad"))
    assert good["tau"] == [1, 1, 1]
    assert good["minus_flops"][1] > 0  # beyond noise
    assert flops["minus_flops"] == [0, 0, 0]
    assert bad["tau"][1] < 0 < bad["tau"][2]
    assert document["noise"] == {"repeated": 3, "sd": 0.0141, "reliability": document["noise"]["reliability"]}
    assert math.isclose(
        document["noise"]["reliability"], 1 - 0.0002 / np.var([r["AP"] for r in runs[:30]], ddof=1), abs_tol=1e-4
    )
    assert document["picks"]["good"]["regret"] == 0
    highest = 0.5 + 0.1 * 29 / 30
    assert document["chosen"]["optimum of good"] == {"AP": 0.55, "regret": round(highest - 0.55, 4), "beats": 0.5}
    assert "good" in stats.summary_text(document)


def test_too_few_networks_give_no_statistics() -> None:
    rows, runs = toy()
    document = stats.summary(rows, runs[:4], seed=0)
    assert document == {"networks": 4}
    assert "too few" in stats.summary_text(document)


# Training

STUB = """
import json, pathlib, sys, time
words = sys.argv
folder = pathlib.Path(words[words.index("--out") + 1])
counter = folder.parent / "trained.txt"
counter.write_text((counter.read_text() if counter.exists() else "") + folder.name + " ")
time.sleep(float(pathlib.Path(__file__).with_name("seconds.txt").read_text()))
spec = json.loads(pathlib.Path(words[words.index("train") + 1]).read_text())
ap = 0.3 + int(spec["id"], 16) % 1000 / 10000
rows = [{"epoch": n, "seconds": 1.5, "metrics": {"AP": ap + n / 100, "AP50": 0.6}} for n in range(3)]
(folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[choice.Member]) -> Path:
    """A trainer that writes down what it was asked to train; the members are those above."""
    package = tmp_path / "trainer" / "maenas"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STUB)
    (package / "seconds.txt").write_text("0")
    monkeypatch.setattr(population, "choose_members", lambda *_, **__: members)
    return package.parent


def call(stub: Path, monkeypatch: pytest.MonkeyPatch, *texts: str) -> dict:
    folder = stub.parent
    words = ["--trainer", str(stub), "--folder", str(folder / "runs"), "--result", str(folder / "result.json")]
    monkeypatch.setattr(sys, "argv", ["population.py", *words, "--count", "6", "--repeats", "2", *texts])
    population.main()
    return json.loads((folder / "result.json").read_text())


def trained(stub: Path) -> list[str]:
    return (stub.parent / "runs" / "trained.txt").read_text().split()


def test_a_finished_network_is_not_trained_again_even_without_its_folder(
    stub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = call(stub, monkeypatch)
    names = trained(stub)
    assert len(names) == len(set(names)) == len(document["members"]) + 2 == len(document["runs"])
    assert names[: len(document["members"])] == [f"{row['id']}-0" for row in document["members"]]
    (stub.parent / "runs" / "trained.txt").unlink()
    assert call(stub, monkeypatch) == document
    assert not (stub.parent / "runs" / "trained.txt").exists()
    assert "nothing is left" in capsys.readouterr().out


def test_ap_is_the_mean_of_the_last_evaluations(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = call(stub, monkeypatch)["runs"][0]
    ap = 0.3 + int(run["id"], 16) % 1000 / 10000
    assert run["APs"] == [pytest.approx(ap + 0.01, abs=1e-5), pytest.approx(ap + 0.02, abs=1e-5)]
    assert run["AP"] == pytest.approx(ap + 0.015, abs=1e-5)
    assert run["seconds"] == 4.5


def test_stopped_in_time_it_goes_on_later(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stub / "maenas" / "seconds.txt").write_text("60")
    stopped = call(stub, monkeypatch, "--minutes", "0.02")
    assert stopped["runs"] == []
    assert len(trained(stub)) == 1  # begun, and ended by a signal
    (stub / "maenas" / "seconds.txt").write_text("0")
    document = call(stub, monkeypatch, "--jobs", "2")
    assert document["members"] == stopped["members"]
    assert len(document["runs"]) == len(document["members"]) + 2


def test_a_score_that_is_offered_later_gets_its_optimum(
    stub: Path, monkeypatch: pytest.MonkeyPatch, members: list[choice.Member]
) -> None:
    without = [
        replace(member, measures={name: value for name, value in member.measures.items() if name != "flops"})
        for member in members
        if not any("optimum of flops" in role for role in member.roles)
    ]
    new = [member for member in members if any("optimum of flops" in role for role in member.roles)]
    monkeypatch.setattr(population, "choose_members", lambda *_, **__: without)
    monkeypatch.setattr(population, "optima", lambda *_: new)
    monkeypatch.setattr(population, "summary", lambda *_, **__: {"networks": 0})  # flops is its baseline
    before = call(stub, monkeypatch)
    count, finished = len(without), len(trained(stub))
    after = call(stub, monkeypatch)
    assert [row["id"] for row in after["members"][:count]] == [row["id"] for row in before["members"]]
    assert [row["measures"] for row in after["members"]] == [
        pytest.approx(member.measures, rel=1e-6)
        for row in after["members"]
        for member in members
        if member.spec.id == row["id"]
    ]
    assert trained(stub)[finished:] == [f"{member.spec.id}-0" for member in new]


def test_other_conditions_need_another_result_file(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(stub, monkeypatch)
    with pytest.raises(SystemExit, match="made with another latency_ms, averaged; name another --result"):
        call(stub, monkeypatch, "--latency", "0.8ms", "--averaged", "1")


def test_a_training_that_fails_stops_with_what_it_said(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stub / "maenas" / "__main__.py").write_text("raise SystemExit('no such data')")
    with pytest.raises(SystemExit, match=r"the training failed\nno such data"):
        call(stub, monkeypatch)


@pytest.mark.parametrize("name", ["population_recipe.yaml", "population_recipe_bccd.yaml"])
def test_the_trainer_reads_the_recipe(name: str) -> None:
    path = Path(choice.__file__).with_name(name)
    assert load_recipe(str(path)).eval_every == yaml.safe_load(path.read_text(encoding="utf-8"))["eval_every"]
