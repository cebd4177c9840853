import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from maenas.files import data_dir
from maenas.kernels import Graph
from maenas.lowering import lower, lower_backbone
from maenas.nas.problem import score_terms_of
from maenas.nas.space import load_space, space_names
from maenas.nas.stage_tables import ENTROPY, FLOPS, LAYERS, build_tables
from maenas.score import ScoreTerms, deepmad_score, effectiveness, mae_score, score_terms
from maenas.spec import BackboneSpec, DetectorSpec, InputSpec, StageSpec, StemSpec, read_spec


def terms_of(backbone: BackboneSpec, side: int) -> ScoreTerms:
    g = Graph()
    lower_backbone(g, backbone, InputSpec(side, side))
    return score_terms(g.kernels)


# Golden scores -------------------------------------------------------------------------------------------------------


def scored(structure: dict[str, Any], *, spp: bool) -> ScoreTerms:
    """Terms of a golden structure: a stem of 12 channels and stride 1 stands behind the Focus slice."""
    stem, *blocks = structure["blocks"]
    focus = (stem["in"], stem["s"]) == (12, 1)
    assert focus or (stem["in"], stem["s"]) == (3, 2)
    assert [block["s"] for block in blocks] == [2, 2, 2, 1, 2]
    stages = tuple(
        StageSpec(block["block"], block["in"], block["out"], block["btn"], block["k"], block["s"], block["L"])
        for block in blocks
    )
    first = StemSpec("focus" if focus else "conv", stem["out"], stem["k"])
    backbone = BackboneSpec(first, stages, "relu", (2, 4, 5), spp)
    return terms_of(backbone, structure["resolution"] * (2 if focus else 1))


def check_scores(structures: list[dict[str, Any]]) -> None:
    for structure in structures:
        terms = scored(structure, spp=False)
        assert mae_score(terms, structure["mae_weights"]) == pytest.approx(structure["mae_score"], rel=1e-9)
        if structure["mae_weights"] == [0, 0, 1, 1, 16]:  # those of the YOLO spaces, the default
            assert mae_score(terms) == pytest.approx(structure["mae_score"], rel=1e-9)
        assert terms.layers[-1] == structure["conv_layers"]
        if "deepmad_score" in structure:
            assert structure["deepmad_weights"] == [1, 1, 1, 1, 8]  # the default
            assert deepmad_score(terms) == pytest.approx(structure["deepmad_score"], rel=1e-9)
            assert effectiveness(terms) == pytest.approx(structure["effectiveness"], rel=1e-9)


def test_a_few_structures_have_the_scores_of_the_authors_toolbox(golden: Any) -> None:
    structures = golden("nas_scores.json")["structures"]
    assert [structure["kind"] for structure in structures[::3]] == ["k1kx", "kxkx", "k1kxk1", "k1dwk1"]
    check_scores(structures)


def test_all_golden_structures_have_the_scores_of_the_authors_toolbox(shared_golden: Any, golden: Any) -> None:
    structures = shared_golden("nas_scores.json")
    assert len(structures) == 146
    assert sum("deepmad_score" in structure for structure in structures) == 48
    assert all(kept in structures for kept in golden("nas_scores.json")["structures"])
    check_scores(structures)


# What the scores leave out -------------------------------------------------------------------------------------------


@given(backbone=...)
def test_the_scores_leave_out_spp_and_the_activation(backbone: BackboneSpec) -> None:
    one = terms_of(dataclasses.replace(backbone, spp=False, act="relu"), 64)
    two = terms_of(dataclasses.replace(backbone, spp=True, act="silu"), 64)
    for score in (mae_score, deepmad_score, effectiveness):
        assert score(one) == score(two)


@given(spec=...)
def test_the_scores_leave_out_neck_and_head(spec: DetectorSpec) -> None:
    g = Graph()
    lower_backbone(g, spec.backbone, spec.input)
    whole, alone = score_terms(lower(spec)), score_terms(g.kernels)
    for field in dataclasses.fields(ScoreTerms):
        assert np.array_equal(getattr(whole, field.name), getattr(alone, field.name))


