import copy
from typing import Any

import pytest
import torch
from torch import nn

from detector.ema import ema_momentum, floating_tensors, make_average, update_average


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))


def follow(average: nn.Module, net: nn.Module, momentum: float) -> None:
    update_average(floating_tensors(average), floating_tensors(net), momentum)


def test_momentum_is_the_published_one(shared_golden: Any) -> None:
    for step, momentum in shared_golden("schedules.json")["ema_momentum"]["values"]:
        assert ema_momentum(step) == pytest.approx(momentum, rel=1e-12, abs=1e-18)


def test_average_follows_the_published_run(shared_golden: Any) -> None:
    schedules = shared_golden("schedules.json")
    net = small_net()
    nn.init.constant_(net[0].weight, schedules["ema_run_initial_weight"])
    average = make_average(net)
    for row in schedules["ema_run"]:
        nn.init.constant_(net[0].weight, row["student_value"])
        nn.init.constant_(net[1].running_mean, row["student_running_mean"])
        net[1].num_batches_tracked += 1
        follow(average, net, ema_momentum(row["iter"]))
        assert average[0].weight.flatten().tolist() == pytest.approx([row["ema_weight"]] * 2, rel=1e-6)
        assert average[1].running_mean.tolist() == pytest.approx([row["ema_running_mean"]] * 2, rel=1e-6)
        assert average[1].num_batches_tracked == row["ema_num_batches_tracked"]


def test_the_first_step_copies_the_network_exactly() -> None:
    net = small_net()
    average = make_average(net)
    net(torch.rand(2, 1, 3, 3))
    nn.init.normal_(net[0].weight)
    follow(average, net, ema_momentum(0))
    for name, value in net.state_dict().items():
        assert torch.equal(average.state_dict()[name], value) == (name != "1.num_batches_tracked"), name


def test_average_is_apart_from_the_network_and_not_trained() -> None:
    net = small_net()
    before = copy.deepcopy(net.state_dict())
    average = make_average(net)
    assert net.training
    assert not any(module.training for module in average.modules())
    assert not any(parameter.requires_grad for parameter in average.parameters())
    nn.init.zeros_(average[0].weight)
    follow(average, net, 0.5)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
