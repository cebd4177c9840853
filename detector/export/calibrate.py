"""How far the inputs of convolutions, and residuals, reach on real images: the ranges that int8 has to represent.

Legend: B batch, H/W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from torch import Tensor

from detector.choices import Method
from detector.runtime.onnx import OnnxSession
from maenas.deploy.quantize import tensors_to_quantize
from maenas.errors import MaenasError

BINS = 2048
PERCENTILE = 99.99
LEVELS = 128  # magnitudes of int8, zero among them
MOST_CLIPPED = 0.01  # of the values, by the entropy range
STEP = 8  # bins between the ranges that the entropy is computed for
EMPTY = 1e-4  # what a level without values counts, so that clipping into it costs much, but not everything


def calibrate(model: onnx.ModelProto, images: Sequence[Tensor], method: Method) -> dict[str, float]:
    """The magnitude up to which each of `tensors_to_quantize` is to be represented, by its name.

    `model` is fp32 and `images` are batches `[B, 3, H, W]` as it takes them; it sees each of them twice. `minmax`
    represents everything, `percentile` all but the largest 0.01 % of the values, `entropy` what `entropy_range` says.
    Raises `MaenasError` where there is no image, or the network gives NaN or infinity for one.
    """
    if not images:
        raise MaenasError("there is no image to calibrate on")
    largest: dict[str, float] = {}
    session = _observed(model)
    for batch in images:
        for name, values in _inputs(session, batch).items():
            largest[name] = max(largest.get(name, 0.0), float(values.abs().max()))
    if not np.isfinite(list(largest.values())).all():
        raise MaenasError("the network gives NaN or infinity on the calibration images: check the weights")
    if method == "minmax":
        return largest
    counts = {name: np.zeros(BINS) for name in largest}
    for batch in images:
        for name, values in _inputs(session, batch).items():
            counts[name] += torch.histc(values.abs(), BINS, 0, largest[name] or 1.0).double().numpy()
    choose = {"percentile": percentile_range, "entropy": entropy_range}[method]
    return {name: choose(counts[name], largest[name]) for name in largest}


def percentile_range(counts: np.ndarray, largest: float) -> float:
    """The magnitude that 99.99 % of the values do not exceed; `counts` are of equal bins of magnitudes to `largest`."""
    return _bins_holding(counts, PERCENTILE / 100) / len(counts) * largest


def entropy_range(counts: np.ndarray, largest: float) -> float:
    """The range that loses the least information when its values take 128 levels in place of the bins of `counts`.

    The loss is the Kullback-Leibler divergence of the quantised from the clipped distribution (S. Migacz, "8-bit
    inference with TensorRT", GTC 2017). Zeros cost nothing in any range: their bin counts as its neighbour does.

    At most 1 % of the values is clipped: the divergence does not see values that lie far from zero (bright pixels)
    all fall into the last level.
    """
    fewest = max(LEVELS, _bins_holding(counts, 1 - MOST_CLIPPED))
    counts = counts.copy()
    counts[0] = counts[1]
    ends = [*range(fewest, len(counts), STEP), len(counts)]
    divergences = [_divergence(counts, end) for end in ends]
    return ends[int(np.argmin(divergences))] / len(counts) * largest


def _bins_holding(counts: np.ndarray, share: float) -> int:
    """How many of the first bins hold this share of the values, at least."""
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum())) + 1


def _divergence(counts: np.ndarray, end: int) -> float:
    """Of 128 levels over the first `end` bins from those bins, what lies beyond being clipped into the last one."""
    clipped = counts[:end].copy()
    clipped[-1] += counts[end:].sum()
    level = np.arange(end) * LEVELS // end  # [end]
    filled = counts[:end] > 0
    sums = np.bincount(level, counts[:end], LEVELS)
    quantised = (sums / np.maximum(np.bincount(level, filled, LEVELS), 1))[level] * filled
    present = clipped > 0
    if not present.any():
        return 0.0
    quantised = np.maximum(quantised, EMPTY)[present]
    p, q = clipped[present] / clipped.sum(), quantised / quantised.sum()
    return float((p * np.log(p / q)).sum())


def _observed(model: onnx.ModelProto) -> OnnxSession:
    """The model with what is to be quantised as outputs."""
    copy = onnx.shape_inference.infer_shapes(model)
    values = {value.name: value for value in copy.graph.value_info}
    del copy.graph.output[:]
    copy.graph.output.extend(
        values[name] for name in tensors_to_quantize(model) if name in values
    )  # not the image itself
    return OnnxSession(copy.SerializeToString(), torch.device("cpu"), where="the model to calibrate")


def _inputs(session: OnnxSession, batch: Tensor) -> dict[str, Tensor]:
    return {"image": batch, **session(batch)}
