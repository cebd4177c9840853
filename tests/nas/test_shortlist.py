"""Shortlists: detectors of one latency that differ, each with its reason."""

import dataclasses

import pytest

from maenas.errors import MaenasError
from maenas.latency.predictor import load_predictor, predict
from maenas.lowering import lower
from maenas.nas.request import Request
from maenas.nas.shortlist import ShortlistEntry, shortlist, shortlist_provenance
from maenas.reports.origin import read_origin
from maenas.reports.shortlist import format_shortlist
from maenas.spec import published_specs, spec_from_json, spec_to_json

REQUEST = Request(space="k1kx-tiny", latency_s=(2.2e-3,), score="mae")
COUNT = 15


@pytest.fixture(scope="module")
def entries() -> tuple[ShortlistEntry, ...]:
    return shortlist(REQUEST, COUNT)


def test_its_detectors_differ_and_have_one_latency(entries: tuple[ShortlistEntry, ...]) -> None:
    assert len(entries) == len({entry.spec.id for entry in entries}) == COUNT
    for entry in entries[:-1]:
        seconds = predict(lower(entry.spec), load_predictor("t4")).seconds
        assert seconds == pytest.approx(entry.seconds)
        assert 0.98 * 2.2e-3 <= seconds <= 2.2e-3 + 1e-9


def test_it_holds_optima_what_is_unlike_them_and_a_published_control(entries: tuple[ShortlistEntry, ...]) -> None:
    kinds = [entry.kind for entry in entries]
    assert kinds == sorted(kinds, key=["optimum", "unlike", "control"].index)
    assert kinds.count("unlike") >= 2
    assert entries[-1].spec == published_specs()["damo-yolo-t"]
    reasons = " ".join(entry.reason for entry in entries)
    for word in (
        "optimum: mae score",
        "flops score",
        "at most 15 layers",
        "inside the prior too",
        "published damo-yolo-t",
    ):
        assert word in reasons
    assert max(e.layers for e in entries) >= min(e.layers for e in entries) + 6
    assert len({entry.spec.neck.depth for entry in entries}) > 1


@pytest.mark.slow
def test_a_control_of_the_spaces_blocks_is_near_or_another_is_taken() -> None:
    def block_of(request: Request) -> str:
        return shortlist(request, 2)[-1].spec.backbone.stages[0].block

    table = "cpu-amd-epyc-onnxruntime-t1-fp32-b1"
    fast = Request(space="k1kx", devices=(table,), latency_s=(20e-3,), input_size=320, neck="s")
    slow = dataclasses.replace(fast, latency_s=(45e-3,))
    assert (block_of(fast), block_of(slow)) == ("k1dwk1", "k1kx")


def test_the_files_and_the_table_say_why(entries: tuple[ShortlistEntry, ...]) -> None:
    text = format_shortlist(entries)
    for entry in entries:
        stored = spec_from_json(spec_to_json(entry.spec, "x", shortlist_provenance(entry, REQUEST)))
        assert stored.provenance is not None
        assert stored.provenance["shortlist"]["reason"] == entry.reason
        assert read_origin(stored, "x") is None
        assert entry.reason in text


def test_the_same_request_gives_the_same_list(entries: tuple[ShortlistEntry, ...]) -> None:
    assert [entry.spec.id for entry in shortlist(REQUEST, COUNT)] == [entry.spec.id for entry in entries]


@pytest.mark.parametrize(
    ("fields", "count", "message"),
    [
        ({}, 1, "it has at least 2"),
        ({}, 64, r"only \d+ different detectors within 2% of 2.20 ms were found; ask for fewer"),
        ({"latency_s": (), "max_params": 10**7}, 4, "give --budget 3ms"),
        ({"scope": "backbone"}, 4, "no other --scope"),
    ],
)
def test_a_list_that_cannot_be_made_is_refused_in_words(fields: dict, count: int, message: str) -> None:
    with pytest.raises(MaenasError, match=message):
        shortlist(dataclasses.replace(REQUEST, **fields), count)


def test_a_limit_on_layers_holds_for_every_optimum() -> None:
    listed = shortlist(dataclasses.replace(REQUEST, max_layers=15), 6)
    assert all(entry.layers <= 15 for entry in listed if entry.kind == "optimum")
