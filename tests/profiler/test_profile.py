"""Measuring a tiny plan: real sessions where ONNX Runtime is there, a fake backend for the rest."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from maenas.cli.groups import grouped
from maenas.cli.profile import profile_command
from maenas.cli.tables import tables_app
from maenas.deploy.clock import Timing, TimingSettings
from maenas.deploy.program import Program, network
from maenas.errors import MaenasError
from maenas.latency.caches import Caches
from maenas.latency.device import Precision
from maenas.latency.measured import BlockKey, KernelKey, block_kernels, make_table, read_measured, write_measured
from maenas.lowering import lower
from maenas.profiler.backends import backend_of_table
from maenas.profiler.plan import spec_samples
from maenas.profiler.probe import SINKS, Sample
from maenas.profiler.profile import Progress, profile, time_networks
from maenas.profiler.setup import Setup, sink_seconds
from maenas.spec import DetectorSpec, InputSpec, published_specs

FAST = TimingSettings(warm_up_s=1e-4, max_warm_up_s=1e-3, rounds=3, attempts=1)
T = published_specs()["damo-yolo-t"]
SMALL = DetectorSpec(InputSpec(64, 64), T.backbone, T.neck, T.head)
CONV_S, OTHER_S, SINK_S = 1e-3, 2e-4, 1e-5


class FakeRunner:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def time_once(self) -> float:
        return self.seconds

    def close(self) -> None:
        self.seconds = -1.0


@dataclasses.dataclass
class FakeBackend:
    """A device on which a kernel's time depends on nothing but whether it is a convolution."""

    threads: int = 1
    built: int = 0
    fail_after: int = 10**9
    refused: str = "nothing"  # kernel size and stride that this device has no memory for

    merges = False
    runtime = "fake 1"
    device_name = "Fake"
    gpu = None

    @property
    def conditions(self) -> dict[str, str]:
        return {"threads": str(self.threads)}

    def build(self, program: Program, *, precision: Precision, batch: int) -> FakeRunner:
        self.built += 1
        if self.built > self.fail_after:
            raise KeyboardInterrupt
        if any(f"{kernel.kernel}x{kernel.kernel}/{kernel.stride}" == self.refused for kernel in program.kernels):
            raise MaenasError("out of memory\nand a long story")
        convs = sum(kernel.op == "conv" for kernel in program.kernels)
        others = len(program.kernels) - convs
        return FakeRunner(1e-5 + convs * CONV_S + others * OTHER_S + len(program.sinks) * SINK_S)


def setup(**fields) -> Setup:
    return Setup(FakeBackend(**fields), settings=FAST)


def keys(path: Path) -> list[KernelKey]:
    return [row.key for row in read_measured(path).rows]


SAMPLES = spec_samples(SMALL)


def test_the_difference_of_two_graphs_is_the_kernel(tmp_path: Path) -> None:
    table = profile(SAMPLES, setup(), device="fake", path=tmp_path / "t.json")
    assert {sample.key for sample in SAMPLES} == {row.key for row in table.rows}
    for row in table.rows:
        assert row.median_s == pytest.approx(CONV_S if row.op == "conv" else OTHER_S, rel=1e-3), row


def test_sinks_are_counted() -> None:
    assert sink_seconds(setup()) == pytest.approx(SINK_S)
    assert SINKS > 1


def test_an_interrupted_run_goes_on_to_the_rows_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    profile(SAMPLES, setup(), device="fake", path=whole)
    with pytest.raises(KeyboardInterrupt):
        profile(SAMPLES, setup(fail_after=60), device="fake", path=cut)
    assert 0 < len(keys(cut)) < len(keys(whole))
    profile(SAMPLES, setup(), device="fake", path=cut)
    assert keys(cut) == keys(whole)
    assert read_measured(cut) == read_measured(whole)


def test_caches_are_measured_when_all_kernels_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Caches(bytes=1 << 20, product_s=1e-6, other_s=1e-6, byte_s=1e-11)
    monkeypatch.setattr("maenas.profiler.profile.measure_caches", lambda *_, **__: found)
    path, asked = tmp_path / "t.json", iter([False, True])
    profile(SAMPLES, setup(), device="fake", path=path, stop=lambda: next(asked))
    assert 0 < len(keys(path)) < len(SAMPLES)
    assert read_measured(path).caches is None
    profile(SAMPLES, setup(), device="fake", path=path)
    assert len(keys(path)) == len({sample.key for sample in SAMPLES})
    assert read_measured(path).caches == found


