"""Measured tables found by name."""

import dataclasses
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.latency import find
from maenas.latency.find import find_measured, load_measured, table_files
from maenas.latency.measured import MeasuredTable, make_table, measured_to_json, read_measured, write_measured
from maenas.latency.predictor import load_predictor

CORES = os.cpu_count() or 1
ABACUS = "Abacus (family 23 model 1 avx2)"


def table(precision: str = "fp32", runtime: str = "TensorRT", **conditions: str) -> MeasuredTable:
    shipped = read_measured(data_dir("latency_tables") / "published" / "v100-tensorrt-fp16-b1.json")
    fields = {field.name: getattr(shipped, field.name) for field in dataclasses.fields(shipped)[3:]}
    own = {"precision": precision, "runtime": runtime, "conditions": conditions}
    return make_table(**{**fields, "rows": shipped.rows[::600], **own})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, on a processor that no shipped table knows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find, "cpu_name", lambda: "Abacus")
    monkeypatch.setattr(find, "_cpuinfo", lambda: {"cpu family": "23", "model": "1", "flags": "fpu avx avx2"})
    (tmp_path / "latency_tables").mkdir()
    return tmp_path / "latency_tables"


def test_a_table_is_found_by_the_name_of_its_file(here: Path) -> None:
    write_measured(here / "mine.json", table())
    assert find_measured("mine", precision=None, batch=1) == Path("latency_tables/mine.json")
    assert load_predictor("mine").precision == "fp32"
    assert find_measured("yours", precision=None, batch=1) is None
    assert load_measured("mine") == load_measured("latency_tables/mine.json")
    with pytest.raises(MaenasError, match=r"no measured table 'yours'; there are: mine, "):
        load_measured("yours")


def test_cpu_is_the_table_of_this_processor_with_the_most_threads_it_has(here: Path) -> None:
    write_measured(here / "other.json", table(hardware="Difference engine", threads=str(CORES)))
    write_measured(here / "one.json", table(hardware=ABACUS, threads="1"))
    write_measured(here / "all.json", table(hardware=ABACUS, threads=str(CORES), date="2026-01-01"))
    write_measured(here / "more.json", table(hardware=ABACUS, threads=str(CORES + 1)))
    found = find_measured("cpu", precision=None, batch=1)
    assert found is not None
    assert found.name == "all.json"


def test_a_damaged_table_stops_its_own_processor_only(here: Path) -> None:
    write_measured(here / "good.json", table(hardware=ABACUS))
    text = measured_to_json(table(hardware="Difference engine"))
    (here / "edited.json").write_text(text.replace("Difference engine", "Analytical engine"), encoding="utf-8")
    (here / "bytes.json").write_bytes(b"\xff\xfe")
    assert (find_measured("cpu", precision=None, batch=1) or here).name == "good.json"
    (here / "cut.json").write_text(measured_to_json(table(hardware=ABACUS))[:-9], encoding="utf-8")
    with pytest.raises(MaenasError, match=r"cut\.json"):
        find_measured("cpu", precision=None, batch=1)


def test_cpu_is_fp32_in_onnx_runtime_where_nothing_else_speaks_for_a_table(here: Path) -> None:
    write_measured(here / "a.json", table(precision="int8", hardware=ABACUS))
    write_measured(here / "b.json", table(runtime="openvino-cpu 1", hardware=ABACUS))
    write_measured(here / "c.json", table(runtime="onnxruntime-cpu 1", hardware=ABACUS))
    assert (find_measured("cpu", precision=None, batch=1) or here).name == "c.json"
    assert (find_measured("cpu", precision="int8", batch=1) or here).name == "a.json"
    write_measured(here / "d.json", table(runtime="openvino-cpu 1", hardware=ABACUS, date="2099-01-01"))
    assert (find_measured("cpu", precision=None, batch=1) or here).name == "d.json"


def test_without_a_table_of_this_processor_the_message_says_how_to_get_one(here: Path) -> None:
    write_measured(here / "other.json", table(hardware="Difference engine"))
    with pytest.raises(
        MaenasError, match=r"\(Abacus \(family 23 model 1 avx2\)\): run `maenas profile --device cpu` first$"
    ):
        load_predictor("cpu")


def test_a_table_of_another_or_an_unstated_model_of_the_same_name_is_not_this_processors(here: Path) -> None:
    write_measured(here / "unstated.json", table(hardware="Abacus"))
    write_measured(here / "newer.json", table(hardware="Abacus (family 25 model 1 avx2)"))
    with pytest.raises(MaenasError, match=r"run `maenas profile --device cpu` first\. .*of Abacus: newer, unstated"):
        load_predictor("cpu")


def test_a_processor_of_which_nothing_more_is_known_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "_cpuinfo", lambda: {"model name": "Abacus"})
    assert find.processor() == find.cpu_name() == "Abacus"
    monkeypatch.setattr(find, "_cpuinfo", dict)
    assert find.processor() == find.cpu_name() != ""


def test_arm_processors_are_told_apart_by_their_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A big and little one, as Linux writes of it; none of them has a name."""
    core = "processor\t: {}\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: {}\n\n"
    (tmp_path / "cpuinfo").write_text("".join(core.format(i, part) for i, part in enumerate(["0xd03"] * 4 + ["0xd09"])))
    facts = find._cpuinfo(tmp_path / "cpuinfo")
    monkeypatch.setattr(find, "_cpuinfo", lambda: facts)
    monkeypatch.setattr(find.platform, "processor", lambda: "")
    monkeypatch.setattr(find.platform, "machine", lambda: "aarch64")
    assert find.processor() == "aarch64 (implementer 0x41 part 0xd03 0xd09)"


def test_apple_processors_are_told_apart_by_what_macos_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[-1] == "machdep.cpu.brand_string"
        return subprocess.CompletedProcess(command, 0, "Apple M2 Pro\n", "")

    monkeypatch.setattr(find, "_cpuinfo", dict)
    monkeypatch.setattr(find.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(find.platform, "processor", lambda: "arm")
    with monkeypatch.context() as macos:
        macos.setattr(find.subprocess, "run", said)
        assert find.processor() == "Apple M2 Pro"
    monkeypatch.setattr(find, "BRAND", ("/no/such/command",))
    assert find.processor() == "arm"


def test_a_local_table_hides_its_shipped_namesake(here: Path) -> None:
    shipped = next(path for path in table_files() if "onnxruntime-t1" in path.name)
    write_measured(here / shipped.name, table())
    assert [path for path in table_files() if path.name == shipped.name] == [Path("latency_tables") / shipped.name]


def test_another_precision_than_the_tables_is_refused(here: Path) -> None:
    write_measured(here / "mine.json", table())
    with pytest.raises(MaenasError, match="ask for precision fp32"):
        load_predictor("mine", precision="fp16")
