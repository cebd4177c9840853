"""Memory that the processes of a node share."""

from __future__ import annotations

import mmap
import os
import sys

import torch

from detector.distributed import World, any_process, gather_rows


def node_memory(world: World, size: int) -> mmap.mmap:
    """`size` bytes of zeros that the processes of a node share, and those that they fork; where the system cannot do
    that, each has its part of them for itself. All processes call it.

    The memory has no name and goes with its last process. Pages take memory only once something is written.
    """
    if world.local_size == 1:
        return mmap.mmap(-1, max(size, 1))
    own = _anonymous(size) if world.local_rank == 0 else -1
    found = gather_rows(torch.tensor([[os.getpid(), own, max(size, 1)]]))[world.rank - world.local_rank].tolist()
    memory = _opened(own, *found)
    impossible = any_process(memory is None)  # until here the file is open
    if own >= 0:
        os.close(own)
    if memory is None or impossible:
        return mmap.mmap(-1, max(size // world.local_size, 1))
    return memory


def _anonymous(size: int) -> int:
    """A file that is only in memory; -1 where the system has none."""
    if sys.platform != "linux":
        return -1
    descriptor = os.memfd_create("maenas", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, max(size, 1))
    return descriptor


def _opened(own: int, process: int, descriptor: int, size: int) -> mmap.mmap | None:
    """The memory that a process of this node has opened; None where it cannot be reached."""
    if descriptor < 0:
        return None
    try:
        if own >= 0:
            return mmap.mmap(own, size)
        other = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mmap.mmap(other, size)
    finally:
        os.close(other)
