"""From a request to a searched detector: budgets, the bound on depth, and what is said about the result."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.latency.predictor import load_predictor, predict
from maenas.lowering import lower
from maenas.nas.depth_bound import PUBLISHED_LAYERS, kernels_in_scope
from maenas.nas.evolution import EvolutionSettings, evolve
from maenas.nas.exact import cheapest
from maenas.nas.pareto import pareto_front
from maenas.nas.problem import evaluate
from maenas.nas.provenance import provenance
from maenas.nas.request import Request, Setup, detector_of, prepare
from maenas.nas.run import SearchResult, run
from maenas.nas.space import load_space, space_names
from maenas.nas.stage_tables import Scope
from maenas.presets import get_neck_preset
from maenas.reports.front_text import format_front
from maenas.reports.search_text import format_result, format_setup
from maenas.score import mae_score, score_of, score_terms
from maenas.score_names import ScoreName
from maenas.spec import BackboneSpec, published_spec, spec_from_json, spec_to_json

QUICK: dict[str, Any] = {"population": 64, "generations": 20}


def modelled_s(name: str, scope: Scope = "detector", device: str = "t4") -> float:
    """Modelled latency of a published detector."""
    kernels = kernels_in_scope(published_spec(name), scope)
    return predict(kernels, load_predictor(device)).seconds


def refusal(**fields: Any) -> str:
    with pytest.raises(MaenasError) as caught:
        run(prepare(Request(**QUICK | fields)))
    return str(caught.value)


@pytest.fixture(scope="module")
def tiny() -> SearchResult:
    """k1kx-tiny at 2.2 ms and 6M parameters, the three best."""
    request = Request(space="k1kx-tiny", latency_s=(2.2e-3,), max_params=6_000_000, solver="exact", top_k=3)
    return run(prepare(request))


# Budgets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["detector", "backbone"])
@pytest.mark.parametrize("name", space_names())
def test_all_that_is_deployed_is_budgeted_and_nothing_else(name: str, scope: Scope) -> None:
    """What the tables add up for the smallest and the largest architecture is what its kernels add up to."""
    request = Request(
        space=name, latency_s=(1.0, 1.0), devices=("t4", "v100"), scope=scope, num_classes=7, max_params=10**12,
        max_flops=10**18, max_activation_bytes=10**15,
    )  # fmt: skip
    setup = prepare(request)
    largest = np.array([len(row) - 1 for row in setup.space.choices])
    assert [q.name for q, _ in setup.budgets] == ["latency on t4", "latency on v100", "params", "flops", "activations"]
    for genome in (setup.space.smallest, largest):
        kernels = kernels_in_scope(detector_of(setup, genome), scope)
        totals = [evaluate(c.tables, setup.problem.tables, genome[None])[0] for c in setup.problem.constraints]
        cost, times = total_cost(kernels), [predict(kernels, p).seconds for p in setup.predictors]
        assert [t * 1e-12 for t in totals[:2]] == pytest.approx(times, abs=1e-9, rel=0)
        assert totals[2:5] == [cost.params, cost.flops, cost.activations]


@pytest.mark.parametrize(
    ("space", "scope", "fields"),
    [
        ("k1kx-tiny", "detector", {}),
        ("k1kx-tiny", "backbone", {}),
        ("csp", "detector", {"precision": "fp32", "batch": 4}),
        ("mob", "detector", {"input_size": 320, "num_classes": 3, "neck": "s"}),
        ("k1kx-small", "detector", {"score": "deepmad"}),
        ("k1kx-small", "backbone", {"score": "flops", "solver": "exact"}),
        ("k1kxk1", "detector", {"score": "mae-flat"}),
        ("csp", "detector", {"score": "power-0.6"}),
        ("k1kx", "backbone", {"score": "power-0.75"}),
        ("kxkx-medium", "detector", {"score": "mae"}),
    ],
)
def test_what_the_written_spec_is_predicted_to_take_is_what_the_budget_was_charged(
    space: str, scope: Scope, fields: dict[str, Any]
) -> None:
    setup = prepare(Request(space=space, scope=scope, latency_s=(1.0,), **QUICK | fields))
    fastest = cheapest(setup.problem)[0].cost[0] * 1e-12
    result = run(prepare(dataclasses.replace(setup.request, latency_s=(1.4 * fastest,))))
    winner = result.candidates[0]
    spec = spec_from_json(spec_to_json(winner.spec, "x", provenance(result, 0))).detector
    assert spec == winner.spec
    assert spec.input.height == fields.get("input_size", setup.space.input_size)
    assert spec.head.num_classes == fields.get("num_classes", 80)
    assert spec.neck.block == get_neck_preset(fields.get("neck", setup.space.neck)).block
    kernels = kernels_in_scope(spec, scope)
    predictor = load_predictor("t4", precision=fields.get("precision", "fp16"), batch=fields.get("batch", 1))
    (budget,) = result.budgets
    assert predict(kernels, predictor).seconds == pytest.approx(budget.used, abs=1e-9, rel=0)
    assert budget.used <= budget.limit
    assert winner.predictions[0].seconds == pytest.approx(budget.used, abs=1e-9, rel=0)
    cost = total_cost(kernels)
    assert (winner.params, winner.flops, winner.layers) == (cost.params, cost.flops, cost.layers)
    assert winner.score == pytest.approx(score_of(setup.request.score, kernels), rel=1e-9, abs=1e-6)
    assert winner.mae == pytest.approx(float(mae_score(score_terms(kernels))), abs=1e-9)


def test_the_scope_decides_what_a_budget_counts() -> None:
    whole = run(prepare(Request(space="k1kx-tiny", latency_s=(2e-3,), solver="exact"))).candidates[0]
    alone = run(prepare(Request(space="k1kx-tiny", latency_s=(2e-3,), solver="exact", scope="backbone"))).candidates[0]
    assert "neck" in whole.predictions[0].parts
    assert set(alone.predictions[0].parts) == {"backbone"}
    assert predict(lower(alone.spec), load_predictor("t4")).seconds > 2e-3
    assert alone.score > whole.score


def test_with_several_devices_each_meets_its_own_budget() -> None:
    alone = {}
    for device in ("t4", "v100", "p100"):
        setup = prepare(Request(space="k1kx-tiny", devices=(device,), latency_s=(1.0,)))
        alone[device] = 1.25 * cheapest(setup.problem)[0].cost[0] * 1e-12
    alone["t4"] *= 1.2  # so that another device decides
    result = run(prepare(Request(space="k1kx-tiny", devices=tuple(alone), latency_s=tuple(alone.values()))))
    spec = result.candidates[0].spec
    for (device, limit), budget in zip(alone.items(), result.budgets, strict=True):
        assert budget.name == f"latency on {device}"
        assert predict(lower(spec), load_predictor(device)).seconds <= limit + 1e-9
    for device, limit in alone.items():
        single = run(prepare(Request(space="k1kx-tiny", devices=(device,), latency_s=(limit,))))
        assert single.candidates[0].score >= result.candidates[0].score


@pytest.mark.parametrize(
    ("limit", "value"),
    [("max_params", 5_000_000), ("max_flops", 9_000_000_000), ("max_activation_bytes", 40_000_000), ("max_layers", 13)],
)
def test_every_kind_of_limit_is_met_and_felt(limit: str, value: int) -> None:
    free = run(prepare(Request(space="k1kx-tiny", latency_s=(2.4e-3,), solver="exact"))).candidates[0]
    result = run(prepare(Request(space="k1kx-tiny", latency_s=(2.4e-3,), solver="exact", **{limit: value})))
    winner = result.candidates[0]
    field = {"max_activation_bytes": "activation_bytes"}.get(limit, limit.removeprefix("max_"))
    assert getattr(winner, field) <= value < getattr(free, field)
    assert winner.score < free.score


def test_the_best_k_are_distinct_in_order_and_each_within_the_budgets(tiny: SearchResult) -> None:
    scores = [candidate.score for candidate in tiny.candidates]
    assert len({candidate.spec.id for candidate in tiny.candidates}) == 3
    assert scores == sorted(scores, reverse=True)
    for candidate in tiny.candidates:
        assert candidate.predictions[0].seconds <= 2.2e-3
        assert candidate.params <= 6_000_000
    assert tiny.proven
    assert tiny.gap == 0
    assert tiny.optimum == pytest.approx(scores[0])


def test_both_solvers_agree_and_the_gap_is_measured_against_the_optimum(tiny: SearchResult) -> None:
    setup = prepare(dataclasses.replace(tiny.setup.request, solver="evolution", population=4, generations=1))
    poor = run(setup)
    assert poor.optimum == pytest.approx(tiny.candidates[0].score, abs=1e-6)
    assert poor.gap == pytest.approx(1 - poor.candidates[0].score / tiny.candidates[0].score, abs=1e-9)
    assert poor.gap > 0
    assert "below the proven optimum" in format_result(poor)
    good = run(prepare(dataclasses.replace(tiny.setup.request, solver="evolution")))
    assert good.candidates[0].score == pytest.approx(tiny.candidates[0].score, rel=1e-3)


# Impossible requests -------------------------------------------------------------------------------------------------


def test_an_impossible_budget_is_answered_with_the_fastest_there_is() -> None:
    text = refusal(space="k1kx-tiny", latency_s=(1e-3,))
    fastest = cheapest(prepare(Request(space="k1kx-tiny", latency_s=(1.0,))).problem)[0]
    assert "impossible budget: latency on t4 is limited to 1.00 ms" in text
    assert f"needs is {fastest.cost[0] * 1e-9:.2f} ms (widths 16-24-64-" in text
    prepare(Request(space="k1kx-tiny", latency_s=((fastest.cost[0] + 1) * 1e-12,)))
    assert "impossible" in refusal(space="k1kx-tiny", latency_s=((fastest.cost[0] - 1) * 1e-12,))
    assert "ms, 0.1 % more (widths" in refusal(space="k1kx-tiny", latency_s=(fastest.cost[0] / 1.001 * 1e-12,))


@pytest.mark.parametrize(
    ("fields", "name", "least"),
    [
        ({"max_params": 10_000}, "params is limited to 10.0K", "M"),
        ({"max_flops": 10_000_000}, "flops is limited to 10.0M", "G"),
        ({"max_activation_bytes": 1_000_000}, "activations is limited to 1.00 MB", " MB"),
        ({"max_activation_bytes": 1, "neck": "auto"}, "activations is limited to", " MB"),
        ({"max_layers": 5, "latency_s": (1.0,)}, "layers is limited to 5", "11"),
    ],
)
def test_each_impossible_limit_is_named_with_the_least_that_is_needed(
    fields: dict[str, Any], name: str, least: str
) -> None:
    text = refusal(space="k1kx-tiny", **fields)
    assert f"impossible budget: {name}" in text
    assert least in text.partition("needs is ")[2].partition("(")[0]


@pytest.mark.parametrize("solver", ["exact", "evolution"])
@pytest.mark.parametrize("space", ["k1kx-tiny", "k1kx"])
def test_limits_that_exclude_each_other_are_all_named(space: str, solver: str) -> None:
    """Each is met by some architecture: the fastest, and the one with the fewest parameters, which is another."""
    base = prepare(Request(space=space, latency_s=(1.0,), max_params=10**9))
    fast, small = cheapest(base.problem)[:2]
    assert fast.cost[1] > small.cost[1]
    limits = {"latency_s": (fast.cost[0] * 1e-12,), "max_params": small.cost[1]}
    answer = refusal(space=space, solver=solver, **limits)
    assert f"no architecture of the space {space} that meets all limits together (latency on t4" in answer
    assert "params" in answer
    assert "raise one of them" in answer


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no budget: give --budget 3ms"),
        ({"latency_s": (3e-3, 4e-3)}, "give one --budget for each --device"),
        ({"latency_s": (3e-3,), "devices": ("t4", "v100")}, "(t4, v100); give one --budget for each --device"),
        ({"latency_s": (3e-3,), "top_k": 0}, "top-k is 0; it must be at least 1"),
        ({"latency_s": (3e-3,), "num_classes": 0}, "classes is 0; it must be at least 1"),
        ({"latency_s": (3e-3,), "input_size": 100}, "input height is 100; it must be a positive multiple of 32"),
        ({"latency_s": (3e-3,), "input_size": 0}, "input height is 0; it must be a positive multiple of 32"),
        ({"latency_s": (3e-3,), "neck": "xl"}, "unknown neck 'xl'"),
        ({"latency_s": (3e-3,), "space": "k1"}, "unknown space 'k1'"),
        ({"latency_s": (3e-3,), "precision": "fp8"}, "unknown precision 'fp8'"),
        ({"latency_s": (3e-3,), "batch": 0}, "batch is 0; it must be at least 1"),
        ({"latency_s": (3e-3,), "max_layers": 0}, "layers is limited to 0"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_words(fields: dict[str, Any], message: str) -> None:
    assert message in refusal(**fields)


# The bound on depth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["detector", "backbone"])
@pytest.mark.parametrize(("name", "layers"), PUBLISHED_LAYERS)
def test_at_a_published_latency_the_bound_is_the_published_number_of_layers(
    name: str, layers: int, scope: Scope
) -> None:
    setup = prepare(Request(score="mae", latency_s=(modelled_s(name, scope),), scope=scope))
    assert setup.depths.max_layers == layers
    share = layers // 2 // 4
    assert setup.depths.max_depth == (2, *[min(share, stage.max_depth) for stage in setup.space.stages[1:]])
    limits = {c.name: c.limit for c in setup.problem.constraints}
    assert limits["layers"] == layers
    assert setup.problem.max_depth == setup.depths.max_depth


def test_between_two_published_latencies_the_bound_is_interpolated() -> None:
    fast, slow = modelled_s("damo-yolo-t"), modelled_s("damo-yolo-s")
    layers = [
        prepare(Request(score="mae", latency_s=(fast + share * (slow - fast),))).depths.max_layers
        for share in (0.19, 0.21, 0.5, 0.9)
    ]
    assert layers == [20, 21, 22, 24]


def test_of_several_budgets_the_tightest_sets_the_bound() -> None:
    small = modelled_s("damo-yolo-t")
    assert prepare(Request(score="mae", latency_s=(small,), max_params=10**9)).depths.max_layers == 20
    both = prepare(
        Request(score="mae", latency_s=(small, modelled_s("damo-yolo-l", device="v100")), devices=("t4", "v100"))
    )
    assert both.depths.max_layers == 20


def test_the_bound_can_be_overridden_and_is_printed_and_recorded() -> None:
    seconds = modelled_s("damo-yolo-t")
    own = prepare(Request(score="mae", latency_s=(seconds,), max_layers=30, max_effectiveness=0.3, **QUICK))
    assert (own.depths.max_layers, own.depths.max_effectiveness) == (30, 0.3)
    assert own.depths.max_depth == (2, 3, 3, 3, 3)
    assert "at most 30 layers, 2/3/3/3/3 units per stage, effectiveness up to 0.3; set by you" in format_setup(own)
    bound = prepare(Request(score="mae", latency_s=(seconds,), **QUICK))
    text = "at most 20 layers, 2/2/2/2/2 units per stage, effectiveness up to 0.1; as many as the published"
    assert text in format_setup(bound)
    result = run(bound)
    recorded = provenance(result, 0)["depth_bound"]
    assert (recorded["max_layers"], recorded["max_depth"], recorded["max_effectiveness"]) == (20, [2, 2, 2, 2, 2], 0.1)
    assert recorded["reason"].startswith("as many as the published")
    assert recorded["reached"] == list(result.on_bound)
    fixed = prepare(Request(score="mae", space="k1kx-tiny", latency_s=(seconds,)))
    assert "at most 20 layers, 2/2/2/2/2 units per stage; of the space k1kx-tiny" in format_setup(fixed)


def test_a_score_that_prices_layers_needs_no_bound_that_follows_the_budget() -> None:
    """The space's units per stage hold, a number of layers that a space or the user states, and nothing else."""
    seconds = modelled_s("damo-yolo-t")
    free = prepare(Request(latency_s=(seconds,)))
    assert (free.depths.max_layers, free.depths.max_effectiveness) == (None, None)
    assert free.problem.max_depth == tuple(stage.max_depth for stage in free.space.stages)
    assert "2/6/6/6/6 units per stage; every layer has a price in the score" in format_setup(free)
    assert prepare(Request(space="k1kx-tiny", latency_s=(seconds,))).depths.max_layers == 20
    own = prepare(Request(latency_s=(seconds,), max_layers=30, max_effectiveness=0.3)).depths
    assert (own.max_layers, own.max_effectiveness) == (30, 0.3)


