"""Zero-shot scores of a backbone, read off its deployed kernels in closed form.

Notation: a resolution stage i gathers the backbone stages whose outputs have the same side, so there are five of
them, at 1/2 to 1/32 of the input. H_i is the entropy of the main path from the image to the end of stage i, D_i its
number of convolutions, c_i the width and r_i^2 = height * width of its output.

A convolution whose outputs sum f terms of unit variance, with weights N(0, 1) and batch norm removed, multiplies the
signal's standard deviation by sqrt(f); its entropy is ln sqrt(f). H_i is the sum over the main path; residual links,
projections and SPP are left out. `docs/lab/search.md` derives what that means for csp and mobile blocks.

- MAE (MAE-DET, arXiv 2111.13336, as DAMO-YOLO weights it): sum_i w_i (H_i + ln c_i), w = (0, 0, 1, 1, 16).
- DeepMAD (arXiv 2303.02165, equation 13): sum_i w_i H_i (ln c_i + ln r_i^2), w = (1, 1, 1, 1, 8).
- Effectiveness (the same, section 3.3): rho = max_i D_i exp(-2 H_i / D_i), depth over the geometric mean fan-in.
- MAE with the flat weights (1, 1, 1, 1, 1).
- Power: sum F^p over the main path, F the FLOPs of a convolution in units of 1e9. With n equal ones it is F_total^p
  n^(1 - p): p trades operations against depth.
- Balanced: sum_s ln(sum over the convolutions of s of sqrt(F)) / n_s - 0.03 D, over the backbone stages s behind the
  stem, n_s of them at one resolution. A further unit of a stage counts for less, and every layer has a price.
- FLOPs, the baseline every proxy has to beat.

`docs/score.md` says what trained networks say about each.

Arrays are `[..., 5]` over resolution stages, any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maenas.cost import kernel_flops, kernel_layers
from maenas.kernels import Kernel
from maenas.score_names import ScoreName

Array = NDArray[np.float64]

MAE_WEIGHTS = (0.0, 0.0, 1.0, 1.0, 16.0)
FLAT_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0)
DEEPMAD_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 8.0)
POWERS: dict[ScoreName, float] = {"power-0.5": 0.5, "power-0.6": 0.6, "power-0.75": 0.75}
POWER_UNIT = 1e9  # FLOPs in which the power scores count
BALANCED_POWER = 0.5
LAYER_PRICE = 0.03  # of the balanced score, in nats


@dataclass(frozen=True)
class ScoreTerms:
    """What every score is computed from; see the module's notation. Cumulative over resolution stages."""

    entropy: Array  # [..., 5]  H_i
    layers: Array  # [..., 5]  D_i
    log_width: Array  # [..., 5]  ln c_i
    log_area: Array  # [5]       ln r_i^2
    flops: Array  # [...]     backbone FLOPs


def mae_score(terms: ScoreTerms, weights: Sequence[float] = MAE_WEIGHTS) -> Array:
    """MAE score, `[...]`."""
    return (terms.entropy + terms.log_width) @ np.asarray(weights, dtype=np.float64)


def deepmad_score(terms: ScoreTerms, weights: Sequence[float] = DEEPMAD_WEIGHTS) -> Array:
    """DeepMAD score, `[...]`."""
    return (terms.entropy * (terms.log_width + terms.log_area)) @ np.asarray(weights, dtype=np.float64)


def effectiveness(terms: ScoreTerms) -> Array:
    """DeepMAD's rho, `[...]`: small for wide shallow networks, large for narrow deep ones."""
    return np.max(terms.layers * np.exp(-2 * terms.entropy / terms.layers), axis=-1)


def kernel_entropy(k: Kernel) -> Array:
    """ln sqrt(fan-in) of a main-path convolution, 0 for every other kernel."""
    fan_in = np.asarray(k.signal_fan_in)
    return 0.5 * np.log(np.maximum(fan_in, 1))


def score_terms(kernels: Sequence[Kernel]) -> ScoreTerms:
    """Terms of one lowered network (a whole detector or its backbone), without leading dimensions."""
    main = [k for k in kernels if kernel_layers(k)]
    last = {k.stage: k for k in main}
    sides = sorted({(k.out_height, k.out_width) for k in last.values()}, reverse=True)
    stage_side = {stage: (k.out_height, k.out_width) for stage, k in last.items()}
    index = np.array([sides.index(stage_side[k.stage]) for k in main])
    entropy, layers = np.zeros(len(sides)), np.zeros(len(sides))
    np.add.at(entropy, index, [kernel_entropy(k) for k in main])
    np.add.at(layers, index, 1.0)
    widths = {stage_side[stage]: k.out_channels for stage, k in sorted(last.items())}
    return ScoreTerms(
        entropy=np.cumsum(entropy),
        layers=np.cumsum(layers),
        log_width=np.log([float(widths[side]) for side in sides]),
        log_area=np.log([float(h * w) for h, w in sides]),
        flops=np.float64(sum(kernel_flops(k) for k in kernels if k.stage >= 0)),  # type: ignore[arg-type]
    )


def kernel_power(k: Kernel, power: float, unit: float = 1.0) -> Array:
    """(FLOPs / unit)^power of a main-path convolution, 0 for every other kernel."""
    if not kernel_layers(k):
        return 0.0 * np.asarray(k.out_channels)
    return (np.asarray(kernel_flops(k), dtype=np.float64) / unit) ** power


def power_score(kernels: Sequence[Kernel], power: float) -> float:
    """Sum over the main path of F^power, F in units of 1e9 FLOPs."""
    return float(sum(kernel_power(k, power, POWER_UNIT) for k in kernels))


def stage_shares(sides: Sequence[object]) -> tuple[float, ...]:
    """1 / n for each stage behind the stem, n the number of them with the same side of output."""
    return tuple(1 / sum(other == side for other in sides) for side in sides)


def balanced_score(kernels: Sequence[Kernel], price: float = LAYER_PRICE, power: float = BALANCED_POWER) -> float:
    """Balanced score in nats; the stem (stage 0) has a price only."""
    main = [k for k in kernels if kernel_layers(k)]
    stages = sorted({k.stage for k in main} - {0})
    members = [[k for k in main if k.stage == stage] for stage in stages]
    shares = stage_shares([(row[-1].out_height, row[-1].out_width) for row in members])
    logs = (np.log(sum(kernel_power(k, power) for k in row)) for row in members)
    return float(sum(share * log for share, log in zip(shares, logs, strict=True))) - price * len(main)


def score_of(name: ScoreName, kernels: Sequence[Kernel], mae_weights: Sequence[float] = MAE_WEIGHTS) -> float:
    """The score called `name` of one lowered network; `mae_weights` are the space's, for `mae`."""
    if name in POWERS:
        return power_score(kernels, POWERS[name])
    if name == "balanced":
        return balanced_score(kernels)
    terms = score_terms(kernels)
    if name == "flops":
        return float(terms.flops)
    if name == "deepmad":
        return float(deepmad_score(terms))
    return float(mae_score(terms, FLAT_WEIGHTS if name == "mae-flat" else mae_weights))
