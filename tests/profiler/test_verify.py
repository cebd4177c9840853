"""Searching from a measured table, and measuring what it found."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from maenas.deploy.clock import TimingSettings
from maenas.errors import MaenasError
from maenas.latency.measured import make_table, read_measured, write_measured
from maenas.nas.provenance import provenance
from maenas.nas.request import Request, prepare
from maenas.nas.run import SearchResult, run
from maenas.profiler.plan import spec_samples
from maenas.profiler.profile import CPU_PASSES, profile
from maenas.profiler.setup import Setup as Clock
from maenas.profiler.verify import clock_of, verify
from maenas.spec import DetectorSpec, InputSpec, published_specs

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

FAST = TimingSettings(warm_up_s=1e-4, max_warm_up_s=1e-3, rounds=3, attempts=1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels of T at 64 x 64, measured on this machine."""
    from maenas.profiler.onnxruntime import OnnxRuntime

    spec = published_specs()["damo-yolo-t"]
    small = DetectorSpec(InputSpec(64, 64), spec.backbone, spec.neck, spec.head)
    path = tmp_path_factory.mktemp("tables") / "here.json"
    clock = Clock(OnnxRuntime("cpu", threads=1), "fp32", 1, FAST)
    profile(spec_samples(small), clock, device="here", path=path)
    return path


def request(table: Path, **fields) -> Request:
    base = {"space": "k1kx-tiny", "devices": (str(table),), "latency_s": (10.0,), "precision": "fp32"}
    return Request(**base, input_size=64, generations=3, population=32, **fields)


def with_budget(result: SearchResult, seconds: float) -> SearchResult:
    """The result as if it had been searched with another latency budget."""
    request = dataclasses.replace(result.setup.request, latency_s=(seconds,))
    return dataclasses.replace(result, setup=dataclasses.replace(result.setup, request=request))


class Given:
    """A backend whose networks take these seconds, in the order in which they are built; the reference takes 1."""

    merges, runtime, device_name, gpu, conditions = False, "fake", "Fake", None, {"threads": "1"}

    def __init__(self, *seconds: float) -> None:
        self.built = itertools.chain([1], seconds)

    def build(self, program, *, precision, batch):
        seconds = float(next(self.built))

        class Runner:
            def time_once(self) -> float:
                return seconds

            def close(self) -> None: ...

        return Runner()


def test_a_search_takes_a_table_measured_here_and_measures_what_it_found(table: Path) -> None:
    setup = prepare(request(table, top_k=2))
    clock = clock_of(setup)
    seen = []
    result, rows = verify(run(setup), Clock(clock.backend, clock.precision, clock.batch, FAST), seen.append)
    assert len(seen) == len(rows) == len(result.candidates) == 2
    assert all(row.timing.median_s > 0 for row in rows)
    assert [row.timing.median_s for row in rows] == sorted(row.timing.median_s for row in rows)
    origin = provenance(result, 0, rows[0].document(clock))
    assert origin["latency"][0]["kind"] == "predicted from measured kernels"
    assert json.loads(json.dumps(origin))["measured"]["ms"] > 0


def test_candidates_over_the_budget_are_dropped_and_the_fastest_comes_first(table: Path) -> None:
    setup = prepare(request(table, top_k=3))
    found = run(setup)
    seen = []
    kept, rows = verify(with_budget(found, 2.5), Clock(Given(*[1, 2, 3] * CPU_PASSES), "fp32", 1, FAST), seen.append)
    assert [row.within for row in seen] == [True, True, False]
    assert [row.timing.median_s for row in rows] == [1.0, 2.0]
    assert kept.candidates == found.candidates[:2]
    assert kept.gap == pytest.approx(max(0.0, 1 - kept.candidates[0].score / kept.optimum))


def test_a_slow_spell_of_the_machine_does_not_count(table: Path) -> None:
    found = run(prepare(request(table, top_k=2)))
    spells = Given(1, 2, *(1.3, 2.6), 1, 2)  # while the second pass was made
    _, rows = verify(with_budget(found, 2.5), Clock(spells, "fp32", 1, FAST), lambda row: None)
    assert [row.timing.median_s for row in rows] == [1.0, 2.0]
    assert CPU_PASSES == 3


def test_if_none_fits_the_message_says_what_the_fastest_takes(table: Path) -> None:
    setup = prepare(request(table))
    found = run(setup)
    with pytest.raises(MaenasError, match=r"the fastest takes 1000\.000 ms"):
        verify(with_budget(found, 0.5), Clock(Given(*[1] * CPU_PASSES), "fp32", 1, FAST), lambda row: None)


def test_a_modelled_device_cannot_be_verified() -> None:
    with pytest.raises(MaenasError, match="give a table measured here"):
        clock_of(prepare(Request(latency_s=(3e-3,))))


def test_without_a_latency_budget_there_is_nothing_to_verify(table: Path) -> None:
    fields = {"space": "k1kx-tiny", "devices": (str(table),), "precision": "fp32", "max_params": 10**8}
    with pytest.raises(MaenasError, match="give --budget"):
        clock_of(prepare(Request(**fields, input_size=64)))


def test_a_table_of_another_machine_is_refused(table: Path, tmp_path: Path) -> None:
    from maenas.latency.measured import read_measured

    here = read_measured(table)
    conditions = {**here.conditions, "hardware": "Another CPU"}
    rest = {name: getattr(here, name) for name in ("device", "runtime", "precision", "batch", "method", "rows")}
    write_measured(tmp_path / "there.json", make_table(conditions=conditions, **rest))
    with pytest.raises(MaenasError, match="measured on Another CPU, this machine is"):
        clock_of(prepare(request(tmp_path / "there.json")))


def test_another_version_of_the_runtime_is_refused(table: Path, tmp_path: Path) -> None:
    other, measured = tmp_path / "other.json", read_measured(table)
    version = measured.runtime.partition(" ")[2]
    kept = {f.name: getattr(measured, f.name) for f in dataclasses.fields(measured)}
    kept = {name: value for name, value in kept.items() if name not in ("schema", "kind", "id")}
    write_measured(other, make_table(**{**kept, "runtime": "onnxruntime-cpu 0.1"}))
    with pytest.raises(MaenasError, match=rf"measured with onnxruntime-cpu 0\.1, here is onnxruntime-cpu {version}"):
        clock_of(prepare(request(other)))