def shape(backbone: BackboneSpec) -> tuple[list[int], list[int]]:
    widths = [backbone.stem.out_channels, *(stage.out_channels for stage in backbone.stages)]
    return widths, [stage.depth for stage in backbone.stages]


@pytest.mark.parametrize(("model", "end"), [("damo-yolo-t", 256), ("damo-yolo-s", 320)])
def test_at_a_published_latency_a_network_of_the_published_kind_comes_out(model: str, end: int) -> None:
    """Widths that never fall, depth in every stage within its limit, a wide end, as effective as the published."""
    result = run(prepare(Request(score="mae", latency_s=(modelled_s(model),))))
    winner, published = result.candidates[0], published_spec(model)
    widths, depths = shape(winner.spec.backbone)
    assert widths == sorted(widths)
    assert widths[-1] >= end
    assert all(1 <= depth <= most for depth, most in zip(depths, result.setup.depths.max_depth, strict=True))
    assert sum(depths[2:]) >= sum(shape(published.backbone)[1][2:]) - 1
    published_layers = total_cost(lower(published)).layers
    assert published_layers - 3 <= winner.layers <= dict(PUBLISHED_LAYERS)[model]
    assert winner.effectiveness <= 0.1
    assert winner.score >= float(mae_score(score_terms(lower(published))))


