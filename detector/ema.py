"""Exponential moving average of a network: what is evaluated, saved and deployed.

Letters: m is the momentum, the share that the average keeps of itself in a step.
"""

from __future__ import annotations

import copy
import math
from itertools import chain

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

MOMENTUM = 0.9998
RAMP_STEPS = 2000


def ema_momentum(step: int, *, momentum: float = MOMENTUM, ramp_steps: float = RAMP_STEPS) -> float:
    """m of step 0, 1, ...: `momentum` (1 - exp(-step / ramp_steps)), so that the first step copies the network."""
    return momentum * (1 - math.exp(-step / ramp_steps))


def make_average(net: nn.Module) -> nn.Module:
    """A copy of `net` to average into: in eval mode and without gradients."""
    return copy.deepcopy(net).eval().requires_grad_(False)


def update_average(average: list[Tensor], net: list[Tensor], momentum: float) -> None:
    """average = m average + (1 - m) net, for `floating_tensors` of two networks of the same structure (unwrap DDP).

    Statistics of BatchNorm are among them; integers, such as the number of batches seen, stay as they are.
    """
    get_ema_multi_avg_fn(momentum)(average, net, None)


def floating_tensors(net: nn.Module) -> list[Tensor]:
    """Floating parameters, then floating buffers. Collecting them takes milliseconds: do it once."""
    return [tensor for tensor in chain(net.parameters(), net.buffers()) if tensor.is_floating_point()]
