import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maenas.cost import total_cost
from maenas.errors import MaenasError
from maenas.kernels import Kernel, is_depthwise
from maenas.latency.predictor import load_predictor, predict
from maenas.lowering import lower
from maenas.nas.exact import solve
from maenas.nas.provenance import Provenance, provenance
from maenas.nas.request import Request, prepare
from maenas.nas.run import run
from maenas.reports.blocks import Plot, Section, Table
from maenas.reports.landscape import excess_over_front, progress_of, survey
from maenas.reports.networks import Devices, Network, distinct_names, from_spec
from maenas.reports.origin import read_origin, setup_of
from maenas.reports.report import report_sections
from maenas.score import balanced_score, mae_score, score_terms
from maenas.spec import SpecFile, load_spec, read_spec, write_spec


def plots_of(sections: Sequence[Section]) -> Iterator[Plot]:
    for section in sections:
        yield from (block for block in section.blocks if isinstance(block, Plot))
        yield from plots_of(section.inner)


def plot_titled(sections: Sequence[Section], title: str) -> Plot:
    return next(plot for plot in plots_of(sections) if plot.title.startswith(title))


def table_of(section: Section, caption: str) -> Table:
    return next(b for b in section.blocks if isinstance(b, Table) and b.caption.startswith(caption))


def with_provenance(searched: Path, **changes: Any) -> SpecFile:
    stored = read_spec(searched)
    return dataclasses.replace(stored, provenance={**(stored.provenance or {}), **changes})


def test_the_overview_states_what_predictor_cost_and_score_give(
    sections: list[Section], networks: tuple[Network, ...], devices: Devices
) -> None:
    rows = table_of(sections[0], "Whole detectors").rows
    for row, network in zip(rows, networks, strict=True):
        kernels = lower(network.spec)
        assert row[0] == network.name
        assert row[6] == str(total_cost(kernels).layers)
        assert row[7] == f"{mae_score(score_terms(kernels)):.4f}"
        for cell, predictor in zip(row[8:], devices.predictors, strict=True):
            p = predict(kernels, predictor)
            assert cell == f"{p.seconds * 1e3:.4f} ({p.low * 1e3:.3f} to {p.high * 1e3:.3f})"


def test_parts_and_kernels_add_up_to_the_latency(
    sections: list[Section], networks: tuple[Network, ...], devices: Devices
) -> None:
    seconds = predict(lower(networks[0].spec), devices.predictors[0]).seconds
    kernels = plot_titled(sections, "Where the time goes, by kernel")
    drawn = [value for trace in kernels.figure["data"] for value in trace["y"]]
    assert len(drawn) == len(lower(networks[0].spec))
    assert math.fsum(drawn) == pytest.approx(seconds * 1e6)
    parts = plot_titled(sections, "Where the time goes, by part")
    for trace in parts.figure["data"]:
        assert sum(trace["y"]) == pytest.approx(100)
    assert parts.table is not None
    assert sum(float(row[4]) for row in parts.table.rows) == pytest.approx(seconds * 1e3, abs=1e-3)


def test_the_front_is_what_the_exact_solver_finds_at_a_budget(networks: tuple[Network, ...], devices: Devices) -> None:
    landscape = survey(networks, devices.predictors[0], "t4", low_s=1.7e-3, high_s=1.9e-3)
    front = landscape.front
    for budget in (1.72e-3, 1.8e-3, 1.9e-3):
        setup = prepare(dataclasses.replace(front.setup.request, latency_s=(budget,)))
        best = max(point.score for point in front.points if point.latency_s <= budget)
        assert best == pytest.approx(solve(setup.problem).upper_bound * 1e-9, rel=1e-12)


def test_a_proven_optimum_lies_on_the_front_and_published_t_below(
    sections: list[Section], networks: tuple[Network, ...]
) -> None:
    rows = {row[0]: row for row in table_of(sections[1], "Networks beside").rows}
    assert networks[0].origin is not None
    assert networks[0].origin.optimality.gap == 0
    assert rows[networks[0].name][-1] == "on it"
    assert rows["damo-yolo-t"][1] == "this report"
    assert len(rows) == 8  # each of the seven published ones once


def test_a_published_detector_below_the_front_is_said_to_be(networks: tuple[Network, ...], devices: Devices) -> None:
    landscape = survey(networks, devices.predictors[0], "t4", low_s=2.2e-3, high_s=2.3e-3)
    t = landscape.networks[1]
    request = dataclasses.replace(landscape.front.setup.request, latency_s=(t.seconds,), solver="exact")
    best = run(prepare(request)).candidates[0].score
    assert t.score == pytest.approx(balanced_score(lower(networks[1].spec)))
    assert excess_over_front(landscape, t) == pytest.approx(t.score / best - 1, abs=1e-6)
    assert excess_over_front(landscape, t) < -0.01