@pytest.mark.parametrize("model", ["damo-yolo-t", pytest.param("damo-yolo-s", marks=pytest.mark.slow)])
def test_without_the_bound_the_score_buys_depth_and_no_width(model: str, tmp_path: Path) -> None:
    """Why the bound is there: the same budget and widths, stages of up to 40 units."""
    document = yaml.safe_load((data_dir("search_spaces") / "k1kx.yaml").read_text(encoding="utf-8"))
    document["depth_bound"] = {"max_layers": 100_000, "max_effectiveness": 1e9}
    for stage in document["stages"]:
        stage["max_depth"] = 40
    path = tmp_path / "deep.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    setup = prepare(Request(score="mae", space=str(path), latency_s=(modelled_s(model),)))
    genome = evolve(setup.problem, EvolutionSettings(population=256, generations=80)).genes[:, 0]
    kernels = lower(detector_of(setup, genome))
    widths, depths = shape(setup.space.spec_of(genome))
    assert total_cost(kernels).layers > 100
    assert widths[-1] <= 160
    assert max(depths) >= 30
    assert score_terms(kernels).layers[-1] > 5 * dict(PUBLISHED_LAYERS)[model]
    assert float(mae_score(score_terms(kernels))) > 5 * float(mae_score(score_terms(lower(published_spec(model)))))


