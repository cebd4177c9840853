"""Muon: steps of matrices are made orthogonal, everything else follows AdamW.

A gradient of a convolution is nearly of low rank: a few directions grow, the others hardly learn. Muon gives every
direction of the averaged gradient the same length (Jordan et al., "Muon", 2024). Steps are then as long as those of
AdamW (Liu et al., arXiv 2502.16982, equation 4), so that rate and decay need no other values.

PyTorch's own takes parameters of two dimensions only. Legend: O, I channels out and in; r, c rows and columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

MOMENTUM: Final = 0.95  # Nesterov's
COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)  # of a x + b x^3 + c x^5, which takes 0..1 towards 1 quickly
ITERATIONS: Final = 5
ADAMW_LENGTH: Final = 0.2  # root mean square of AdamW's steps at rate 1


class Muon(Optimizer):
    """`groups` as for AdamW, each with a `weight_decay`; convolutions that mix channels are the matrices `[O, I k k]`.

    AdamW is not fused, so that a scaler of fp16 hands over unscaled gradients.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float) -> None:
        parts = []
        for group in groups:
            for matrix in (True, False):
                chosen = [p for p in group["params"] if is_matrix(p) == matrix]
                parts.append({**group, "params": chosen, "matrix": matrix})
        super().__init__([part for part in parts if part["params"]], {"lr": lr})
        self._share()

    def _share(self) -> None:
        """AdamW for what is no matrix, with the groups and the state of this optimizer."""
        others = [group for group in self.param_groups if not group["matrix"]]
        self._adamw = AdamW(others, fused=False) if others else None
        if self._adamw is not None:
            self._adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Takes no closure."""
        assert closure is None
        if self._adamw is not None:
            self._adamw.step()
        for group in self.param_groups:
            if group["matrix"]:
                self._step_matrices(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: defaultdict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape[0], parameter[0].numel()].append(parameter)
        for shape, parameters in by_shape.items():  # those of one shape together: many small products take long
            steps = orthogonal(torch.stack([self._ahead(parameter).flatten(1) for parameter in parameters]))
            length = ADAMW_LENGTH * math.sqrt(max(shape))
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.view(parameter.shape), alpha=-group["lr"] * length)

    def _ahead(self, parameter: Tensor) -> Tensor:
        """The gradient, averaged over the steps and a step ahead."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["average"] = torch.zeros_like(parameter)
        state["average"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["average"], MOMENTUM)


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter mixes several channels into several; a depthwise convolution does not."""
    return parameter.ndim == 4 and min(parameter.shape[:2]) > 1


def orthogonal(matrices: Tensor) -> Tensor:
    """U V^T of the singular value decompositions U S V^T of `matrices` `[n, r, c]`, nearly.

    Singular values come to lie in 0.7 to 1.2, but for very small ones (five steps of a Newton-Schulz iteration).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