def test_a_complete_table_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    profile(SAMPLES[:5], setup(), device="fake", path=path)
    before = path.read_bytes()
    again = setup()
    table = profile(SAMPLES[:5], again, device="fake", path=path)
    assert path.read_bytes() == before
    assert len(table.rows) == 5
    assert again.backend.built <= 3  # type: ignore[attr-defined]  # the reference and the sinks


def test_a_larger_plan_adds_to_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    profile(SAMPLES[:5], setup(), device="fake", path=path)
    profile(SAMPLES[3:9], setup(), device="fake", path=path)
    assert set(keys(path)) == {sample.key for sample in SAMPLES[:9]}


BLOCKS = (
    BlockKey("k1kx", "relu", 64, 64, 32, 16, 16, 3, 1, 2),
    BlockKey("csp", "silu", 64, 64, 32, 16, 16, 3, 2, 1),
    BlockKey("k1dwk1", "silu", 32, 32, 96, 16, 16, 5, 1, 1),
)


def test_blocks_and_networks_are_measured_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    table = profile([SAMPLES[0], *BLOCKS, SMALL], setup(), device="fake", path=path)
    assert [block.key for block in table.blocks] == list(BLOCKS)
    assert [network.detector for network in table.networks] == [SMALL]
    for block in table.blocks:
        kernels = block_kernels(block.key)
        convs = sum(kernel.op == "conv" for kernel in kernels)
        expected = convs * CONV_S + (len(kernels) - convs) * OTHER_S
        assert block.median_s == pytest.approx(expected, rel=1e-3), block
    assert table.networks[0].median_s == pytest.approx(
        1e-5 + sum(CONV_S if kernel.op == "conv" else OTHER_S for kernel in lower(SMALL)), rel=1e-3
    )
    assert read_measured(path) == table


def test_a_block_timed_whole_runs_in_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from maenas.profiler.onnxruntime import OnnxRuntime

    real = Setup(OnnxRuntime("cpu"), settings=FAST)
    table = profile([SAMPLES[0], *BLOCKS], real, device="here", path=tmp_path / "t.json")
    assert [block.key for block in table.blocks] == list(BLOCKS)


def test_what_a_device_cannot_run_is_stored_as_failed_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    table = profile(SAMPLES, setup(refused="3x3/2"), device="fake", path=path)
    lacking = {sample.key for sample in SAMPLES} - {row.key for row in table.rows}
    assert lacking == {s.key for s in SAMPLES if (s.key.op, s.key.kernel, s.key.stride) == ("conv", 3, 2)}
    assert len(table.failed) == len(lacking) > 0
    assert {failure.reason for failure in table.failed} == {"out of memory"}
    assert read_measured(path) == table
    healed = profile(SAMPLES, setup(), device="fake", path=path)
    assert healed.failed == ()
    assert {row.key for row in healed.rows} == {sample.key for sample in SAMPLES}


def test_if_everything_fails_the_reason_is_said(tmp_path: Path) -> None:
    refusing = setup(refused="3x3/2")
    samples = [s for s in SAMPLES if (s.key.op, s.key.kernel, s.key.stride) == ("conv", 3, 2)]
    with pytest.raises(MaenasError, match=f"first of {len(samples)} failures: out of memory"):
        profile(samples, refusing, device="fake", path=tmp_path / "t.json")


def test_a_table_of_another_setup_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    profile(SAMPLES[:5], setup(), device="fake", path=path)
    with pytest.raises(MaenasError, match="threads: '1' there, '2' now"):
        profile(SAMPLES, setup(threads=2), device="fake", path=path)
    with pytest.raises(MaenasError, match="choose another --out"):
        profile(SAMPLES, setup(), device="other", path=path)


def test_a_run_out_of_time_before_the_first_row_says_so(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match="nothing was measured"):
        profile(SAMPLES, setup(), device="fake", path=tmp_path / "t.json", stop=lambda: True)


def some_of_every_op() -> list[Sample]:
    first: dict[str, Sample] = {}
    for sample in SAMPLES:
        first.setdefault(sample.key.op, sample)
    return list(first.values())