def test_an_evolution_ends_where_it_has_found_what_is_proven() -> None:
    """Only where one architecture is wanted, and the search for the neck has proved the optimum of this score."""
    full = {"space": "k1kx-tiny", "latency_s": (2e-3,), "population": 64, "generations": 60}
    every = 16 * 64 * 61
    ended = run(prepare(Request(**full, neck="auto")))
    assert ended.evaluated < every
    assert (ended.gap, ended.proven) == (0.0, True)
    several = run(prepare(Request(**full, neck="auto", top_k=2)))
    assert several.evaluated == every
    assert several.candidates[0].spec == ended.candidates[0].spec
    assert run(prepare(Request(**full))).evaluated == every


@pytest.mark.parametrize("score", ["mae", "balanced"])
@pytest.mark.parametrize("name", ["k1kx-tiny", "csp", "mob", "k1kx"])
@pytest.mark.parametrize("slack", [1.2, 3.0])
def test_sitting_on_a_limit_means_that_one_more_unit_would_break_it(name: str, slack: float, score: ScoreName) -> None:
    fastest = cheapest(prepare(Request(space=name, latency_s=(1.0,))).problem)[0].cost[0] * 1e-12
    result = run(prepare(Request(space=name, latency_s=(slack * fastest,), score=score, **QUICK)))
    winner, depths, said = result.candidates[0], result.setup.depths, ", ".join(result.on_bound)
    stages = winner.spec.backbone.stages
    deeper = []
    for number, stage in enumerate(stages):
        more = [*stages[:number], dataclasses.replace(stage, depth=stage.depth + 1), *stages[number + 1 :]]
        backbone = dataclasses.replace(winner.spec.backbone, stages=tuple(more))
        deeper.append(total_cost(lower(dataclasses.replace(winner.spec, backbone=backbone))).layers)
    most = depths.max_layers or 10**9
    assert (f"layers ({winner.layers} of {most})" in said) == (min(deeper) > most)
    full = [n for n, (s, m) in enumerate(zip(stages, depths.max_depth, strict=True), start=1) if s.depth == m]
    assert (f"(stage {', '.join(map(str, full))})" in said) == bool(full)
    rho = depths.max_effectiveness
    assert ("effectiveness" in said) == (rho is not None and winner.effectiveness > 0.99 * rho)
    assert f"{'sits on':<11}{said or 'no limit on depth'}" in format_result(result)


