"""Several spaces under one request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maenas.api.search import make_request, search
from maenas.errors import MaenasError
from maenas.nas.space import space_names
from maenas.nas.spaces import compare_spaces, in_best_space, named_spaces
from tests.conftest import Maenas

FIXED = {"solver": "exact", "neck": "s"}


def test_all_names_every_shipped_space_and_commas_separate_several() -> None:
    assert named_spaces("all") == tuple(space_names())
    assert named_spaces("k1kx, csp") == ("k1kx", "csp")
    assert named_spaces("k1kx") == ("k1kx",)


@pytest.mark.parametrize("text", ["", "k1kx,", "k1kx,k1kx"])
def test_a_list_with_a_gap_or_a_repetition_is_refused(text: str) -> None:
    with pytest.raises(MaenasError, match="--space is"):
        named_spaces(text)


def test_each_row_is_the_optimum_of_its_space_and_the_best_comes_first() -> None:
    names = ("k1kx-tiny", "k1kx-small")
    request = make_request("2.4ms", "t4", neck="s")
    rows = compare_spaces(request, names)
    alone = {name: search("2.4ms", space=name, **FIXED).best.score for name in names}
    assert {row.space: row.best and row.best.score for row in rows} == alone
    assert in_best_space(rows).space.name == max(alone, key=lambda name: alone[name])


def test_a_space_in_which_nothing_fits_is_named_last_with_the_reason() -> None:
    rows = compare_spaces(make_request("1.5ms", "t4", neck="s"), ("kxkx-large", "k1kx-tiny"))
    assert [row.space for row in rows] == ["k1kx-tiny", "kxkx-large"]
    assert "impossible budget" in rows[1].why_not
    hopeless = make_request("0.1ms", "t4", neck="s")
    rows = compare_spaces(hopeless, ("kxkx-large", "k1kx-tiny"))
    with pytest.raises(MaenasError, match="no space has an architecture"):
        in_best_space(rows)


def test_spaces_of_two_input_sizes_are_compared_at_one() -> None:
    rows = compare_spaces(make_request("2.6ms", "t4"), ("k1kx-tiny", "k1kx-small", "mob"))
    assert {row.best.spec.input.height for row in rows if row.best is not None} == {640}


def test_the_command_shows_the_best_of_each_and_writes_that_of_the_chosen(maenas: Maenas, tmp_path: Path) -> None:
    command = ["search", "--space", "k1kx-tiny,k1kx-small", "--budget", "2.4ms", "--neck", "s", "--solver", "exact"]
    result = maenas(*command, "--out", str(tmp_path), "--name", "both")
    assert result.code == 0
    chosen = result.out.split("chosen     ")[1].split(":")[0]
    written = json.loads((tmp_path / "both.json").read_text())
    assert written["provenance"]["space"] == chosen
    assert written["detector"] == json.loads(_alone(maenas, tmp_path, chosen).read_text())["detector"]


def _alone(maenas: Maenas, folder: Path, space: str) -> Path:
    command = ["search", "--space", space, "--budget", "2.4ms", "--neck", "s", "--solver", "exact"]
    assert maenas(*command, "--out", str(folder), "--name", "one").code == 0
    return folder / "one.json"


def test_a_front_is_of_one_space(maenas: Maenas) -> None:
    result = maenas("pareto", "--space", "all", "--budget", "2ms")
    assert result.code == 2
    assert "unknown space 'all'" in result.err
