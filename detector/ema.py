"""Exponential moving average of a network: what is evaluated, saved and deployed.

Letters: m is the momentum, the share that the average keeps of itself in a step.
"""

from __future__ import annotations

import copy
import math

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


def update_average(average: nn.Module, net: nn.Module, momentum: float) -> None:
    """average = m average + (1 - m) net, for every floating tensor of the state, statistics of BatchNorm included.

    Integers, such as the number of batches seen, stay as they are. Both have the same structure (unwrap DDP).
    """
    get_ema_multi_avg_fn(momentum)(floating_tensors(average), floating_tensors(net), None)


def floating_tensors(net: nn.Module) -> list[Tensor]:
    """Floating parameters and buffers of the state dict, in its order."""
    return [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