STEP = 1.005  # between two budgets
CLIFF = 0.005  # most that the best score may rise over a step


def rises(device: str, budgets_ms: Sequence[float], space: str = "k1kx", **fields: Any) -> list[float]:
    """Relative rise of the proven best score over one step, at each budget."""
    found = []
    for budget in budgets_ms:
        here, there = (
            run(prepare(Request(space=space, devices=(device,), latency_s=(ms * 1e-3,), solver="exact", **fields)))
            for ms in (budget, budget * STEP)
        )
        assert here.proven
        assert there.proven
        found.append(there.candidates[0].score / here.candidates[0].score - 1)
    return found


def test_the_best_score_has_no_cliffs() -> None:
    """Where the published depth bound steps, 3.4861 ms and 3.494 ms, and where the least fits."""
    assert all(0 <= rise <= CLIFF for rise in rises("t4", (1.22, 3.4861)))
    assert max(rises("t4", (3.4861,), score="mae")) > CLIFF


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "low", "fields"),
    [
        ("t4", 1.2, {}),
        ("h100-torch-fp16-b1", 1.27, {}),
        ("cpu-amd-epyc-onnxruntime-t2-fp32-b1", 36.5, {}),
        ("cpu-amd-epyc-onnxruntime-t2-fp32-b1", 8.2, {"space": "mob"}),
    ],
)
def test_no_device_has_cliffs(device: str, low: float, fields: dict[str, Any]) -> None:
    """Budgets over a factor of eight, unevenly spaced, from a tenth above the least that fits.

    Below, the score is steep and not stepped: on the H100 the first 6 % above the least latency double every width.
    """
    budgets = [low * 1.137**n for n in range(17)]
    assert all(0 <= rise <= CLIFF for rise in rises(device, budgets, **fields))


