"""Searching for int8: on a table that was measured in int8 all the way, elsewhere only with a caution."""

from pathlib import Path

import pytest

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.latency.measured import make_table, read_measured, write_measured
from maenas.nas.provenance import provenance
from maenas.nas.request import Request, prepare
from maenas.nas.run import run
from maenas.reports.search_text import format_result, format_setup


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A small table that says that it was measured in int8."""
    rows = read_measured(data_dir("latency_tables") / "h100-torch-fp16-b1.json").rows
    path = tmp_path / "int8.json"
    small = make_table(
        device="h100", runtime="TensorRT", precision="int8", batch=1, conditions={}, method={}, rows=rows[::4]
    )
    write_measured(path, small)
    return str(path)


def test_a_search_on_an_int8_table_is_measured_from_end_to_end(table: str) -> None:
    request = Request(
        space="k1kx-tiny", devices=(table,), latency_s=(2e-3,), neck="auto", population=64, generations=10
    )
    setup = prepare(request)
    result = run(setup)
    assert result.proven
    assert setup.predictors[0].precision == "int8"
    text = format_setup(setup) + format_result(result)
    assert "int8" in text
    assert "not calibrated" not in text
    stated = provenance(result, 0)["latency"][0]
    assert (stated["kind"], stated["conditions"]["precision"]) == ("predicted from measured kernels", "int8")
    with pytest.raises(MaenasError, match="was measured at"):
        prepare(Request(space="k1kx-tiny", devices=(table,), latency_s=(2e-3,), precision="fp16"))


def test_int8_where_nothing_was_measured_says_so() -> None:
    setup = prepare(Request(space="k1kx-tiny", latency_s=(2e-3,), precision="int8"))
    assert not setup.predictors[0].calibrated
    assert "int8" in format_setup(setup)
