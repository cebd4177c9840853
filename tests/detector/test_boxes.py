"""Priors and boxes against one-by-one computations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.boxes import box_frame, decode_boxes, expected_bin, make_priors


def test_the_priors_are_the_corners_of_the_cells_level_after_level_and_row_after_row() -> None:
    height, width = 64, 96
    slowly = [
        [column * stride, row * stride, stride]
        for stride in (8, 16, 32)
        for row in range(height // stride)
        for column in range(width // stride)
    ]
    assert make_priors(height, width).tolist() == slowly


def test_the_priors_are_the_released_ones(golden_arrays: Any) -> None:
    np.testing.assert_array_equal(make_priors(256, 256).numpy(), golden_arrays("priors_256")["priors"][:, :3])


@pytest.mark.parametrize("side", [32, 416, 640])
def test_there_is_a_prior_for_every_position_of_every_level(side: int) -> None:
    assert make_priors(side, side).shape == (21 * side**2 // 1024, 3)  # 1/64 + 1/256 + 1/1024


@settings(max_examples=30)
@given(reg_max=st.integers(1, 20), seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 50))
def test_boxes_are_the_mean_distances_from_their_priors(reg_max: int, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    priors = make_priors(32, 64)
    bins = spread * rng.standard_normal((2, len(priors), 4, reg_max + 1))
    found = decode_boxes(torch.from_numpy(bins.reshape(2, len(priors), -1)).float(), priors, reg_max)
    for image, prior in np.ndindex(2, len(priors)):
        x, y, stride = priors[prior].tolist()
        sides = []
        for logits in bins[image, prior]:
            weights = [math.exp(value - max(logits)) for value in logits]
            sides.append(stride * sum(n * w for n, w in enumerate(weights)) / sum(weights))
        left, top, right, bottom = sides
        expected = [x - left, y - top, x + right, y + bottom]
        np.testing.assert_allclose(found[image, prior].numpy(), expected, atol=1e-4 * stride * reg_max)


def test_the_mean_is_float32_also_of_half_precision_logits() -> None:
    logits = torch.randn(3, 17, generator=torch.Generator().manual_seed(0)).half()
    assert expected_bin(logits).dtype == torch.float32
    torch.testing.assert_close(expected_bin(logits), expected_bin(logits.float()), rtol=0, atol=0)
    wanted = expected_bin(logits)
    with torch.autocast("cpu", torch.bfloat16):  # as evaluations in training have it
        assert torch.equal(expected_bin(logits), wanted)


def test_the_frame_puts_a_box_of_no_distance_on_its_prior() -> None:
    priors = make_priors(32, 32)
    origins, steps = box_frame(priors)
    assert torch.equal(origins, torch.cat([priors[:, :2], priors[:, :2]], dim=1))
    assert torch.equal(steps.abs(), priors[:, 2:].expand(-1, 4))
