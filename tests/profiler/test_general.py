"""Kernels of others: drawn evenly, within limits, and each kind can be timed."""

from collections import Counter

import numpy as np
import pytest

from maenas.cost import kernel_flops
from maenas.deploy.clock import TimingSettings
from maenas.profiler.general import KINDS, MOST_FLOPS, general_samples
from maenas.profiler.job import ProfileRequest, items_of, open_job
from maenas.profiler.probe import Sample, alone, in_graph
from maenas.profiler.profile import profile
from maenas.profiler.setup import Setup

SAMPLES = general_samples()


def test_the_same_seed_draws_the_same_and_nothing_twice() -> None:
    assert general_samples() == SAMPLES != general_samples(seed=1)
    assert 0.98 * sum(KINDS.values()) <= len({sample.key for sample in SAMPLES}) == len(SAMPLES)


def test_small_planes_are_drawn_as_often_as_large_ones() -> None:
    sides = np.array([sample.key.height for sample in SAMPLES if sample.key.op == "conv" and sample.key.groups == 1])
    counts, _ = np.histogram(np.log(sides), bins=np.log([2, 5, 12, 28, 64]))
    assert counts.min() > 50
    assert (sides == 1).sum() >= 50


def test_a_drawn_kernel_reads_what_it_is_given_and_takes_no_long_time() -> None:
    for sample in SAMPLES:
        assert sum(channels for channels, _, _ in sample.inputs) == sample.kernel.in_channels
        assert {shape[1:] for shape in sample.inputs} == {(sample.kernel.in_height, sample.kernel.in_width)}
        assert kernel_flops(sample.kernel) <= MOST_FLOPS


@pytest.mark.parametrize("op", sorted({sample.key.op for sample in SAMPLES}))
def test_torch_computes_maps_of_the_size_that_the_kernel_says(op: str) -> None:
    pytest.importorskip("torch")
    from maenas.profiler.torch_cuda import TorchProgram

    for sample in [sample for sample in SAMPLES if sample.key.op == op and kernel_flops(sample.kernel) < 1e7][:8]:
        (result,) = TorchProgram(alone(sample), dtype="float32", batch=2, device="cpu")()
        kernel = sample.kernel
        assert tuple(result.shape) == (2, kernel.out_channels, kernel.out_height, kernel.out_width)


def test_they_belong_to_the_whole_plan_and_not_to_that_of_a_space() -> None:
    def general(request: ProfileRequest) -> int:
        return len({item.key for item in items_of(request) if isinstance(item, Sample)} & {s.key for s in SAMPLES})

    assert general(ProfileRequest()) == len(SAMPLES)
    assert general(ProfileRequest(spaces=("demo",))) < len(SAMPLES) / 20


@pytest.mark.parametrize("op", sorted({sample.key.op for sample in SAMPLES}))
def test_no_two_tensors_of_a_quantised_program_share_a_name(op: str) -> None:
    pytest.importorskip("onnx")
    from maenas.deploy.onnx_writer import write_onnx
    from maenas.deploy.quantize import quantize

    for sample in [sample for sample in SAMPLES if sample.key.op == op][:8]:
        graph = quantize(write_onnx(in_graph(sample, 2)[0])).graph
        names = [*(t.name for t in graph.initializer), *(name for node in graph.node for name in node.output)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_kind_can_be_timed(runtime: str, tmp_path) -> None:
    pytest.importorskip(runtime)
    pytest.importorskip("onnx")
    from maenas.profiler.onnxruntime import OnnxRuntime
    from maenas.profiler.openvino import OpenVino

    backend = OnnxRuntime() if runtime == "onnxruntime" else OpenVino()
    first: dict[tuple, Sample] = {}
    for sample in sorted(SAMPLES, key=lambda sample: kernel_flops(sample.kernel) + sample.kernel.in_channels):
        first.setdefault((sample.key.op, sample.key.kernel, sample.key.epilogue, len(sample.inputs)), sample)
    settings = TimingSettings(warm_up_s=1e-4, max_warm_up_s=1e-3, rounds=1, attempts=1)
    table = profile(list(first.values()), Setup(backend, settings=settings), device="cpu", path=tmp_path / "t.json")
    assert (len(table.rows), table.failed) == (len(first), ())
    assert Counter(row.op for row in table.rows).keys() == {sample.key.op for sample in SAMPLES}


def test_a_table_whose_name_is_shipped_is_not_measured_into_the_shipped_one(monkeypatch, tmp_path) -> None:
    """In a clone `latency_tables` holds the shipped tables, which were measured on other machines."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    names = [open_job(ProfileRequest(specs=("damo-yolo-t",), name=name)).path.name for name in ("cpu-amd-epyc", "mine")]
    assert names == ["cpu-amd-epyc-onnxruntime-t1-fp32-b1-own.json", "mine-onnxruntime-t1-fp32-b1.json"]
