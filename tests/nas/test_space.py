import dataclasses
import itertools
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maenas.errors import MaenasError
from maenas.files import data_dir, shipped_file
from maenas.nas.problem import evaluate
from maenas.nas.space import SearchSpace, load_space, space_from_yaml, space_names
from maenas.nas.space_parts import DepthBound, Range, StageSpace, StemSpace
from maenas.nas.stage_tables import PARAMS, build_tables
from maenas.spec import BackboneSpec, read_spec


def shipped(name: str) -> BackboneSpec:
    return read_spec(data_dir("searched_models") / f"{name}.json").detector.backbone


def valid_genomes(space: SearchSpace, count: int, seed: int) -> NDArray[np.int64]:
    """Random genomes that keep to the rules on widths and bottlenecks, by rejection stage after stage."""
    rng, genomes = np.random.default_rng(seed), []
    while len(genomes) < count:
        genome = [int(rng.integers(len(space.choices[0])))]
        width = space.choices[0][genome[0]]
        for number in range(len(space.stages)):
            outs, kernels, bottlenecks, depths = space.choices[1 + 4 * number : 5 + 4 * number]
            outs = [out for out in outs if out >= width]
            low, high = space.bottleneck_ratio
            fitting = [(out, btn) for out in outs for btn in bottlenecks if low * out <= btn <= high * out]
            if not fitting:
                break
            width, btn = fitting[rng.integers(len(fitting))]
            genes = (width, kernels[rng.integers(len(kernels))], btn, depths[rng.integers(len(depths))])
            rows = space.choices[1 + 4 * number : 5 + 4 * number]
            genome += [row.index(gene) for row, gene in zip(rows, genes, strict=True)]
        else:
            genomes.append(genome)
    return np.array(genomes)


# The shipped spaces --------------------------------------------------------------------------------------------------


def test_every_shipped_space_loads_under_the_name_of_its_file() -> None:
    assert len(space_names()) == 9
    assert [load_space(name).name for name in space_names()] == space_names()
    assert all(shipped_file("search_spaces", f"{name}.yaml").is_file() for name in space_names())


@pytest.mark.parametrize(
    ("space", "model"),
    [
        ("k1kx", "damo-yolo-t"),
        ("k1kx", "damo-yolo-s"),
        ("k1kx-tiny", "damo-yolo-t"),
        ("csp", "damo-yolo-m"),
        ("csp", "damo-yolo-l"),
        ("mob", "damo-yolo-nano-s"),
        ("mob", "damo-yolo-nano-m"),
        ("mob", "damo-yolo-nano-l"),
    ],
)
def test_a_published_backbone_lies_in_the_space_around_it(space: str, model: str) -> None:
    backbone = shipped(model)
    assert load_space(space).why_not(backbone) == []
    assert load_space(space).spec_of(load_space(space).genome_of(backbone)) == backbone


def test_the_published_small_backbone_lies_outside_the_published_small_space() -> None:
    space, backbone = load_space("k1kx-small"), shipped("damo-yolo-s")
    assert space.why_not(backbone) == ["stage 2: depth 5 is not a choice (1 to 3)"]
    assert not space.contains(backbone)
    with pytest.raises(MaenasError, match="not in the space k1kx-small: stage 2: depth 5 is not a choice"):
        space.genome_of(backbone)


T = shipped("damo-yolo-t")


def with_stage(number: int, **changes: Any) -> BackboneSpec:
    stages = list(T.stages)
    stages[number - 1] = dataclasses.replace(stages[number - 1], **changes)
    return dataclasses.replace(T, stages=tuple(stages))


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        (dataclasses.replace(T, act="silu"), "act is silu, not relu"),
        (dataclasses.replace(T, spp=False), "spp is False, not True"),
        (dataclasses.replace(T, taps=(2, 3, 5)), "taps is (2, 3, 5), not (2, 4, 5)"),
        (dataclasses.replace(T, stem=dataclasses.replace(T.stem, kernel=5)), "stem is ('focus', 5), not ('focus', 3)"),
        (shipped("damo-yolo-m"), "number of stages is 4, not 5"),
        (with_stage(2, kernel=5), "stage 2: kernel 5 is not a choice (3 to 3)"),
        (with_stage(5, out_channels=512), "stage 5: width 512 is not a choice (256 to 384)"),
        (with_stage(5, block="kxkx"), "stage 5: block is kxkx, not k1kx"),
        (with_stage(1, bottleneck=72), "stage 1: bottleneck 72 is not within [0.1, 1.0] of 64"),
    ],
)
def test_what_lies_outside_a_space_is_said_in_words(backbone: BackboneSpec, reason: str) -> None:
    assert reason in load_space("k1kx-tiny").why_not(backbone)