# What is said about it -----------------------------------------------------------------------------------------------


def test_provenance_is_plain_json_and_says_modelled_of_every_latency(tiny: SearchResult) -> None:
    for index, candidate in enumerate(tiny.candidates):
        stated = provenance(tiny, index)
        assert json.loads(json.dumps(stated, allow_nan=False)) == stated
        assert stated["rank"] == index + 1
        assert [row["kind"] for row in stated["latency"]] == ["modelled"]
        conditions = stated["latency"][0]["conditions"]
        assert conditions["kind"] == "modelled"
        assert {"device", "runtime", "precision", "batch", "nms_included", "table"} <= set(conditions)
        low, high = stated["latency"][0]["interval_90_ms"]
        assert low < stated["latency"][0]["ms"] < high
        assert sum(stated["latency"][0]["parts_ms"].values()) == pytest.approx(stated["latency"][0]["ms"], rel=1e-6)
        assert stated["score"]["value"] == pytest.approx(candidate.score, rel=1e-7)
        assert stated["budgets"] == {"latency on t4": 2.2e-3, "params": 6e6}
        assert stated["optimality"]["proven"]
    text = format_setup(tiny.setup) + "\n" + format_result(tiny)
    for line in text.splitlines():
        assert not line.startswith("latency") or "modelled on NVIDIA T4" in line
    assert text.count("modelled") >= 2


