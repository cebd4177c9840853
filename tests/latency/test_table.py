"""Table files are read strictly."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.latency.predictor import load_predictor
from maenas.latency.published import Published, read_published
from maenas.latency.table import (
    SETUPS,
    calibrate_table,
    content_id,
    read_table,
    shipped_table,
    table_from_json,
    table_to_json,
    write_table,
)
from maenas.strict import dump_json, parse_json

TABLE = shipped_table("t4", "tensorrt10")
TEXT = table_to_json(TABLE)
PUBLISHED = dump_json(dataclasses.replace(read_published(), networks=read_published().networks[:5], measurements=()))
JUNK = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.just([])
    | st.just({})
)


@pytest.mark.parametrize("setup", SETUPS["t4"])
def test_shipped_files_round_trip(setup: str, tmp_path: Path):
    source = data_dir("latency_tables") / f"t4-{setup}-fp16-b1.json"
    table = read_table(source)
    write_table(tmp_path / "copy.json", table)
    assert (tmp_path / "copy.json").read_bytes() == source.read_bytes()
    assert table.id == content_id(table)


def test_an_edited_table_is_noticed():
    changed = TEXT.replace(f'"compute_efficiency": {TABLE.constants.compute_efficiency}', '"compute_efficiency": 0.9')
    assert changed != TEXT
    with pytest.raises(MaenasError, match="the file was edited"):
        table_from_json(changed)


def test_an_unknown_key_and_an_unknown_kind_are_named():
    with pytest.raises(MaenasError, match=r"mine\.json:\d+: setups: unknown key; did you mean setup"):
        table_from_json(TEXT.replace('"setup"', '"setups"'), "mine.json")
    with pytest.raises(MaenasError, match="kind"):
        table_from_json(TEXT.replace('"modelled"', '"guessed"'))


def places(value: Any, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def mutate(document: Any, place: tuple, junk: Any, action: str) -> Any:
    document = json.loads(json.dumps(document))
    if not place:
        return junk
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    if action == "delete":
        del holder[place[-1]]
    elif action == "add" and isinstance(holder, dict):
        holder["extra"] = junk
    else:
        holder[place[-1]] = junk
    return document


@settings(max_examples=300)
@given(st.data(), st.sampled_from(["table", "published"]))
def test_a_mutated_file_is_read_or_refused_but_never_crashes(data: st.DataObject, kind: str):
    document = json.loads(TEXT if kind == "table" else PUBLISHED)
    place = data.draw(st.sampled_from(places(document)))
    mutated = mutate(document, place, data.draw(JUNK), data.draw(st.sampled_from(["delete", "add", "replace"])))
    with contextlib.suppress(MaenasError):
        if kind == "table":
            table_from_json(json.dumps(mutated))
        else:
            parse_json(json.dumps(mutated), Published, where="published")


@settings(max_examples=200)
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 20), st.text(max_size=4))
def test_a_damaged_text_is_read_or_refused_but_never_crashes(start: int, length: int, junk: str):
    with contextlib.suppress(MaenasError):
        table_from_json(TEXT[:start] + junk + TEXT[start + length :])


@settings(max_examples=50)
@given(st.floats(1e-4, 1e7), st.floats(1e-4, 1e7))
def test_any_accepted_residual_gives_a_predictor(
    tmp_path_factory: pytest.TempPathFactory, measured: float, left: float
):
    rows = tuple(dataclasses.replace(r, measured_ms=measured, left_out_ms=left) for r in TABLE.calibration.residuals)
    record = dataclasses.replace(TABLE.calibration, residuals=rows)
    fields = {f.name: getattr(TABLE, f.name) for f in dataclasses.fields(TABLE)} | {"calibration": record}
    draft = object.__new__(type(TABLE))
    for name, value in fields.items():
        object.__setattr__(draft, name, value)
    path = tmp_path_factory.mktemp("tables") / "t.json"
    write_table(path, type(TABLE)(**fields | {"id": content_id(draft)}))
    low, high = load_predictor(str(path)).interval(1e-3)
    assert 0 <= low <= 1e-3 <= high


def test_unknown_setups_are_refused_with_the_known_ones():
    with pytest.raises(MaenasError, match=r"no setup 'tensorrt9'.*t4@tensorrt10.*t4@damo-yolo-report"):
        shipped_table("t4", "tensorrt9")
    with pytest.raises(MaenasError, match=r"unknown setup 'x'; the known ones are damo-yolo-report, tensorrt10"):
        calibrate_table(read_published(), "x")


def test_untied_constants_need_a_base():
    with pytest.raises(MaenasError, match="base table"):
        calibrate_table(read_published(), "tensorrt10", fitted=("launch_s",))
