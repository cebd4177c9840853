import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maenas.cost import kernel_activations, kernel_flops, kernel_params, kernel_traffic, total_cost
from maenas.files import data_dir
from maenas.kernels import IMAGE, Graph, Kernel, Tensor
from maenas.lowering import lower, lower_neck, round8
from maenas.nas.problem import evaluate, mae_objective
from maenas.nas.space import SearchSpace, load_space, space_names
from maenas.nas.stage_tables import (
    ACTIVATIONS,
    ENTROPY,
    FLOPS,
    LAYERS,
    PARAMS,
    Quantity,
    build_tables,
    latency_quantity,
)
from maenas.presets import get_neck_preset, make_head, make_neck
from maenas.score import mae_score, score_terms
from maenas.spec import CHANNEL_MULTIPLE, DetectorSpec, InputSpec, read_spec
from tests.conftest import FILES


def shipped(model: str) -> DetectorSpec:
    return read_spec(data_dir("searched_models") / f"{FILES[model]}.json").detector


def part(kernel: Kernel) -> str:
    return kernel.name.partition(".")[0]


# The published models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", FILES)
def test_the_published_models_have_the_parameters_and_flops_of_their_deployed_form(model: str, golden: Any) -> None:
    expected = golden("zoo.json")["models"][model]
    kernels = lower(shipped(model))
    params = {name: sum(kernel_params(k) for k in kernels if part(k) == name) for name in ("backbone", "neck", "head")}
    assert params == {name: expected[f"{name}_params"] for name in params}
    height, width = expected["input_size"]
    cost = total_cost(kernels)
    assert cost.params == expected["params"]
    assert cost.flops * 640 * 640 == 2 * expected["conv_macs_at_640"] * height * width


def test_the_golden_numbers_kept_here_are_those_of_the_whole_set(golden: Any, shared_golden: Any) -> None:
    whole = shared_golden("zoo.json")["models"]
    for model, kept in golden("zoo.json")["models"].items():
        form, settings_ = whole[model]["forms"]["deploy_all_bn_folded"], whole[model]["backbone"]
        thop = form["thop"]
        assert kept == {
            "input_size": whole[model]["input_size"],
            "params": thop["total_thop_params"],
            **{f"{name}_params": thop[name]["thop_params"] for name in ("backbone", "neck", "head")},
            "conv_macs_at_640": thop["breakdown_at_640"]["conv_macs"],
            "family": settings_["name"].removeprefix("TinyNAS_"),
            "use_focus": settings_["use_focus"],
            "act": settings_["act"],
            "structure": whole[model]["structure"],
        }
        assert kept["params"] == form["params"] - 3  # the head's scales
        height, width = kept["input_size"]
        flops = 2 * kept["conv_macs_at_640"] * height * width / 640**2
        assert flops / 1e9 == pytest.approx(thop["conv_only_gflops_2xMAC"], rel=1e-14)


@pytest.mark.parametrize(("model", "anchors"), [("T", 8400), ("M", 8400), ("Ns", 3549)])
def test_the_outputs_are_class_scores_and_boxes_of_every_anchor(model: str, anchors: int) -> None:
    kernels = lower(shipped(model))
    used = {index for k in kernels for index in (*k.inputs, k.residual)}
    outputs = {k.name: (k.out_channels, k.out_height) for index, k in enumerate(kernels) if index not in used}
    assert outputs == {"head.scores": (80, anchors), "head.boxes": (4, anchors)}


# Every network -------------------------------------------------------------------------------------------------------


def check_edges(spec: DetectorSpec, kernels: Sequence[Kernel]) -> None:
    """Every kernel reads what an earlier one wrote, in the shape in which it was written."""
    image = (3, spec.input.height, spec.input.width)
    shapes = [(k.out_channels, k.out_height, k.out_width) for k in kernels]
    assert len({k.name for k in kernels}) == len(kernels)
    for index, k in enumerate(kernels):
        assert k.inputs
        assert all(IMAGE <= i < index for i in k.inputs)
        read = [image if i == IMAGE else shapes[i] for i in k.inputs]
        assert min(shapes[index]) > 0
        if k.name in ("head.scores", "head.boxes"):
            anchors = sum(h * w for _, h, w in read)
            assert shapes[index] == (read[0][0], anchors, 1)
            assert len({c for c, _, _ in read}) == 1
            continue
        assert {(h, w) for _, h, w in read} == {(k.in_height, k.in_width)}
        assert k.in_channels == sum(c for c, _, _ in read)
        assert len(read) == 1 or k.op == "concat"
        check_kernel(k)
        assert (k.residual is None) == ("add" not in k.epilogue)
        if k.residual is not None:
            assert k.residual < index
            assert shapes[k.residual] == shapes[index]


