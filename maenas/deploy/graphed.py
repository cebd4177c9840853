"""Captured CUDA graphs: launching a network's kernels once and replaying them, where a CPU cannot launch in time.

Nothing here imports torch, so that profiler and detector share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WARM_UPS = 3  # runs before a capture
MOST_SHAPES = 4  # captured at once: each holds the memory of its run


@dataclass(frozen=True)
class Captured:
    """A graph: `replay` enqueues it on the current stream and rewrites `results`, which stay where they are."""

    replay: Callable[[], None]
    results: Any


def capture(torch: Any, run: Callable[[], Any], stream: Any) -> Captured:
    """A graph of what `run` launches, captured on `stream` after some runs. Raises `RuntimeError` as CUDA does.

    In these runs cuDNN tries its algorithms and takes the fastest.
    """
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)  # where weights and inputs are still being written
    with torch.inference_mode(), torch.cuda.stream(stream), _tried(torch.backends.cudnn):
        for _ in range(WARM_UPS):
            run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            results = run()
    current.wait_stream(stream)
    return Captured(graph.replay, results)


@contextmanager
def _tried(cudnn: Any) -> Iterator[None]:
    before = cudnn.benchmark
    cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.benchmark = before


class GraphedNetwork:
    """A network of one tensor that gives several, replayed from a graph for each of at most 4 shapes of its input.

    Where there is no CUDA device, for further shapes, and for those that CUDA refuses to capture, it just calls the
    network. Every call returns tensors of its own. `make` is for tests.
    """

    def __init__(self, torch: Any, network: Callable[[Any], tuple[Any, ...]], make: Any = None) -> None:
        self._torch, self._network = torch, network
        self._make: Callable[[Callable[[], Any], Any], Captured] = make or self._capture
        self._graphs: dict[Any, tuple[Any, Captured] | None] = {}

    def __call__(self, images: Any) -> tuple[Any, ...]:
        """The network's outputs for `images`, on any device."""
        if images.device.type != "cuda" and self._make == self._capture:
            return self._network(images)
        key = (tuple(images.shape), images.dtype, images.device)
        with self._torch.inference_mode():
            if key not in self._graphs and len(self._graphs) < MOST_SHAPES:
                self._graphs[key] = self._graph(images)
            graph = self._graphs.get(key)
            if graph is None:
                return self._network(images)
            static, captured = graph
            static.copy_(images)
            captured.replay()
            return tuple(result.clone() for result in captured.results)

    def _graph(self, images: Any) -> tuple[Any, Captured] | None:
        """An input that stays in place, and the graph that reads it; None where it cannot be captured."""
        static = images.clone()
        try:
            return static, self._make(lambda: self._network(static), static.device)
        except RuntimeError:  # torch has no other class for what CUDA refuses
            return None

    def _capture(self, run: Callable[[], Any], device: Any) -> Captured:
        with self._torch.cuda.device(device):
            return capture(self._torch, run, self._torch.cuda.Stream(device))