def test_a_width_that_shrinks_lies_outside() -> None:
    space = load_space("k1kx-tiny")
    wide = space.genome_of(T)
    wide[1], wide[3] = len(space.choices[1]) - 1, 5
    wide[5] = 0
    reasons = space.why_not(space.spec_of(wide))
    assert reasons == ["stage 2: width shrinks from 96 to 64"]


@pytest.mark.parametrize("name", space_names())
def test_a_genome_and_its_backbone_name_each_other(name: str) -> None:
    space = load_space(name)
    for genome in valid_genomes(space, 100, seed=1):
        assert space.why_not(space.spec_of(genome)) == []
        assert space.genome_of(space.spec_of(genome)).tolist() == genome.tolist()


@pytest.mark.parametrize("name", space_names())
def test_the_smallest_backbone_is_valid_and_has_fewer_parameters_than_random_ones(name: str) -> None:
    """Narrowest is not always fewest: in k1kxk1, a wider stage 3 saves the projection of stage 4."""
    space = load_space(name)
    assert space.contains(space.spec_of(space.smallest))
    tables = build_tables(space, (PARAMS,), input_size=64, num_classes=3)
    params = evaluate(
        tables.quantities["params"], tables, np.stack([space.smallest, *valid_genomes(space, 500, seed=2)])
    )
    assert params[0] < params[1:].min()


# Any space -----------------------------------------------------------------------------------------------------------


