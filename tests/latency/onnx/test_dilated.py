"""Taps of dilated convolutions outside of the image, and what a CPU's prediction makes of them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maenas.errors import MaenasError
from maenas.latency.onnx.lower import Lowered, fuse
from maenas.latency.onnx.node_graph import read_json
from maenas.latency.onnx.predict import predict_graph
from maenas.latency.predictor import load_predictor

CPUS = ["cpu-epyc-zen4-onnxruntime-t1-fp32-b1", "cpu-epyc-zen4-openvino-t1-fp32-b1"]


def convolution(side: int, out: int, taps: int = 3, groups: int = 1, channels: int = 16, **attributes) -> Lowered:
    shapes = [[0, [1, channels, side, side]], [9, [channels, channels // groups, taps, taps]]]
    row = {"op": "Conv", "in": shapes, "out": [[1, [1, channels, out, out]]], "attr": {"group": groups, **attributes}}
    return fuse(read_json({"nodes": [row]}))


@given(
    side=st.integers(1, 9),
    taps=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(2, 5),
    before=st.integers(0, 6),
    after=st.integers(0, 6),
)
def test_the_share_is_that_of_a_count(
    side: int, taps: int, stride: int, dilation: int, before: int, after: int
) -> None:
    out = (side + before + after - (taps - 1) * dilation - 1) // stride + 1
    if out < 1:
        return
    places = [o * stride - before + t * dilation for o, t in itertools.product(range(out), range(taps))]
    share = sum(0 <= place < side for place in places) / len(places)
    pads, apart = [before, before, after, after], [dilation, dilation]
    lowered = convolution(side, out, taps, pads=pads, dilations=apart, strides=[stride, stride])
    assert lowered.inside.get(0, 1.0) == pytest.approx(share**2)


def test_padding_that_the_runtime_finds_is_halved() -> None:
    explicit = convolution(16, 16, pads=[4, 4, 4, 4], dilations=[4, 4])
    assert convolution(16, 16, auto_pad="SAME_UPPER", dilations=[4, 4]).inside == explicit.inside
    assert convolution(8, 8, auto_pad="VALID", taps=1, dilations=[4, 4]).inside == {}


@pytest.mark.parametrize("table", CPUS)
def test_a_cpu_computes_no_taps_in_the_padding_and_a_gpu_does(table: str) -> None:
    far = convolution(16, 16, channels=256, pads=[36] * 4, dilations=[36, 36])
    near = convolution(16, 16, channels=256, pads=[1] * 4)
    cpu, gpu = load_predictor(table), load_predictor("t4")
    assert far.inside == {0: pytest.approx(1 / 9)}
    assert predict_graph(far, cpu).prediction.seconds < 0.3 * predict_graph(near, cpu).prediction.seconds
    assert predict_graph(far, cpu).lowered.kernels[0].name.endswith("11% of its taps in the image")
    assert predict_graph(far, gpu).prediction.seconds == predict_graph(near, gpu).prediction.seconds
    grouped = convolution(16, 16, groups=16, pads=[36] * 4, dilations=[36, 36])
    plain = convolution(16, 16, groups=16, pads=[1] * 4)
    assert predict_graph(grouped, cpu).prediction.seconds == predict_graph(plain, cpu).prediction.seconds


@pytest.mark.parametrize("dilations", [[0, 2], [2], "2", [2, 2.5]])
def test_dilations_that_are_none_are_refused(dilations: object) -> None:
    with pytest.raises(MaenasError, match="dilations is"):
        convolution(16, 16, dilations=dilations)
