"""The order of a graph's nodes: runtimes run files whose nodes are listed in any."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any


def sort_nodes(graph: Any) -> None:
    """List the nodes of an ONNX graph as they run, in place; converters append some of them at the end."""
    nodes = list(graph.node)
    reads = [[*node.input, *(name for entry in within(node) for name in entry.input)] for node in nodes]
    order = running_order(reads, [node.output for node in nodes])
    if order != list(range(len(nodes))):
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies[number] for number in order)


def running_order(reads: Sequence[Sequence[str]], writes: Sequence[Sequence[str]]) -> list[int]:
    """Numbers of the nodes, each behind those that write what it reads, else as they are listed.

    `reads` and `writes` name the tensors of each node. Those that wait for each other in a circle come last.
    """
    makers = {name: number for number, names in enumerate(writes) for name in names if name}
    sources = [{makers[name] for name in names if name in makers} for names in reads]
    readers: list[list[int]] = [[] for _ in reads]
    for number, found in enumerate(sources):
        for source in found:
            readers[source].append(number)
    missing = [len(found) for found in sources]
    ready = [number for number, count in enumerate(missing) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for number in readers[order[-1]]:
            missing[number] -= 1
            if not missing[number]:
                heapq.heappush(ready, number)
    return order + [number for number, count in enumerate(missing) if count]


def inside(node: Any) -> list[Any]:
    """The nodes of the graphs of a branch or a loop."""
    graphs = (graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs))
    return [entry for graph in graphs for entry in graph.node]


def within(node: Any) -> Iterator[Any]:
    """The nodes inside a branch or a loop, and those inside them."""
    for entry in inside(node):
        yield entry
        yield from within(entry)
