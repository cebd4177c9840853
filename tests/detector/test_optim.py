import itertools
from typing import Any

import pytest
import torch
from torch import nn

from detector.model.net import DetectorNet
from detector.optim import lr_at, make_optimizer, parameter_groups, set_lr
from maenas.spec import published_specs

PUBLISHED = {"total_steps": 138_000, "warmup_steps": 2300, "flat_steps": 7360}


# Learning rate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "base_lr"), [("lr", 0.04), ("lr_boundaries", 0.04), ("lr_nano_base0.001/64", 0.004)])
def test_rate_is_the_published_one(key: str, base_lr: float, shared_golden: Any) -> None:
    for step, lr in shared_golden("schedules.json")[key]:
        assert lr_at(step, base_lr=base_lr, **PUBLISHED) == pytest.approx(lr, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("warmup_steps", [0, 1, 30, 100])
@pytest.mark.parametrize("flat_steps", [0, 1, 40, 100])
def test_rate_rises_falls_and_stays_for_any_lengths(warmup_steps: int, flat_steps: int) -> None:
    lrs = [
        lr_at(step, base_lr=2.0, total_steps=100, warmup_steps=warmup_steps, flat_steps=flat_steps)
        for step in range(101)
    ]
    top = min(warmup_steps, 100)
    assert all(a <= b for a, b in itertools.pairwise(lrs[:top]))
    assert all(a >= b for a, b in itertools.pairwise(lrs[top:]))
    if warmup_steps < 100:
        assert lrs[-1] == pytest.approx(0.1)
    if warmup_steps + flat_steps < 100:
        assert max(lrs) == 2.0
        assert set(lrs[100 - flat_steps :]) == {lrs[-1]}


# Parameter groups ----------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.BatchNorm2d(4), Scale())


def test_only_biases_and_normalisation_do_not_decay() -> None:
    net = small_net()
    decay, rest = parameter_groups(net, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert [names[id(p)] for p in decay["params"]] == ["0.weight", "3.scale"]
    assert [names[id(p)] for p in rest["params"]] == ["0.bias", "2.weight", "2.bias"]
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(("model", "file"), [("T", "damo-yolo-t"), ("Ns", "damo-yolo-nano-s")])
def test_groups_of_the_published_models_are_the_published_ones(model: str, file: str, shared_golden: Any) -> None:
    published = shared_golden("optimizer_groups.json")[model]
    with torch.device("meta"):
        net = DetectorNet(published_specs()[file])
    groups = parameter_groups(net, weight_decay=0.1)
    sizes = [(len(group["params"]), sum(p.numel() for p in group["params"])) for group in groups]
    assert sizes == [(published[f"{key}_count"], published[f"{key}_numel"]) for key in ("decay", "no_decay")]


def test_frozen_parameters_are_left_out_and_further_modules_come_in() -> None:
    net, aligner = small_net(), nn.Conv2d(4, 8, 1)
    net[0].requires_grad_(False)
    counts = [len(group["params"]) for group in parameter_groups(net, aligner, weight_decay=0.1)]
    assert counts == [2, 3]


# Optimizers ----------------------------------------------------------------------------------------------------------


def train(net: nn.Sequential, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    images, factors = torch.randn((2, 3, 5, 5), generator=random), torch.randn((2, 4, 3, 3), generator=random)
    for step in range(3):
        set_lr(optimizer, 0.1 / (step + 1))
        optimizer.zero_grad()
        ((net[:3](images) * factors).sum() + net[3].scale).backward()
        optimizer.step()
    return [parameter.detach() for parameter in net.parameters()]


def test_sgd_is_torchs_nesterov_sgd() -> None:
    plain = small_net()
    expected = train(
        plain, torch.optim.SGD(parameter_groups(plain, weight_decay=0.05), lr=1.0, momentum=0.8, nesterov=True)
    )
    net = small_net()
    trained = train(net, make_optimizer("sgd", net, lr=1.0, weight_decay=0.05, momentum=0.8))
    torch.testing.assert_close(trained, expected)


def test_adamw_is_torchs_adamw() -> None:
    plain = small_net()
    expected = train(plain, torch.optim.AdamW(parameter_groups(plain, weight_decay=0.05), lr=1.0))
    net = small_net()
    trained = train(net, make_optimizer("adamw", net, lr=1.0, weight_decay=0.05))
    torch.testing.assert_close(trained, expected)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_optimizer_settings_are_the_published_ones(kind: Any, shared_golden: Any) -> None:
    published = shared_golden("optimizer_groups.json")["T" if kind == "sgd" else "Ns"]["defaults"]
    net = small_net()
    optimizer = make_optimizer(kind, net, lr=published["lr"], weight_decay=published["weight_decay"])
    for group in optimizer.param_groups:
        ours = {key: list(group[key]) if key == "betas" else group[key] for key in published if key in group}
        assert ours | {"weight_decay": 0} == published | {"weight_decay": 0}