def test_a_search_run_again_ends_with_the_stated_score(networks: tuple[Network, ...]) -> None:
    origin = networks[0].origin
    progress = progress_of(networks[0])
    assert origin is not None
    assert progress is not None
    assert len(progress.scores) == origin.generations
    assert progress.scores[-1] == pytest.approx(origin.score.value, rel=1e-7)
    scores = [score for score in progress.scores if score is not None]
    assert scores == sorted(scores)


def test_another_seed_does_not_pass_for_the_search(searched: Path) -> None:
    network = from_spec(with_provenance(searched, seed=4, generations=1), "small.json")
    with pytest.raises(MaenasError, match="ends with another network"):
        progress_of(network)


def test_the_search_is_set_up_as_it_was(networks: tuple[Network, ...]) -> None:
    origin = networks[0].origin
    assert origin is not None
    setup = setup_of(origin, networks[0].spec, None)
    assert setup.request == dataclasses.replace(
        setup.request, space="k1kx-tiny", devices=("t4",), latency_s=(1.8e-3,), population=256, generations=40, seed=3
    )
    assert setup.depths.max_layers == origin.depth_bound.max_layers


def test_a_published_spec_has_no_origin() -> None:
    assert from_spec(load_spec("damo-yolo-t"), "t").origin is None


def test_a_space_that_is_not_shipped_is_asked_for(searched: Path, devices: Devices) -> None:
    network = from_spec(with_provenance(searched, space="mine"), "small.json")
    page = report_sections([network], devices)
    assert "--space" in str(page[1].blocks[0])
    with pytest.raises(MaenasError, match="is not the one that was searched"):
        report_sections([network], devices, space="k1kx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": "first"}, "rank"),
        ({"latency": []}, "latency is empty"),
        ({"optimality": None}, "optimality"),
        ({"score": {"name": "magic", "value": 1.0}}, "score.name"),
    ],
)
def test_an_edited_provenance_is_refused_by_its_key(searched: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(MaenasError, match=message):
        from_spec(with_provenance(searched, **change), "small.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_any_provenance_is_read_or_refused(searched: Path, data: st.DataObject) -> None:
    stated = dict(read_spec(searched).provenance or {})
    key = data.draw(st.sampled_from(sorted(stated)))
    stored = with_provenance(searched, **{key: data.draw(JSON)})
    try:
        origin = read_origin(stored, "small.json")
    except MaenasError:
        return
    assert isinstance(origin, Provenance)


def test_networks_of_one_name_are_told_apart() -> None:
    network = from_spec(load_spec("damo-yolo-t"), "t")
    assert [row.name for row in distinct_names([network] * 3)] == ["damo-yolo-t", "damo-yolo-t (2)", "damo-yolo-t (3)"]


def test_a_changed_latency_table_is_told(searched: Path, devices: Devices) -> None:
    stated = json.loads(searched.read_text(encoding="utf-8"))["provenance"]["latency"]
    stated[0]["ms"] *= 1.01
    network = from_spec(with_provenance(searched, latency=stated), "small.json")
    text = str(report_sections([network], devices, low_s=1.79e-3, high_s=1.8e-3)[2])
    assert "the latency table changed since" in text


def test_a_range_that_is_none_is_refused(networks: tuple[Network, ...], devices: Devices) -> None:
    with pytest.raises(MaenasError, match="not below --to"):
        report_sections(networks, devices, low_s=2e-3, high_s=1e-3)


def test_a_searched_spec_on_another_device_gets_a_front_there(networks: tuple[Network, ...]) -> None:
    devices = Devices(("h100",), (load_predictor("h100"),))
    front = report_sections(networks[:1], devices, low_s=1.1e-3, high_s=1.13e-3)[1]
    assert "NVIDIA H100" in str(front.blocks[1])


def test_a_table_of_one_space_leaves_out_published_detectors_of_others(
    networks: tuple[Network, ...], devices: Devices
) -> None:
    """A predictor that refuses depthwise kernels stands for a table measured without any."""
    whole = devices.predictors[0]

    class Dense:
        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def kernel_seconds(self, kernel: Kernel) -> Any:
            if is_depthwise(kernel):
                raise MaenasError("no depthwise kernels")
            return whole.kernel_seconds(kernel)

    landscape = survey(networks[:1], Dense(), "t4", low_s=1.7e-3, high_s=1.9e-3)  # type: ignore[arg-type]
    assert {place.name for place in landscape.published} == {f"damo-yolo-{size}" for size in "tsml"}


def test_a_search_without_a_latency_budget_has_its_network_on_the_front(tmp_path: Path, devices: Devices) -> None:
    result = run(prepare(Request(space="k1kx-tiny", max_flops=11_000_000_000, population=256, generations=40)))
    write_spec(tmp_path / "a.json", result.candidates[0].spec, "a", provenance(result, 0))
    network = from_spec(read_spec(tmp_path / "a.json"), "a.json")
    landscape = survey([network], devices.predictors[0], "t4")
    assert excess_over_front(landscape, landscape.networks[0]) <= 1e-9
    assert landscape.front.setup.request.max_flops == 11_000_000_000
    assert progress_of(network) is not None