@pytest.mark.parametrize("threads", [1, 2])
def test_onnx_runtime_times_every_op(tmp_path: Path, threads: int) -> None:
    pytest.importorskip("onnxruntime")
    from maenas.profiler.onnxruntime import OnnxRuntime

    real = Setup(OnnxRuntime("cpu", threads=threads), settings=FAST)
    table = profile(some_of_every_op(), real, device="here", path=tmp_path / "t.json")
    assert [row.key for row in table.rows] == [sample.key for sample in some_of_every_op()]
    assert table.runtime.startswith("onnxruntime-cpu ")
    assert table.conditions["threads"] == str(threads)
    ((name, timing),) = time_networks({"small": lower(SMALL)}, real)
    assert (name, timing.median_s > 0) == ("small", True)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_times_every_op(tmp_path: Path, precision: Precision) -> None:
    ov = pytest.importorskip("openvino")
    from maenas.deploy.openvino import has_bf16
    from maenas.profiler.openvino import OpenVino

    if precision == "bf16" and not has_bf16(ov):
        pytest.skip("this CPU has no bf16 instructions")
    real = Setup(OpenVino(), precision, settings=FAST)
    table = profile(some_of_every_op(), real, device="here", path=tmp_path / "t.json")
    assert [row.key for row in table.rows] == [sample.key for sample in some_of_every_op()]
    assert table.runtime.startswith("openvino-cpu 20")
    assert table.precision == precision
    assert table.conditions["threads"] == "1"
    ((name, timing),) = time_networks({"small": lower(SMALL)}, real)
    assert (name, timing.median_s > 0) == ("small", True)
    again = backend_of_table(table)
    assert (again.runtime, again.conditions) == (table.runtime, real.backend.conditions)


def test_openvino_computes_what_onnx_runtime_does() -> None:
    pytest.importorskip("openvino")
    from maenas.profiler.onnxruntime import OnnxRuntime
    from maenas.profiler.openvino import OpenVino

    program = network(lower(SMALL))
    found = []
    for backend in (OnnxRuntime("cpu"), OpenVino()):
        runner = backend.build(program, precision="fp32", batch=2)
        runner.run()
        found.append(runner.outputs())
        runner.close()
    assert len(found[0]) == len(found[1]) > 0
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_the_method_alone_runs_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from maenas.profiler.onnxruntime import OnnxRuntime

    real = Setup(OnnxRuntime("cpu"), settings=FAST, method="alone")
    assert len(profile(some_of_every_op(), real, device="here", path=tmp_path / "t.json").rows) == 7


def test_a_missing_provider_is_an_error_and_no_fallback() -> None:
    ort = pytest.importorskip("onnxruntime")
    from maenas.profiler.onnxruntime import OnnxRuntime

    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(MaenasError, match="onnxruntime-gpu"):
        OnnxRuntime("cuda")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    from maenas.profiler.onnxruntime import OnnxRuntime

    real = builtins.__import__

    def without(name: str, *args, **kwargs):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MaenasError, match=r"pip install onnx onnxruntime"):
        OnnxRuntime("cpu")


app = typer.Typer()
app.command("profile")(grouped(profile_command))
app.add_typer(tables_app, name="tables")


def command(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(("iqr_s", "warned"), [(0.1e-3, False), (0.27e-3, True)])
def test_a_machine_that_is_not_steady_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iqr_s: float, warned: bool
) -> None:
    pytest.importorskip("onnxruntime")
    table = profile(SAMPLES[:4], setup(), device="fake", path=tmp_path / "t.json")

    def run(*_: object, on_progress, **__: object):
        on_progress(Progress(4, 0, Timing(1e-3, iqr_s, 99)))
        return table

    monkeypatch.setattr("maenas.profiler.job.run_job", run)
    result = command("profile", "--space", "demo", "--input", "32", "--out", str(tmp_path / "t.json"))
    assert result.exit_code == 0, result.output
    assert ("not steady" in result.output) == warned
    assert ("an interquartile range of 27%" in result.output) == warned


