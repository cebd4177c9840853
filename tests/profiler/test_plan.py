"""A plan covers what can be deployed, coarse first."""

import itertools

import pytest

from maenas.deploy.clock import TimingSettings
from maenas.deploy.program import network
from maenas.latency.measured import BlockKey
from maenas.lowering import lower
from maenas.nas.space import load_space, space_names
from maenas.presets import get_neck_preset, make_head, make_neck
from maenas.profiler.plan import (
    NETWORKS,
    RATIOS,
    copies_for,
    estimate_s,
    plan,
    space_samples,
    spec_samples,
)
from maenas.profiler.probe import Sample, item_kernels, item_key, sample_of
from maenas.spec import DetectorSpec, InputSpec, published_specs

COARSE = RATIOS[0]


def test_a_specs_samples_are_its_distinct_kernels() -> None:
    spec = published_specs()["damo-yolo-t"]
    program = network(lower(spec))
    keys = [sample_of(program, kernel).key for kernel in program.kernels]
    assert [sample.key for sample in spec_samples(spec)] == list(dict.fromkeys(keys))


@pytest.mark.parametrize("name", space_names())
def test_the_smallest_network_of_a_space_is_in_its_grid(name: str) -> None:
    space = load_space(name)
    backbone, preset = space.spec_of(space.smallest), get_neck_preset(space.neck)
    size = InputSpec(space.input_size, space.input_size)
    spec = DetectorSpec(size, backbone, make_neck(preset, backbone.tap_channels), make_head(preset, 80))
    grid = {s.key for s in space_samples(space, input_size=space.input_size, num_classes=80, ratio=COARSE)}
    # widths that follow from others (halves, rounded ratios) are there too, since all come from the lowering
    assert {sample.key for sample in spec_samples(spec)} <= grid


@pytest.mark.parametrize("name", space_names())
def test_every_sample_has_the_shapes_that_its_kernel_reads(name: str) -> None:
    space = load_space(name)
    for sample in space_samples(space, input_size=space.input_size, num_classes=80, ratio=COARSE):
        if sample.key.op == "conv":
            assert sample.inputs == ((sample.kernel.in_channels, sample.kernel.in_height, sample.kernel.in_width),)
        if sample.key.op == "concat" and sample.kernel.out_width > 1:
            assert sum(channels for channels, _, _ in sample.inputs) == sample.kernel.out_channels


def test_finer_grids_have_the_same_kinds_of_kernels() -> None:
    space = load_space("k1kx-tiny")
    kinds = []
    for ratio in RATIOS:
        samples = space_samples(space, input_size=640, num_classes=80, ratio=ratio)
        kinds.append({(k.op, k.height, k.kernel, k.stride, k.epilogue) for k in (s.key for s in samples)})
    assert kinds[0] == kinds[1] == kinds[2]


def test_a_plan_has_each_kernel_once_and_the_coarse_grid_first() -> None:
    space, specs = load_space("k1kx-tiny"), published_specs()
    keys = [item_key(item) for item in plan([space], specs.values(), input_size=None)]
    assert len(set(keys)) == len(keys)
    coarse = {s.key for s in space_samples(space, input_size=640, num_classes=80, ratio=COARSE)}
    assert set(keys[: len(coarse)]) == coarse
    exact = set(itertools.chain.from_iterable((s.key for s in spec_samples(spec)) for spec in specs.values()))
    assert exact <= set(keys[: len(coarse | exact)])


def test_the_same_seed_gives_the_same_order() -> None:
    space = load_space("csp")
    once, again = (plan([space], [], input_size=320) for _ in range(2))
    assert once == again
    assert once != plan([space], [], input_size=320, seed=1)


def test_a_plan_follows_the_input_size() -> None:
    items = plan([load_space("mob")], published_specs(320).values(), input_size=320)
    kernels = [kernel for item in items for kernel in item_kernels(item)]
    assert max(kernel.in_height for kernel in kernels if kernel.out_width > 1) == 320


def test_blocks_and_networks_of_every_space_are_measured_whole() -> None:
    spaces = [load_space(name) for name in space_names()]
    items = [item for item in plan(spaces, [], input_size=None) if not isinstance(item, Sample)]
    networks = [item for item in items if isinstance(item, DetectorSpec)]
    assert len(networks) == NETWORKS
    assert all(any(space.contains(spec.backbone) for space in spaces) for spec in networks)
    assert {item.block for item in items if isinstance(item, BlockKey)} == {space.block for space in spaces}
    assert {spec.backbone.stages[0].block for spec in networks} == {space.block for space in spaces}


def test_more_and_slower_kernels_take_longer() -> None:
    samples = spec_samples(published_specs()["damo-yolo-s"])
    settings = TimingSettings()
    times = [estimate_s(samples, flops_per_s=rate, batch=1, settings=settings) for rate in (1e10, 1e11, 1e13)]
    assert times == sorted(times, reverse=True)
    assert estimate_s(samples[:5], flops_per_s=1e11, batch=1, settings=settings) < times[1]


def test_short_kernels_are_timed_in_several_copies() -> None:
    copies = {s.key: copies_for(s, flops_per_s=5e10, batch=1) for s in spec_samples(published_specs()["damo-yolo-t"])}
    assert min(copies.values()) == 1
    assert max(copies.values()) > 4


def test_building_engines_takes_most_of_a_plan_for_tensorrt() -> None:
    samples = space_samples(load_space("k1kx-tiny"), input_size=640, num_classes=80, ratio=3.0)
    fields = {"flops_per_s": 1e13, "batch": 1, "settings": TimingSettings()}
    assert estimate_s(samples, runtime="tensorrt", **fields) > 20 * estimate_s(samples, runtime="torch", **fields)