def test_a_score_without_a_bound_states_no_gap() -> None:
    result = run(prepare(Request(space="k1kx-tiny", latency_s=(2.2e-3,), score="deepmad", solver="exact", **QUICK)))
    stated = provenance(result, 0)
    assert stated["optimality"] == {"gap": None, "proven": False, "bound": None}
    assert stated["solver"] == "evolution"
    assert "only evolution can search it" in format_result(result)


def test_a_published_backbone_is_compared_where_the_space_holds_it(tiny: SearchResult) -> None:
    assert "published damo-yolo-t: balanced" in format_result(tiny)
    assert "damo-yolo-s" not in format_result(tiny)
    assert load_space("k1kx-tiny").contains(published_spec("damo-yolo-t").backbone)


# The front -----------------------------------------------------------------------------------------------------------


def test_the_front_agrees_with_searching_at_a_budget() -> None:
    request = Request(space="k1kx-tiny", latency_s=(1.7e-3,), solver="exact")
    front = pareto_front(prepare(request), 0.0)
    assert front.proven
    latencies = [point.latency_s for point in front.points]
    assert latencies == sorted(latencies)
    assert [p.score for p in front.points] == sorted({p.score for p in front.points})
    for budget in (1.7e-3, 1.62e-3, 1.6e-3):
        best = max(point.score for point in front.points if point.latency_s <= budget)
        winner = run(prepare(dataclasses.replace(request, latency_s=(budget,)))).candidates[0]
        assert best == pytest.approx(winner.score, abs=1e-6)


def test_the_front_begins_at_the_fastest_whatever_the_budget() -> None:
    for slack in (2, 20):
        setup = prepare(Request(space="demo", latency_s=(slack * 0.63e-3,), max_layers=14))
        front = pareto_front(setup, 0.0)
        assert front.points[0].solution.cost[0] == cheapest(setup.problem)[0].cost[0]


@pytest.mark.slow
def test_where_the_bound_follows_the_budget_the_front_follows_the_bound() -> None:
    """Across a change of the bound, every point keeps to the bound at its own latency."""
    fast, slow = modelled_s("damo-yolo-t", "backbone"), modelled_s("damo-yolo-s", "backbone")
    one = fast + 0.4 * (slow - fast)  # an odd number of layers is all that a backbone of this space can have
    setup: Setup = prepare(Request(score="mae", latency_s=(1.004 * one,), scope="backbone"))
    front = pareto_front(setup, 0.996 * one)
    assert {point.max_layers for point in front.points} == {21, 22}
    for key in ("latency_s", "score"):
        assert [getattr(p, key) for p in front.points] == sorted({getattr(p, key) for p in front.points})
    for point in front.points[:: max(1, len(front.points) // 5)]:
        spec = detector_of(setup, point.solution.genome)
        kernels = [k for k in lower(spec) if k.stage >= 0]
        assert point.max_layers is not None
        assert total_cost(kernels).layers <= point.max_layers
        assert predict(kernels, load_predictor("t4")).seconds == pytest.approx(point.latency_s, abs=1e-9)
        assert point.score == pytest.approx(float(mae_score(score_terms(kernels))), abs=1e-6)


def test_a_front_that_cannot_be_drawn_is_refused_in_words() -> None:
    with pytest.raises(MaenasError, match=r"--from 3\.00 ms is not below --budget 2\.00 ms"):
        pareto_front(prepare(Request(space="k1kx-tiny", latency_s=(2e-3,))), 3e-3)
    with pytest.raises(MaenasError, match="the deepmad score is not additive"):
        pareto_front(prepare(Request(space="k1kx-tiny", latency_s=(2e-3,), score="deepmad")), 0.0)


def test_a_front_without_a_bound_on_layers_shows_none() -> None:
    front = pareto_front(prepare(Request(space="k1kx", latency_s=(1.3e-3,), neck="preset")), 1.299e-3)
    assert front.points[0].max_layers is None
    assert format_front(front, 2).splitlines()[-1].split()[2] == "-"
