"""Copies of a kernel stand in a graph from which a second graph, without them, is subtracted."""

import itertools
from collections import Counter

import pytest

from maenas.deploy.program import Program
from maenas.latency.measured import BlockKey
from maenas.nas.space import load_space, space_names
from maenas.profiler.general import general_samples
from maenas.profiler.plan import plan
from maenas.profiler.probe import Item, Sample, in_graph, item_kernels, sample_of

COPIES = 3


def kinds() -> list[Item]:
    """One item of each kind that a profile measures, but for networks, which are timed as they are."""
    found: dict[object, Item] = {}
    plans = (plan([load_space(name)], [], input_size=64) for name in space_names())
    for item in itertools.chain(*plans, general_samples()):
        if isinstance(item, Sample):
            kernel = item.kernel
            what = (kernel.op, kernel.kernel, kernel.epilogue, len(item.inputs), kernel.residual is None)
            found.setdefault(what, item)
        elif isinstance(item, BlockKey):
            found.setdefault((item.block, item.stride), item)
    return list(found.values())


ITEMS = kinds()


def kernels_of(program: Program) -> Counter:
    return Counter(sample_of(program, kernel).key for kernel in program.kernels)


@pytest.mark.parametrize("apart", [False, True])
def test_the_graphs_differ_by_the_copies_and_nothing_else(apart: bool) -> None:
    for item in ITEMS:
        with_copies, without = in_graph(item, COPIES, apart=apart)
        difference = kernels_of(with_copies)
        difference.subtract(kernels_of(without))
        assert sum(difference.values()) == COPIES * len(item_kernels(item))
        assert all(count >= 0 and count % COPIES == 0 for count in difference.values())
        assert with_copies.images == without.images


def test_copies_that_are_apart_read_nothing_in_common() -> None:
    """A runtime that makes one of convolutions that read the same finds none."""
    for item in ITEMS:
        for program in in_graph(item, COPIES, apart=True):
            readers: dict[int, set[str]] = {}
            for kernel in program.kernels:
                copy = kernel.name.partition(".")[0]  # a block reads its input in two places
                for index in {*kernel.inputs, kernel.residual} - {None}:
                    assert index is not None
                    readers.setdefault(index, set()).add(copy)
            assert all(len(names) == 1 for names in readers.values()), item


def test_what_both_graphs_read_lies_in_memory_alike() -> None:
    """Sinks of maps where the copies read rows once cost more than the copies themselves."""
    pytest.importorskip("onnx")
    from maenas.deploy.onnx_writer import write_onnx

    for item in ITEMS:
        inputs = [write_onnx(program).graph.input for program in in_graph(item, COPIES)]
        first, second = ([(value.name, str(value.type)) for value in values] for values in inputs)
        assert first == second, item
