"""Muon against PyTorch's own, against AdamW, and against singular values."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detector.muon import Muon, is_matrix, orthogonal
from detector.optim import make_optimizer, parameter_groups, set_lr

DECAY = 0.05


def net_of(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(*layers)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def weight(layer: nn.Module) -> torch.Tensor:
    """A copy of its weights."""
    parameter = layer.weight
    assert isinstance(parameter, nn.Parameter)
    return parameter.detach().clone()


def run(net: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int = 4) -> None:
    """Gradients of decreasing size in random directions, the same for every net of the same parameters."""
    random = torch.Generator().manual_seed(1)
    for step in range(steps):
        set_lr(optimizer, 0.1 / (step + 1))
        for parameter in net.parameters():
            parameter.grad = (torch.randn(parameter.numel(), generator=random) * 10.0**-step).view(parameter.shape)
        optimizer.step()


@given(st.tuples(st.integers(1, 4), st.integers(2, 12), st.integers(2, 40)), st.integers(0, 10_000), st.floats(-6, 6))
@settings(max_examples=50, deadline=None)
def test_singular_values_become_one_and_directions_stay(shape: tuple[int, int, int], seed: int, power: float) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10**power
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonal(matrices)
    inner = (u.mT @ found @ v.mT).diagonal(dim1=1, dim2=2)  # singular values in the old directions
    torch.testing.assert_close(u @ torch.diag_embed(inner) @ v, found, atol=2e-3, rtol=0)
    large = s > 0.05 * s.norm(dim=1, keepdim=True)
    assert ((inner > 0.6) & (inner < 1.3))[large].all()


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_a_matrix_moves_as_with_pytorchs_own(shape: tuple[int, int]) -> None:
    """Theirs computes in bf16, which is what the tolerance is for."""
    plain, net = net_of(nn.Linear(*shape, bias=False)), net_of(nn.Conv2d(*shape, 1, bias=False))
    start = weight(plain[0])
    run(plain, torch.optim.Muon(plain.parameters(), weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"))
    run(net, make_optimizer("muon", net, lr=0.1, weight_decay=DECAY))
    moved, expected = weight(net[0]).flatten(1) - start, weight(plain[0]) - start
    assert (moved - expected).norm() < 0.03 * expected.norm()


def test_everything_else_moves_as_with_adamw() -> None:
    layers = [nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)]  # depthwise, one channel out
    plain, net = net_of(*layers), net_of(*[nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)])
    assert not any(map(is_matrix, net.parameters()))
    run(plain, torch.optim.AdamW(parameter_groups(plain, weight_decay=DECAY), lr=1.0))
    run(net, make_optimizer("muon", net, lr=1.0, weight_decay=DECAY))
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_kernels_of_one_shape_do_not_mix_and_the_layout_is_nothing_to_it() -> None:
    """Three convolutions, two of one shape, against each of them alone."""
    kinds = [(4, 6, 3), (4, 6, 3), (6, 4, 3)]
    together = net_of(*[nn.Conv2d(*kind, bias=False) for kind in kinds]).to(memory_format=torch.channels_last)
    alone = net_of(*[nn.Conv2d(*kind, bias=False) for kind in kinds])
    random = torch.Generator().manual_seed(1)
    pairs = list(zip(together.parameters(), alone.parameters(), strict=True))
    for one, other in pairs:
        other.grad = torch.randn(other.shape, generator=random)
        one.grad = other.grad.to(memory_format=torch.channels_last)
    make_optimizer("muon", together, lr=0.1, weight_decay=DECAY).step()
    for layer, (one, other) in zip(alone, pairs, strict=True):
        make_optimizer("muon", layer, lr=0.1, weight_decay=DECAY).step()
        torch.testing.assert_close(one, other)
        assert one.is_contiguous(memory_format=torch.channels_last)


def test_a_stored_state_goes_on_to_the_bit() -> None:
    layers = [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)]
    whole = net_of(*layers)
    first = make_optimizer("muon", whole, lr=0.1, weight_decay=DECAY)
    run(whole, first)
    other = net_of(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    other.load_state_dict(whole.state_dict())
    second = make_optimizer("muon", other, lr=0.1, weight_decay=DECAY)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(whole, first)
    run(other, second)
    for one, two in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_parameter_without_gradient_stays() -> None:
    net = net_of(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 4, 3))
    before = weight(net[1])
    net[0](torch.ones(1, 4, 3, 3)).sum().backward()
    optimizer = make_optimizer("muon", net, lr=0.1, weight_decay=DECAY)
    assert isinstance(optimizer, Muon)
    optimizer.step()
    assert torch.equal(weight(net[1]), before)
