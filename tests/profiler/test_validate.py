"""Predicted against measured networks."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import maenas.profiler.validate
from maenas.cli.main import app
from maenas.cost import kernel_activations, kernel_params, least_memory
from maenas.deploy.clock import TimingSettings
from maenas.errors import MaenasError
from maenas.files import shipped_file
from maenas.latency.measured import make_table, read_measured, write_measured
from maenas.latency.measured_predictor import MIN_NETWORKS, measured_predictor
from maenas.latency.predictor import predict
from maenas.lowering import lower
from maenas.nas.sampling import random_detectors
from maenas.nas.space import load_space
from maenas.profiler.plan import spec_samples
from maenas.profiler.profile import profile, time_networks
from maenas.profiler.setup import Setup
from maenas.profiler.validate import agreement, kendall_tau, networks_to_validate, validate
from maenas.spec import DetectorSpec
from tests.conftest import Maenas

FAST = TimingSettings(warm_up_s=1e-8, max_warm_up_s=1e-3, rounds=3, attempts=1)
PER_FLOP, PER_NETWORK, CONVERSIONS = 1e-10, 1.25, 3e-4


class Exact:
    """A device whose kernels cost their operations, and whose networks cost a quarter more than their kernels.

    In int8 they also take a time of their own.
    """

    merges, runtime, device_name, gpu, conditions = False, "fake 1", "Fake", None, {"threads": "1"}

    def build(self, program, *, precision, batch):
        from maenas.cost import kernel_flops

        seconds = 1e-9 + math.fsum(1e-6 + PER_FLOP * float(kernel_flops(kernel)) for kernel in program.kernels)
        if program.outputs and len(program.kernels) > 20:
            seconds = PER_NETWORK * seconds + (CONVERSIONS if precision == "int8" else 0)

        class Runner:
            def time_once(self) -> float:
                return seconds

            def close(self) -> None: ...

        return Runner()


def detectors(count: int) -> dict[str, DetectorSpec]:
    return dict(random_detectors([load_space("k1kx-tiny")], count, seed=5, input_size=64))


def test_networks_measured_whole_correct_the_sums_of_kernels(tmp_path: Path) -> None:
    setup, specs = Setup(Exact(), settings=FAST), detectors(MIN_NETWORKS + 4)
    known = list(specs.values())[:MIN_NETWORKS]
    samples = {sample.key: sample for spec in specs.values() for sample in spec_samples(spec)}
    plain = profile(list(samples.values()), setup, device="fake", path=tmp_path / "t.json")
    assert measured_predictor(plain).factor == 1.0
    predictor = measured_predictor(profile([*samples.values(), *known], setup, device="fake", path=tmp_path / "t.json"))
    assert predictor.factor == pytest.approx(PER_NETWORK, rel=1e-3)
    rows = validate(dict(itertools.islice(specs.items(), MIN_NETWORKS, None)), predictor, setup)
    assert agreement(rows).mean_error < 1e-3
    spec = rows[0].spec
    assert predict(lower(spec), predictor).seconds == pytest.approx(rows[0].timing.median_s, rel=1e-3)
    alone = maenas.profiler.validate.document(rows[:1], "detector", {})
    assert json.dumps(alone, allow_nan=False)  # one network has no order
    assert alone["summary"]["kendall_tau"] is None


def test_int8_networks_have_a_time_of_their_own(tmp_path: Path) -> None:
    setup, specs = Setup(Exact(), precision="int8", settings=FAST), detectors(MIN_NETWORKS + 4)
    known = list(specs.values())[:MIN_NETWORKS]
    samples = {sample.key: sample for spec in specs.values() for sample in spec_samples(spec)}
    predictor = measured_predictor(profile([*samples.values(), *known], setup, device="fake", path=tmp_path / "t.json"))
    assert predictor.factor == pytest.approx(PER_NETWORK, rel=1e-2)
    assert predictor.network_seconds == pytest.approx(CONVERSIONS, rel=1e-2)
    rows = validate(dict(itertools.islice(specs.items(), MIN_NETWORKS, None)), predictor, setup)
    assert agreement(rows).worst_error < 1e-3


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12, unique=True), st.randoms())
def test_kendall_tau_counts_pairs_in_the_same_order(left: list[float], random) -> None:
    right = list(left)
    random.shuffle(right)
    pairs = list(itertools.combinations(range(len(left)), 2))
    same = sum((left[i] < left[j]) == (right[i] < right[j]) for i, j in pairs)
    assert kendall_tau(left, right) == pytest.approx((2 * same - len(pairs)) / len(pairs))
    assert kendall_tau(left, left) == 1.0


def test_nothing_to_compare_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        agreement(())


def test_the_command_measures_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from maenas.profiler.onnxruntime import OnnxRuntime

    specs = detectors(2)
    samples = {sample.key: sample for spec in specs.values() for sample in spec_samples(spec)}
    table = tmp_path / "here.json"
    profile(list(samples.values()), Setup(OnnxRuntime("cpu"), settings=FAST), device="here", path=table)
    words = ["validate", "--device", str(table), "--spec", "damo-yolo-t", "--space", "k1kx-tiny", "--random", "1"]
    words += ["--input", "64", "--seed", "5", "--out", str(tmp_path / "v.json")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "2 networks: mean error" in result.output
    document = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in document["networks"]] == ["damo-yolo-t", "k1kx-tiny #0"]
    assert all(row["measured_ms"] > 0 for row in document["networks"])

    original = maenas.profiler.validate.time_networks

    def interrupted(kernels: Any, setup: Any) -> Iterator[Any]:
        yield next(original(kernels, setup))
        raise KeyboardInterrupt

    monkeypatch.setattr(maenas.profiler.validate, "time_networks", interrupted)
    result = CliRunner().invoke(app, words)
    assert str(result.exception) == f"interrupted after 1 of 2 networks; {tmp_path / 'v.json'} holds them"
    document = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in document["networks"]] == ["damo-yolo-t"]


def test_the_scatter_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from maenas.reports.scatter import scatter

    setup, specs = Setup(Exact(), settings=FAST), detectors(3)
    samples = {sample.key: sample for spec in specs.values() for sample in spec_samples(spec)}
    predictor = measured_predictor(profile(list(samples.values()), setup, device="fake", path=tmp_path / "t.json"))
    rows = validate(specs, predictor, setup)
    scatter(tmp_path / "v.png", rows, "fake")
    assert (tmp_path / "v.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MaenasError, match=r"must end in \.png, \.svg, \.pdf"):
        scatter(tmp_path / "v.abc", rows, "fake")


def test_a_modelled_device_is_refused_before_anything_is_printed(maenas: Maenas) -> None:
    outcome = maenas("validate", "--device", "t4")
    assert (outcome.code, outcome.out) == (2, "")
    assert "give a table measured here" in outcome.err


def test_a_table_of_another_machine_is_refused_before_anything_is_printed(maenas: Maenas, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    table = read_measured(shipped_file("latency_tables", "cpu-epyc-zen3-onnxruntime-t1-fp32-b1.json"))
    names = ("device", "runtime", "precision", "batch", "method", "rows", "blocks", "networks")
    fields = {name: getattr(table, name) for name in names}
    write_measured(tmp_path / "other.json", make_table(**fields, conditions={"hardware": "Difference engine"}))
    outcome = maenas("validate", "--device", "other.json", "--spec", "damo-yolo-t", "--random", "0")
    assert (outcome.code, outcome.out) == (2, "")
    assert "was measured on Difference engine, this machine is " in outcome.err


def test_the_networks_of_the_table_cannot_validate_it(tmp_path: Path) -> None:
    from maenas.profiler.plan import DRAW_SEED

    result = CliRunner().invoke(app, ["validate", "--seed", str(DRAW_SEED)])
    assert isinstance(result.exception, MaenasError)


def test_networks_that_memory_cannot_hold_are_refused_before_anything_is_measured() -> None:
    specs = networks_to_validate(["damo-yolo-l"], random=0, input_size=8192, seed=1)
    kernels = {name: lower(spec) for name, spec in specs.items()}
    first = 8192 * 8192 * 3 * 4  # the image alone, which its first kernel reads
    measured = time_networks(kernels, Setup(Exact(), settings=FAST))
    with (
        mock.patch("maenas.profiler.cpu.free_memory", return_value=first),
        pytest.raises(MaenasError, match=r"damo-yolo-l: .* need at least \d+\.\d GB of memory, and 0\.8 GB are free"),
    ):
        next(measured)
    small = {name: lower(spec) for name, spec in detectors(6).items()}
    least = max(least_memory(network, precision="fp32", batch=1) for network in small.values())
    with mock.patch("maenas.profiler.cpu.free_memory", return_value=4 * least):
        assert len(dict(time_networks(small, Setup(Exact(), settings=FAST)))) == 6


def test_the_least_memory_is_that_of_asking_at_every_kernel_which_maps_are_needed() -> None:
    for spec in detectors(3).values():
        kernels = lower(spec)
        readers = {
            n: [m for m, k in enumerate(kernels) if n in (*k.inputs, k.residual)] for n in range(-1, len(kernels))
        }
        sizes = [kernel_activations(kernel) for kernel in kernels] + [3 * 64 * 64]  # the image is number -1
        needed = [
            sum(sizes[n] for n, read in readers.items() if n <= now and (not read or max(read) >= now))
            for now in range(len(kernels))
        ]
        weights = sum(kernel_params(kernel) for kernel in kernels)
        assert least_memory(kernels, precision="fp16", batch=3) == 2 * (3 * max(needed) + weights)