@st.composite
def tiny_spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of a space of at most 4,000 genomes, valid or not."""
    left = 4000

    def several(most: int) -> int:
        nonlocal left
        count = draw(st.integers(1, max(1, min(most, left))))
        left //= count
        return count

    block = draw(st.sampled_from(["k1kx", "kxkx", "k1kxk1", "k1dwk1", "csp"]))
    step = 16 if block == "csp" else 8

    def widths(step: int) -> Range:
        low, count = step * draw(st.integers(1, 6)), several(4)
        step *= draw(st.integers(1, 2))
        return Range(low, low + step * (count - 1), step)

    strides = [2, 2, 2, 2] if block == "csp" else draw(st.sampled_from([[2, 2, 2, 2], [2, 2, 2, 1, 2]]))
    stages = []
    for stride in strides:
        depth, kernels = draw(st.integers(1, 3)), (3, 5)[: several(2)]
        stages.append(StageSpace(stride, widths(step), widths(8), depth + several(2) - 1, kernels, depth))
    ratio = draw(st.sampled_from([(0.1, 1.0), (0.5, 1.5), (0.7, 0.9), (0.3, 0.3)]))
    return {
        "block": block,
        "stem": StemSpace("focus", widths(8)),
        "stages": tuple(stages),
        "taps": (2, 3, 4) if len(strides) == 4 else (2, 4, 5),
        "bottleneck_ratio": ratio,
        "widths_never_shrink": draw(st.booleans()),
    }


def make_space(**fields: Any) -> SearchSpace:
    defaults: dict[str, Any] = {
        "schema": "maenas/space@1",
        "name": "tiny",
        "description": "",
        "source": "",
        "act": "relu",
        "spp": True,
        "input_size": 64,
        "neck": "s",
        "depth_bound": DepthBound(max_layers=100),
    }
    return SearchSpace(**defaults | fields)


def keeps_the_rules(values: tuple[int, ...], fields: dict[str, Any]) -> bool:
    low, high = (Fraction(str(ratio)) for ratio in fields["bottleneck_ratio"])
    widths, bottlenecks = (values[0], *values[1::4]), values[3::4]
    return all(low * out <= btn <= high * out for out, btn in zip(widths[1:], bottlenecks, strict=True)) and (
        not fields["widths_never_shrink"] or list(widths) == sorted(widths)
    )


@settings(max_examples=60)
@given(fields=tiny_spaces())
def test_size_membership_and_the_smallest_are_those_of_trying_every_genome(fields: dict[str, Any]) -> None:
    rows = [tuple(fields["stem"].width.values)]
    for stage in fields["stages"]:
        depths = tuple(range(stage.min_depth, stage.max_depth + 1))
        rows += [tuple(stage.width.values), stage.kernels, tuple(stage.bottleneck.values), depths]
    genomes = list(itertools.product(*(range(len(row)) for row in rows)))
    named = [tuple(row[i] for row, i in zip(rows, genome, strict=True)) for genome in genomes]
    valid = [values for values in named if keeps_the_rules(values, fields)]
    if not valid:
        with pytest.raises(MaenasError, match="has no valid choice"):
            make_space(**fields)
        return
    space = make_space(**fields)
    assert space.size == len(valid)
    smallest = tuple(row[int(i)] for row, i in zip(rows, space.smallest, strict=True))
    assert smallest == tuple(min(column) for column in zip(*valid, strict=True))
    members = set(valid)
    for genome, values in list(zip(genomes, named, strict=True))[:: max(1, len(named) // 50)]:
        assert space.contains(space.spec_of(np.array(genome))) == (values in members)


# Files ---------------------------------------------------------------------------------------------------------------

TINY = (data_dir("search_spaces") / "k1kx-tiny.yaml").read_text(encoding="utf-8")
STAGE_3 = "{min: 64, max: 192}, bottleneck: {min: 8, max: 192}, max_depth: 2}"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("act: relu", "atc: relu", 8, "atc: unknown key; did you mean act?"),
        ("act: relu\n", "", None, "act: this key is missing"),
        ("act: relu", "act: gelu", 8, "act: must be 'relu' or 'silu', got 'gelu'"),
        ("act: relu", "act: relu\nact: relu", 9, "the key 'act' appears twice"),
        ("spp: true", "spp: yes", 9, "'yes' is read as a bool"),
        ("spp: true", "spp: 1", 9, "spp: must be a valid boolean, got 1"),
        ("block: k1kx", "block: k1k1", 7, "block: must be 'k1kx', 'kxkx', 'k1kxk1', 'k1dwk1' or 'csp', got 'k1k1'"),
        ("input_size: 640", "input_size: 650", None, "input height is 650; it must be a positive multiple of 32"),
        ("input_size: 640", "input_size: -640", None, "input height is -640; it must be a positive multiple of 32"),
        ("neck: t", "neck: x", None, "unknown neck 'x'; the presets are t, s, m, l, nano"),
        ("space@1", "space@2", None, "schema is 'maenas/space@2'; this version reads 'maenas/space@1'"),
        ("{min: 16, max: 32}", "{min: 32, max: 16}", 12, "stem.width: min 32, max 16: not 0 < min <= max <= 8192"),
        ("{min: 16, max: 32}", "{min: 16, max: 36}", 12, "stem.width: step 8 does not lead from 16 to 36"),
        ("{min: 16, max: 32}", "{min: 16, max: 32, step: 0}", 12, "stem.width: step 0 does not lead from 16 to 32"),
        ("{min: 16, max: 32}", "{min: 1, max: 2000, step: 1}", 12, "stem.width: 2000 choices; at most 1024"),
        ("{min: 16, max: 32}", "{min: 16, max: 32, step: 4}", None, "stem out_channels is 20; channels must be a pos"),
        (STAGE_3, STAGE_3.replace("192}, b", "192, step: 4}, b"), None, "stage 3: out_channels is 68; channels must"),
        (STAGE_3, STAGE_3.replace("192}, m", "192, step: 4}, m"), None, "stage 3: bottleneck is 12; channels must"),
        (
            STAGE_3,
            STAGE_3.replace("th: 2}", "th: 2, kernels: [3, 4]}"),
            None,
            "stage 3: kernel is 4; it must be 1, 3, 5 or 7",
        ),
        (
            STAGE_3,
            STAGE_3.replace("th: 2}", "th: 2, kernels: [5, 3]}"),
            16,
            "stages[2]: kernels [5, 3] must be given, rising",
        ),
        (STAGE_3, STAGE_3.replace("th: 2}", "th: 2, kernels: []}"), 16, "stages[2]: kernels [] must be given, rising"),
        (STAGE_3, STAGE_3.replace("th: 2}", "th: 257}"), 16, "stages[2]: depth 1 to 257 is not within 1 to 256"),
        (
            STAGE_3,
            STAGE_3.replace("th: 2}", "th: 2, min_depth: 3}"),
            16,
            "stages[2]: depth 3 to 2 is not within 1 to 256",
        ),
        (STAGE_3, STAGE_3.replace("min: 8,", "min: 8.0,"), 16, "stages[2].bottleneck.min: must be a valid integer"),
        (
            STAGE_3,
            STAGE_3.replace("{min: 64, max: 192},", "{min: 32, max: 56},"),
            None,
            "stage 3 has no valid choice: n",
        ),
        ("stride: 1", "stride: 3", 17, "stages[3]: stride is 3; it must be 1 or 2"),
        (
            "stride: 1",
            "stride: 2",
            None,
            "taps [2, 4, 5] must be stages at strides 8, 16 and 32; the stages are at [4,",
        ),
        ("taps: [2, 4, 5]", "taps: [2, 4, 6]", None, "taps [2, 4, 6] must be stages at strides 8, 16 and 32"),
        ("[0.1, 1]", "[1, 0.1]", None, "bottleneck_ratio [1.0, 0.1] must rise from above 0"),
        ("[0.1, 1]", "[0, 1]", None, "bottleneck_ratio [0.0, 1.0] must rise from above 0"),
        ("[0.1, 1]", "[0.1, 1e300]", None, "bottleneck_ratio [0.1, 1e+300] must rise from above 0 to at most"),
        ("{max_layers: 20}", "{}", 22, "depth_bound: give max_layers or max_effectiveness: the score alone rewards"),
        ("{max_layers: 20}", "{max_layers: 0}", 22, "depth_bound: max_layers is 0; it must be positive"),
        ("{max_layers: 20}", "{max_layers: publisht}", 22, "must be 'published', got 'publisht'"),
        ("{max_layers: 20}", "{max_effectiveness: -1}", 22, "depth_bound: max_effectiveness is -1.0; it must be posit"),
        ("taps:", "score_weights: [0, 0, 1, 1, -1]\ntaps:", None, "must be 0 to 1000, and not all 0"),
    ],
)
def test_an_error_names_the_line_and_the_valid_choice(old: str, new: str, line: int | None, message: str) -> None:
    assert old in TINY
    with pytest.raises(MaenasError) as caught:
        space_from_yaml(TINY.replace(old, new, 1), "my.yaml")
    text = str(caught.value)
    assert message in text
    assert all(re.match(r"my\.yaml:\d+: ", problem) for problem in text.splitlines())
    if line is not None:
        assert f"my.yaml:{line}: " in text


def test_a_csp_width_must_be_a_multiple_of_16_in_every_choice() -> None:
    text = (data_dir("search_spaces") / "csp.yaml").read_text(encoding="utf-8").replace("160, step: 16", "160, step: 8")
    with pytest.raises(MaenasError, match="stage 1: out_channels is 40; channels must be a positive multiple of 16"):
        space_from_yaml(text)


def test_an_unknown_space_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        MaenasError, match=r"unknown space 'k1k'; the shipped ones are csp, demo, k1kx, k1kx-small, .*give a YAML"
    ):
        load_space("k1k")
    with pytest.raises(MaenasError, match="there is no such file"):
        load_space(str(tmp_path / "a.yaml"))
    (tmp_path / "mine.yaml").write_text(TINY, encoding="utf-8")
    assert load_space(str(tmp_path / "mine.yaml")) == load_space("k1kx-tiny")