@given(backbone=...)
def test_the_input_size_moves_no_mae_score_and_every_stage_of_deepmad_alike(backbone: BackboneSpec) -> None:
    small, large = terms_of(backbone, 64), terms_of(backbone, 256)
    assert mae_score(small) == mae_score(large)
    assert effectiveness(small) == effectiveness(large)
    weights = (1.0, 1.0, 1.0, 1.0, 8.0)
    expected = float(np.dot(weights, small.entropy)) * math.log(16)
    assert deepmad_score(large) - deepmad_score(small) == pytest.approx(expected, rel=1e-9)


@given(backbone=...)
def test_deeper_is_always_scored_higher(backbone: BackboneSpec) -> None:
    """Why a depth bound is part of every space."""
    stages = tuple(dataclasses.replace(stage, depth=stage.depth + 1) for stage in backbone.stages)
    deeper = dataclasses.replace(backbone, stages=stages)
    assert mae_score(terms_of(deeper, 64)) > mae_score(terms_of(backbone, 64))


# Populations ---------------------------------------------------------------------------------------------------------


def stacked(rows: list[ScoreTerms]) -> ScoreTerms:
    return ScoreTerms(
        entropy=np.stack([row.entropy for row in rows]),
        layers=np.stack([row.layers for row in rows]),
        log_width=np.stack([row.log_width for row in rows]),
        log_area=rows[0].log_area,
        flops=np.stack([row.flops for row in rows]),
    )


@pytest.mark.parametrize("name", space_names())
def test_a_population_is_scored_as_its_members_one_at_a_time(name: str) -> None:
    space = load_space(name)
    rng = np.random.default_rng(5)
    genomes = np.stack([rng.integers(len(row), size=30) for row in space.choices], axis=1)
    rows = [terms_of(space.spec_of(genome), 320) for genome in genomes]
    tables = build_tables(space, (ENTROPY, LAYERS, FLOPS), input_size=320, num_classes=3, scope="backbone")
    from_tables = score_terms_of(tables, genomes)
    for score in (mae_score, deepmad_score, effectiveness):
        expected = np.array([score(row) for row in rows])
        assert score(stacked(rows)) == pytest.approx(expected, rel=1e-14)
        assert score(from_tables) == pytest.approx(expected, rel=1e-8)  # entropies in steps of 1e-9
    assert from_tables.flops.tolist() == [row.flops for row in rows]
    assert from_tables.layers.tolist() == [row.layers.tolist() for row in rows]


# Depth ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rho", "layers"),
    [
        ("damo-yolo-t", 0.0748, 19),
        ("damo-yolo-s", 0.0727, 25),
        ("damo-yolo-m", 0.0526, 39),
        ("damo-yolo-l", 0.0520, 49),
        ("damo-yolo-nano-s", 0.396, 28),
        ("damo-yolo-nano-m", 0.340, 28),
        ("damo-yolo-nano-l", 0.268, 31),
    ],
)
def test_the_published_backbones_are_as_shallow_as_the_depth_bounds_assume(name: str, rho: float, layers: int) -> None:
    spec = read_spec(data_dir("searched_models") / f"{name}.json").detector
    terms = score_terms(lower(spec))
    assert terms.layers[-1] == layers
    assert float(f"{float(effectiveness(terms)):.3g}") == rho


# Entropy is what it is called ----------------------------------------------------------------------------------------

DRAWS = 100

SMALL = {
    "k1kx": (StageSpec("k1kx", 16, 24, 16, 3, 2, 2), StageSpec("k1kx", 24, 32, 16, 3, 2, 1)),
    "kxkx": (StageSpec("kxkx", 16, 24, 16, 3, 2, 1), StageSpec("kxkx", 24, 32, 24, 3, 2, 1)),
    "k1kxk1": (StageSpec("k1kxk1", 16, 24, 16, 3, 2, 2), StageSpec("k1kxk1", 24, 32, 16, 5, 2, 1)),
    "k1dwk1": (StageSpec("k1dwk1", 16, 24, 48, 5, 2, 2), StageSpec("k1dwk1", 24, 32, 96, 3, 2, 1)),
    "csp": (StageSpec("csp", 16, 32, 24, 3, 2, 2), StageSpec("csp", 32, 48, 40, 3, 2, 1)),
}


