"""Searches of one name: the same request replaces, another one is refused, nothing stale stays."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from maenas.files import shipped_file
from maenas.locks import locked
from maenas.nas.request import Request
from maenas.nas.written import request_id, spec_files
from maenas.spec import load_spec, write_spec
from tests.conftest import Maenas

SMALL = ("search", "--space", "k1kx-tiny", "--budget", "2.2ms", "--neck", "preset", "--population", "16")
SMALL += ("--generations", "1")
FOLDER = Path("searched_models")
SPEC = FOLDER / "k1kx-tiny-t4-2.2ms.json"


def test_the_same_search_twice_gives_the_same_files(maenas: Maenas) -> None:
    assert maenas(*SMALL).code == 0
    first = SPEC.read_bytes()
    assert maenas(*SMALL).code == 0
    assert SPEC.read_bytes() == first
    assert [path.name for path in FOLDER.iterdir()] == [SPEC.name]


@pytest.mark.parametrize("other", [["--seed", "1"], ["--score", "mae"], ["--classes", "3"], ["--generations", "2"]])
def test_another_search_of_the_same_name_is_refused_before_it_begins(maenas: Maenas, other: list[str]) -> None:
    assert maenas(*SMALL).code == 0
    first = SPEC.read_bytes()
    done = maenas(*SMALL, *other)
    assert (done.code, done.out) == (2, "")
    advice = "choose another --name or --out, or add --overwrite"
    assert done.err == f"error: {SPEC} comes from another search or another source: {advice}\n"
    assert SPEC.read_bytes() == first
    assert maenas(*SMALL, *other, "--overwrite").code == 0
    assert SPEC.read_bytes() != first


def test_a_file_of_another_origin_is_refused(maenas: Maenas) -> None:
    FOLDER.mkdir()
    write_spec(SPEC, load_spec("damo-yolo-t").detector, "mine")
    assert "another source" in maenas(*SMALL).err
    SPEC.write_text("my notes")
    assert "another source" in maenas(*SMALL).err


def test_a_file_of_an_older_version_is_replaced_by_the_same_search(maenas: Maenas) -> None:
    assert maenas(*SMALL).code == 0
    document = json.loads(SPEC.read_text())
    del document["provenance"]["request"]
    SPEC.write_text(json.dumps(document))
    assert "another search" in maenas(*SMALL, "--seed", "1").err
    assert maenas(*SMALL).code == 0


def test_what_a_longer_list_left_is_removed_and_nothing_else(maenas: Maenas) -> None:
    assert maenas(*SMALL, "--top-k", "3").code == 0
    others = [SPEC.with_stem(f"{SPEC.stem}-{number}") for number in (2, 3)]
    assert all(path.exists() for path in others)
    foreign = [SPEC.with_stem(f"{SPEC.stem}-{word}") for word in ("x", "7")]
    for path in foreign:
        write_spec(path, load_spec("damo-yolo-t").detector, "mine")
    assert maenas(*SMALL, "--top-k", "2").code == 0
    assert sorted(FOLDER.iterdir()) == sorted([SPEC, others[0], *foreign])
    assert "another search" in maenas(*SMALL, "--top-k", "3", "--seed", "1").err


def test_the_checkpoint_of_another_search_is_refused(maenas: Maenas) -> None:
    long = [*SMALL[:-1], "1000000"]
    process = subprocess.Popen([sys.executable, "-m", "maenas", *long], stdout=subprocess.DEVNULL)
    checkpoint = SPEC.with_suffix(".ckpt.json")
    try:
        while not checkpoint.exists():
            assert process.poll() is None
        process.terminate()
    finally:
        process.kill()
        process.wait()
    before = checkpoint.read_bytes()
    done = maenas(*SMALL)
    assert done.code == 2
    assert "checkpoint of another search that was interrupted: repeat that command with --resume" in done.err
    assert "belongs to another search" in maenas(*SMALL, "--overwrite", "--resume").err
    with spec_files(FOLDER, SPEC.stem, Request(), 2, kind="shortlist", overwrite=True) as files:
        files.finish([])
    assert checkpoint.read_bytes() == before
    assert maenas(*SMALL, "--overwrite").code == 0
    assert not checkpoint.exists()


def test_resume_begins_where_there_is_nothing_to_go_on_from(maenas: Maenas) -> None:
    assert maenas(*SMALL, "--resume").code == 0
    before = SPEC.read_bytes()
    SPEC.unlink()
    assert maenas(*SMALL).code == 0
    assert SPEC.read_bytes() == before


def test_two_searches_of_one_name_at_once_are_refused(maenas: Maenas) -> None:
    FOLDER.mkdir()
    with locked(SPEC):
        done = maenas(*SMALL)
    assert done.code == 2
    assert "in use by process" in done.err


def test_how_many_are_written_is_no_part_of_a_request() -> None:
    assert request_id(Request(top_k=3)) == request_id(Request())
    assert request_id(Request(seed=3)) != request_id(Request())
    assert request_id(Request(), "shortlist") != request_id(Request())


def test_weights_of_a_space_are_those_of_its_score_and_mae_is_what_predict_says(maenas: Maenas) -> None:
    text = shipped_file("search_spaces", "demo.yaml").read_text(encoding="utf-8")
    Path("own.yaml").write_text(f"{text}score_weights: [0, 0, 0, 0, 2]\n", encoding="utf-8")
    words = ("search", "--space", "own.yaml", "--budget", "2ms", *SMALL[5:], "--score", "mae", "--out", "own.json")
    done = maenas(*words)
    assert "w = (0, 0, 0, 0, 2) of the space" in done.out
    found = json.loads(maenas(*words, "--json").out)["specs"][0]
    said = [re.search(r"score +mae ([\d.]+)", text) for text in (done.out, maenas("predict", "own.json").out)]
    values = [float(match[1]) for match in said if match]
    assert values == pytest.approx([found["score"]["value"], found["mae"]], rel=1e-6)
    assert found["score"]["value"] < found["mae"] / 2


def test_a_limit_on_effectiveness_that_nothing_meets_is_named(maenas: Maenas) -> None:
    done = maenas(*SMALL, "--max-effectiveness", "0.0001")
    assert done.code == 2
    assert "latency on t4 2.20 ms, layers 20, effectiveness 0.0001)" in done.err
