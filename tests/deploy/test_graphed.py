"""A captured network computes what the network computes. On a CPU a stand-in for the graph repeats the run."""

from collections.abc import Callable
from typing import Any

import pytest

from maenas.deploy.graphed import MOST_SHAPES, Captured, GraphedNetwork

torch = pytest.importorskip("torch")


class Network:
    """Scores and boxes of a sort; counts how often Python calls it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Any) -> tuple[Any, Any]:
        self.calls += 1
        return images.mean(dim=1), 2 * images


def repeating(run: Callable[[], Any], device: Any) -> Captured:
    """As a graph does: same inputs in place, results rewritten in place."""
    results = run()

    def replay() -> None:
        for place, value in zip(results, run(), strict=True):
            place.copy_(value)

    return Captured(replay, results)


def refusing(run: Callable[[], Any], device: Any) -> Captured:
    run()
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


def images(batch: int, seed: int) -> Any:
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("make", [None, repeating, refusing])
def test_every_call_gives_what_the_network_gives_and_keeps_it(make: Any) -> None:
    graphed, plain = GraphedNetwork(torch, Network(), make), Network()
    inputs = [images(batch, seed) for seed, batch in enumerate((1, 2, 1, 3, 2, 4, 5, 6, 5, 1))]
    found = [graphed(x) for x in inputs]  # all kept to the end: no call may overwrite another's results
    for x, outputs in zip(inputs, found, strict=True):
        for one, two in zip(outputs, plain(x), strict=True):
            assert torch.equal(one, two)


def test_at_most_four_shapes_are_captured_and_each_once() -> None:
    made = []

    def make(run: Callable[[], Any], device: Any) -> Captured:
        made.append(device)
        return repeating(run, device)

    graphed = GraphedNetwork(torch, Network(), make)
    for batch in (1, 2, 3, 4, 5, 6, 1, 2, 5):
        graphed(images(batch, 0))
    assert len(made) == MOST_SHAPES == 4


def test_what_cannot_be_captured_is_tried_once() -> None:
    network = Network()
    graphed = GraphedNetwork(torch, network, refusing)
    for _ in range(3):
        graphed(images(1, 0))
    assert network.calls == 4


def test_results_may_be_used_outside_of_inference_mode() -> None:
    graphed = GraphedNetwork(torch, Network(), repeating)
    graphed(images(1, 0))
    with torch.no_grad():
        scores, _ = graphed(images(1, 1))
        assert (scores * torch.ones_like(scores)).shape == scores.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_on_cuda_equals_eager() -> None:
    network = torch.nn.Conv2d(3, 4, 3).cuda()
    graphed = GraphedNetwork(torch, lambda x: (network(x),))
    for seed, batch in enumerate((1, 2, 1, 2)):
        x = images(batch, seed).cuda()
        with torch.inference_mode():
            torch.testing.assert_close(graphed(x)[0], network(x))