def check_kernel(k: Kernel) -> None:
    """The output's shape follows from the input's."""
    size, out = (k.in_height, k.in_width), (k.out_channels, k.out_height, k.out_width)
    c, (h, w) = k.in_channels, size
    if k.op == "conv":
        assert out[1:] == (-(-h // k.stride), -(-w // k.stride))
        assert k.kernel % 2 == 1
        assert c % k.groups == k.out_channels % k.groups == 0
        return
    assert out == {
        "maxpool": (c, h, w),
        "concat": (c, h, w),
        "resize": (c, 2 * h, 2 * w),
        "space_to_depth": (4 * c, h // 2, w // 2),
        "integral": (4, h, w),
    }.get(k.op)


@given(spec=...)
def test_the_kernels_of_any_spec_are_a_graph_whose_shapes_chain(spec: DetectorSpec) -> None:
    kernels = lower(spec)
    check_edges(spec, kernels)
    used = {index for k in kernels for index in (*k.inputs, k.residual)}
    unused = [k for index, k in enumerate(kernels) if index not in used]
    anchors = spec.input.height * spec.input.width * 21 // 1024  # 1/64 + 1/256 + 1/1024
    assert [(k.name, k.op, k.out_channels, k.out_height) for k in unused] == [
        ("head.scores", "concat", spec.head.num_classes, anchors),
        ("head.boxes", "decode", 4, anchors),
    ]


@pytest.mark.parametrize("model", FILES)
def test_the_kernels_of_the_published_models_are_a_graph_whose_shapes_chain(model: str) -> None:
    check_edges(shipped(model), lower(shipped(model)))


@given(spec=...)
def test_every_cost_but_parameters_is_proportional_to_the_area_of_the_input(spec: DetectorSpec) -> None:
    small = total_cost(lower(spec))
    size = InputSpec(2 * spec.input.height, spec.input.width)
    large = total_cost(lower(dataclasses.replace(spec, input=size)))
    assert (large.params, large.layers) == (small.params, small.layers)
    assert (large.flops, large.activations) == (2 * small.flops, 2 * small.activations)


@given(spec=...)
def test_spp_adds_two_convolutions_and_three_pools_in_the_last_stage_and_nothing_else(spec: DetectorSpec) -> None:
    without, with_spp = (
        lower(dataclasses.replace(spec, backbone=dataclasses.replace(spec.backbone, spp=spp))) for spp in (False, True)
    )
    added = [k for k in with_spp if ".spp." in k.name]
    assert [k.op for k in added] == ["conv", "maxpool", "maxpool", "maxpool", "concat", "conv"]
    assert {k.stage for k in added} == {len(spec.backbone.stages)}
    assert [k.name for k in with_spp if k not in added] == [k.name for k in without]
    c = added[-1].out_channels
    assert sum(map(kernel_params, added)) == c * (c // 2) + c // 2 + 4 * (c // 2) * c + c


@given(spec=...)
def test_the_main_path_of_a_unit_has_the_published_number_of_convolutions(spec: DetectorSpec) -> None:
    per_unit = {"k1kx": 2, "kxkx": 2, "k1kxk1": 3, "k1dwk1": 3, "csp": 2}
    per_stage = {"csp": 3}  # downsampler, start and fuse
    expected = 1 + sum(per_stage.get(s.block, 0) + per_unit[s.block] * s.depth for s in spec.backbone.stages)
    assert total_cost(lower(spec)).layers == expected


def test_the_hidden_width_of_a_mobile_block_is_rounded_as_in_mobilenet() -> None:
    def slowly(value: float) -> int:
        rounded = max(8, int(value + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * value else rounded

    values = np.arange(1, 3000) / 2
    assert round8(values).tolist() == [slowly(value) for value in values]
    assert [round8(value) for value in values[:200]] == [slowly(value) for value in values[:200]]


# Tables of stages ----------------------------------------------------------------------------------------------------


class Model:
    """Seconds that depend on everything a kernel has, and not linearly."""

    network_seconds = 5.25e-6

    def kernel_seconds(self, kernel: Kernel) -> Any:
        ramp = np.sqrt(np.asarray(kernel.out_channels, dtype=np.float64))
        compute = kernel_flops(kernel) * 1.7e-14 / (1 - np.exp(-ramp / 3))
        fused = 1e-7 * len(kernel.epilogue) + 3e-8 * (kernel.residual is not None)
        return 1e-6 + np.maximum(compute, kernel_traffic(kernel) * 6.3e-13) + fused + 1e-8 * kernel.kernel


QUANTITIES = (ENTROPY, PARAMS, FLOPS, ACTIVATIONS, LAYERS, latency_quantity(Model()))
CLASSES = 17


def random_genomes(space: SearchSpace, count: int, seed: int) -> NDArray[np.int64]:
    """Any genomes; in the first half, stages of stride 1 keep their width where they can."""
    rng = np.random.default_rng(seed)
    genomes = np.stack([rng.integers(len(row), size=count) for row in space.choices], axis=1)
    for number, stage in enumerate(space.stages):
        if stage.stride == 1:
            before, here = space.choices[4 * number - 3], space.choices[4 * number + 1]
            for genome in genomes[: count // 2]:
                width = before[genome[4 * number - 3]]
                if width in here:
                    genome[4 * number + 1] = here.index(width)
    return genomes


def detector(space: SearchSpace, genome: NDArray[np.int64], size: int) -> DetectorSpec:
    backbone, preset = space.spec_of(genome), get_neck_preset(space.neck)
    neck, head = make_neck(preset, backbone.tap_channels), make_head(preset, CLASSES)
    return DetectorSpec(InputSpec(size, size), backbone, neck, head)


def in_steps(quantity: Quantity, kernels: Sequence[Kernel], *, whole: bool) -> float:
    counted = [k for k in kernels if whole or part(k) == "backbone"]
    return sum(float(quantity.steps(quantity.of_kernel(k))) for k in counted) + float(quantity.steps(quantity.fixed))


@pytest.mark.parametrize("scope", ["detector", "backbone"])
@pytest.mark.parametrize("name", space_names())
def test_the_tables_of_a_space_add_up_to_what_lowering_one_by_one_gives(name: str, scope: Any) -> None:
    space = load_space(name)
    size = 352
    tables = build_tables(space, QUANTITIES, input_size=size, num_classes=CLASSES, scope=scope)
    genomes = random_genomes(space, 40, seed=3)
    networks = [lower(detector(space, genome, size)) for genome in genomes]
    projected = [any(k.name == "backbone.stage4.unit0.project" for k in kernels) for kernels in networks]
    if space.block in ("k1kx", "kxkx", "k1kxk1"):
        assert 0 < sum(projected) < len(projected)
    for quantity in QUANTITIES:
        whole = scope == "detector" and not quantity.backbone_only
        expected = [in_steps(quantity, kernels, whole=whole) for kernels in networks]
        assert evaluate(tables.quantities[quantity.name], tables, genomes).tolist() == expected, quantity.name


@pytest.mark.parametrize("name", space_names())
def test_the_objective_of_the_tables_is_the_mae_score_but_for_rounding(name: str) -> None:
    space = load_space(name)
    tables = build_tables(space, (ENTROPY,), input_size=64, num_classes=CLASSES, scope="backbone")
    genomes = random_genomes(space, 40, seed=4)
    scores = evaluate(mae_objective(tables), tables, genomes) * 1e-9
    for genome, score in zip(genomes, scores, strict=True):
        terms = score_terms(lower(detector(space, genome, 64)))
        # Each convolution's entropy is rounded to 1e-9 and weighs at most 18; and once more for each of 11 terms.
        assert score == pytest.approx(float(mae_score(terms)), abs=0.5e-9 * (18 * float(terms.layers[-1]) + 11))


@settings(max_examples=40)
@given(
    taps=st.tuples(*[st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True)] * 3),
    ratio=st.floats(0.25, 4),
    block=st.sampled_from(["basic", "mobile"]),
)
def test_a_neck_lowered_with_arrays_is_the_neck_of_every_combination(
    taps: tuple[list[int], ...], ratio: float, block: Any
) -> None:
    arrays = [CHANNEL_MULTIPLE * np.array(tap) for tap in taps]

    def kernels(channels: Sequence[Any]) -> list[Kernel]:
        g = Graph()
        sides = (16, 8, 4)
        c3, c4, c5 = (Tensor(IMAGE, c, side, side) for c, side in zip(channels, sides, strict=True))
        lower_neck(g, (c3, c4, c5), tuple(channels), depth=2, hidden_ratio=ratio, block=block, act="relu")
        return g.kernels

    grid = np.meshgrid(*arrays, indexing="ij")
    together = kernels(grid)
    for index in np.ndindex(grid[0].shape):
        alone = kernels([int(array[index]) for array in grid])
        for cost in (kernel_params, kernel_flops, kernel_activations, kernel_traffic):
            assert [int(cost(k)[index]) for k in together] == [cost(k) for k in alone]