def test_the_small_networks_hold_every_block() -> None:
    assert all({stage.block for stage in stages} == {block} for block, stages in SMALL.items())


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["focus", "conv"])
@pytest.mark.parametrize("block", SMALL)
def test_entropy_is_the_log_of_the_factor_by_which_random_weights_multiply_the_standard_deviation(
    block: str, stem: Any
) -> None:
    """The main path, built here from the description of each block, with weights N(0, 1), no norm, no activation.

    E[variance] over the weights is exactly exp(2 H) in the interior; a csp stage adds its shortcut half to that. With
    n draws the mean has a standard error s; the logs of the standard deviations may differ by 4.5 s / (2 mean), which
    happens by chance once in 150,000 tests.
    """
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    generator = torch.Generator().manual_seed(11)
    stages = SMALL[block]

    def conv(x: Any, out: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
        weight = torch.randn(out, x.shape[1] // groups, kernel, kernel, generator=generator, dtype=x.dtype)
        return functional.conv2d(x, weight, stride=stride, groups=groups)  # no padding: every pixel is an interior one

    def crop(x: Any, like: Any) -> Any:
        top, left = ((x.shape[d] - like.shape[d]) // 2 for d in (2, 3))
        return x[:, :, top : top + like.shape[2], left : left + like.shape[3]]

    def stage(x: Any, s: StageSpec) -> Any:
        if s.block == "csp":
            x = conv(x, s.out_channels, s.kernel, 2)
            main, side = conv(x, s.out_channels // 2, 1), conv(x, s.out_channels // 2, 1)
            for _ in range(s.depth):
                main = conv(conv(main, s.bottleneck, s.kernel), s.out_channels // 2, s.kernel)
            return conv(torch.cat([main, crop(side, main)], dim=1), s.out_channels, 1)
        for unit in range(s.depth):
            stride = s.stride if unit == 0 else 1
            x = conv(x, s.bottleneck, s.kernel if s.block == "kxkx" else 1)
            if s.block in ("k1kx", "kxkx"):
                x = conv(x, s.out_channels, s.kernel, stride)
                continue
            x = conv(x, s.bottleneck, s.kernel, stride, groups=s.bottleneck if s.block == "k1dwk1" else 1)
            x = conv(x, s.out_channels, 1)
        return x

    variances = np.empty(DRAWS)
    for draw in range(DRAWS):
        image = torch.randn(1, 3, 192, 192, generator=generator, dtype=torch.float64)
        if stem == "focus":
            x = conv(functional.pixel_unshuffle(image, 2), stages[0].in_channels, 3)
        else:
            x = conv(image, stages[0].in_channels, 3, 2)
        for s in stages:
            x = stage(x, s)
        assert x.shape[1] == stages[-1].out_channels
        assert min(x.shape[2:]) >= 8
        variances[draw] = float(x.square().mean())

    g, last = Graph(), stages[-1].out_channels
    ends = tuple(StageSpec("k1kx", last, last, 8, 1, 2, 1) for _ in range(2))  # down to stride 32, which a spec needs
    backbone = BackboneSpec(StemSpec(stem, stages[0].in_channels), (*stages, *ends), "relu", (2, 3, 4))
    lower_backbone(g, backbone, InputSpec(192, 192))
    entropy = float(score_terms(g.kernels).entropy[2])
    relative_error = variances.std(ddof=1) / variances.mean() / math.sqrt(DRAWS)
    tolerance = 4.5 * relative_error / 2
    assert tolerance < 0.1  # a fan-in that is wrong by a factor of two moves the log by 0.35
    measured = 0.5 * math.log(variances.mean())
    # The shortcut half of a csp stage is far weaker than the main half, for which the score neglects it.
    assert measured == pytest.approx(entropy, abs=tolerance)