@pytest.mark.slow
def test_a_run_that_ends_early_says_what_is_left(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "t.json"
    result = command("profile", "--space", "demo", "--input", "32", "--minutes", "0.1", "--out", str(out))
    assert result.exit_code == 0, result.output
    told = re.search(r"(\d+) of (\d+) items are left \(--minutes 0\.1\); repeat the command", result.output)
    assert told is not None
    table = read_measured(out)
    assert int(told[2]) - int(told[1]) == len(table.rows) + len(table.blocks) + len(table.networks)


def test_the_plan_is_printed_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("profile", "--space", "k1kx-tiny", "--plan")
    assert result.exit_code == 0, result.output
    assert "to measure: " in result.output
    assert " network, " in result.output
    assert "minutes" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("--device", "tpu"),
        ("--runtime", "torch"),
        ("--input", "100"),
        ("--precision", "int8"),
        ("--precision", "bf16"),
        ("--runtime", "openvino", "--precision", "fp16"),
        ("--runtime", "openvino", "--device", "cuda"),
        ("--batch", "0"),
        ("--method", "guess"),
        ("--threads", "0"),
        ("--clock", "sun"),
        ("--clock", "cpu", "--threads", "2"),
        ("--spec", "no-such.json"),
    ],
)
def test_wrong_options_are_errors_for_people(words: tuple[str, ...]) -> None:
    pytest.importorskip("onnxruntime")
    result = command("profile", *words)
    assert isinstance(result.exception, MaenasError) or result.exit_code == 2


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """Two tables of one setup with an overlap; the second one is twice as slow."""
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    table = profile(SAMPLES[:8], setup(), device="fake", path=first)
    rows = tuple(row._replace(median_s=2 * row.median_s) for row in table.rows[4:])
    extra = profile(SAMPLES[8:10], setup(), device="fake", path=tmp_path / "c.json").rows
    fields = {
        f.name: getattr(table, f.name) for f in dataclasses.fields(table) if f.name not in ("schema", "kind", "id")
    }
    write_measured(second, make_table(**{**fields, "rows": rows + extra}))
    return first, second


def test_tables_are_listed_shown_and_compared(tables: tuple[Path, Path]) -> None:
    first, second = tables
    assert command("tables", "list", str(first.parent)).output.count("fake 1") == 3
    shown = json.loads(command("tables", "show", str(first), "--json").output)
    assert (shown["kernels"], shown["conditions"]["hardware"]) == (8, "Fake")
    assert "threads: 1" in command("tables", "show", str(first)).output
    ratios = json.loads(command("tables", "diff", str(first), str(second), "--json").output)
    assert (ratios["common"], ratios["only_first"], ratios["only_second"]) == (4, 4, 2)
    assert ratios["geometric_mean"] == pytest.approx(2)
    assert "geometric mean 2.000" in command("tables", "diff", str(first), str(second)).output


def test_tables_of_one_setup_are_joined(tables: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = tables
    out = tmp_path / "joined.json"
    assert command("tables", "merge", str(first), str(second), "--out", str(out)).exit_code == 0
    assert len(keys(out)) == 10
    times = {row.key: row.median_s for row in read_measured(out).rows}
    assert all(times[row.key] == row.median_s for row in read_measured(second).rows)


def test_a_joined_table_is_joined_and_continued_like_any_other(tables: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = tables
    once, twice = tmp_path / "once.json", tmp_path / "twice.json"
    assert command("tables", "merge", str(first), str(second), "--out", str(once)).exit_code == 0
    assert command("tables", "merge", str(once), str(first), "--out", str(twice)).exit_code == 0
    profile(SAMPLES, setup(), device="fake", path=twice)
    assert set(keys(twice)) == {*keys(once), *(sample.key for sample in SAMPLES)}


def test_tables_of_different_conditions_are_joined_by_force_only(tables: tuple[Path, Path], tmp_path: Path) -> None:
    other, out = tmp_path / "other.json", tmp_path / "joined.json"
    profile(SAMPLES[10:12], setup(threads=2), device="fake", path=other)
    words = ("tables", "merge", str(tables[0]), str(other), "--out", str(out))
    assert "threads" in str(command(*words).exception)
    assert not out.exists()
    assert command(*words, "--force").exit_code == 0
    profile(SAMPLES[10:12], setup(), device="another", path=tmp_path / "device.json")
    words = ("tables", "merge", str(tables[0]), str(tmp_path / "device.json"), "--out", str(out), "--force")
    assert "device" in str(command(*words).exception)
