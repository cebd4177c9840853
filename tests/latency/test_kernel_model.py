"""The kernel model is the same for arrays and scalars and leaves an optimiser nothing to exploit."""

import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.kernels import Kernel, Op, Width
from maenas.latency import kernel_model
from maenas.latency.device import get_device
from maenas.latency.kernel_model import TILE_REUSE, TILES, Constants, kernel_seconds
from maenas.latency.table import shipped_table
from maenas.lowering import lower
from maenas.spec import read_spec

T4 = get_device("t4")
CONSTANTS = shipped_table("t4", "tensorrt10").constants
WIDTHS = st.integers(1, 256).map(lambda n: 8 * n)


def make(op: Any = "conv", cin: Width = 64, cout: Width = 64, side: int = 40, **fields: Any) -> Kernel:
    return Kernel(op, "x", (0,), cin, cout, side, side, side, side, **fields)


def seconds(kernel: Kernel, *, batch: int = 1) -> Any:
    return kernel_seconds(kernel, device=T4, precision="fp16", batch=batch, constants=CONSTANTS)


def obvious_conv_seconds(cin: int, cout: int, side: int, kernel: int) -> float:
    """Dense convolution, fp16, batch 1, written out from the module's docstring."""
    rows, depth, peak = side * side, cin * kernel**2 + 128, T4.fp16_tflops.value * 1e12 if T4.fp16_tflops else 0.0
    busiest = []
    for tile_rows, tile_columns in TILES:
        tiles = -(-rows // tile_rows) * -(-cout // tile_columns)
        area = tile_rows * tile_columns
        busiest.append(-(-tiles // 40) * area * (1 + TILE_REUSE * (tile_rows + tile_columns) / area))
    throughput = 2 * depth * min(busiest) / (peak / 40) / CONSTANTS.compute_efficiency
    chain = depth * CONSTANTS.serial_cycles / 1590e6
    traffic = 2 * (cin * rows + cout * rows + cin * cout * kernel**2) / 320e9 / CONSTANTS.memory_efficiency
    return max(throughput, chain, traffic) + CONSTANTS.launch_s


@given(WIDTHS, WIDTHS, st.sampled_from([10, 20, 40, 80, 160]), st.sampled_from([1, 3, 5]))
def test_a_convolution_costs_what_the_formula_says(cin: int, cout: int, side: int, kernel: int):
    expected = obvious_conv_seconds(cin, cout, side, kernel)
    assert seconds(make(cin=cin, cout=cout, side=side, kernel=kernel)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [7, kernel_model.LOOKUP_SIZE + 1])
@pytest.mark.parametrize("case", ["dense", "residual", "depthwise", "grouped", "mixed", "pool", "concat"])
def test_arrays_equal_scalars(case: str, count: int):
    rng = np.random.default_rng(3)
    cin, cout = 8 * rng.integers(1, 100, count), 8 * rng.integers(1, 100, count)

    def build(a: Width, b: Width) -> Kernel:
        if case in ("pool", "concat"):
            return make("maxpool" if case == "pool" else "concat", a, a)
        if case == "depthwise":
            return make(cin=a, cout=a, kernel=5, groups=a)
        if case == "mixed":  # depthwise where the widths agree with the groups, else two groups
            return make(
                cin=a,
                cout=2 * a,
                kernel=3,
                groups=np.where(a % 16 == 0, a, 2) if np.ndim(a) else (a if a % 16 == 0 else 2),
            )
        return make(
            cin=a, cout=b, kernel=3, groups=4 if case == "grouped" else 1, residual=0 if case == "residual" else None
        )

    together = seconds(build(cin, cout))
    picked = rng.integers(0, count, 7)
    alone = [seconds(build(int(a), int(b))) for a, b in zip(cin[picked], cout[picked], strict=True)]
    assert together.shape == (count,)
    np.testing.assert_allclose(together[picked], alone, rtol=1e-12)


def test_the_host_sets_a_least_time_and_a_concat_costs_its_passes():
    options: Any = {"device": T4, "precision": "fp16", "batch": 1}
    tiny, large = make(cin=8, cout=8, side=4), make(cin=256, cout=256, side=160, kernel=3)
    bound = dataclasses.replace(CONSTANTS, issue_s=1e-4, concat_passes=3.0)
    assert kernel_seconds(tiny, **options, constants=bound) == pytest.approx(1e-4)
    assert kernel_seconds(large, **options, constants=bound) == seconds(large) > 1e-4
    joined = Kernel("concat", "x", (0, 1), 64, 64, 40, 40, 40, 40)
    assert seconds(joined) == 0
    passes = 3 * 2 * 2 * 64 * 40 * 40 / 320e9  # three times in and out, two bytes an element
    assert kernel_seconds(joined, **options, constants=bound) == pytest.approx(passes)
    alone = Kernel("concat", "x", (0,), 64, 64, 40, 40, 40, 40)
    assert kernel_seconds(alone, **options, constants=CONSTANTS) > CONSTANTS.launch_s


def test_widths_broadcast():
    result = seconds(make(cin=np.array([[8], [64]]), cout=np.array([16, 32, 48]), kernel=3))
    assert result.shape == (2, 3)
    assert result[1, 2] == pytest.approx(seconds(make(cin=64, cout=48, kernel=3)))


@settings(max_examples=60)
@given(WIDTHS, WIDTHS, st.sampled_from([20, 40, 80]), st.sampled_from([1, 3]))
def test_wider_deeper_larger_is_never_faster(cin: int, cout: int, side: int, kernel: int):
    base = seconds(make(cin=cin, cout=cout, side=side, kernel=kernel))
    assert base > CONSTANTS.launch_s
    for change in ({"cin": cin + 8}, {"cout": cout + 8}, {"side": 2 * side}, {"kernel": kernel + 2}):
        grown = {"cin": cin, "cout": cout, "side": side, "kernel": kernel} | change
        assert seconds(make(**grown)) >= base
    assert seconds(make(cin=cin, cout=cout, side=side, kernel=kernel), batch=8) >= base


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-s", "damo-yolo-m", "damo-yolo-nano-s"])
def test_every_further_unit_costs_time(name: str):
    spec = read_spec(data_dir("searched_models") / f"{name}.json").detector

    def latency(depths: list[int]) -> float:
        stages = tuple(dataclasses.replace(s, depth=d) for s, d in zip(spec.backbone.stages, depths, strict=True))
        backbone = dataclasses.replace(spec.backbone, stages=stages)
        return sum(seconds(k) for k in lower(dataclasses.replace(spec, backbone=backbone)))

    depths = [stage.depth for stage in spec.backbone.stages]
    for index in range(len(depths)):
        deeper = [d + (i == index) for i, d in enumerate(depths)]
        assert latency(deeper) > latency(depths) + CONSTANTS.launch_s


def test_only_a_concat_of_several_tensors_is_free():
    joined = dataclasses.replace(make("concat"), inputs=(0, 1))
    assert seconds(joined) == 0
    for op in get_args(Op):
        assert seconds(make(op)) > CONSTANTS.launch_s


def test_a_narrow_convolution_is_not_absurdly_cheap():
    """Eight channels instead of sixty-four save less than the 64-fold fewer operations, and pay launch and latency."""
    assert seconds(make(cin=8, cout=8, kernel=3)) > seconds(make(cin=64, cout=64, kernel=3)) / 8


def test_constants_out_of_bounds_are_refused():
    with pytest.raises(MaenasError, match="compute_efficiency is 2"):
        Constants(2.0, 0.5, 1e-6, 10.0)


def test_batch_must_be_positive():
    with pytest.raises(MaenasError, match="batch is 0"):
        seconds(make(), batch=0)
