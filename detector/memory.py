"""Memory that the processes of a node share."""

from __future__ import annotations

import logging
import math
import mmap
import os
import sys
from functools import cache
from typing import Final

import torch

from detector.distributed import World, any_process, from_torchrun, gather_rows

HANDED_OVER: Final = "/dev/shm"  # where torch lays what loading processes hand over
AHEAD: Final = 2  # batches that a loading process makes ahead
IN_USE: Final = 2  # batches that are being trained on, or about to be

_log = logging.getLogger(__name__)


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
    (impossible,) = any_process(memory is None)  # until here the file is open
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


def loaders_that_fit(wanted: int, batch_bytes: int) -> int:
    """Loading processes, at most `wanted`, that the system's shared memory has room for; 0 where not even one fits.

    Containers often have 64 MB of it. The batch of a process that finds no room there never comes. The processes of
    a node share the room evenly. A smaller number is told once.
    """
    try:
        room = os.statvfs(HANDED_OVER)
    except (OSError, AttributeError):  # the system hands over otherwise
        return wanted
    if room.f_blocks == 0:  # no limit
        return wanted
    free = room.f_bavail * room.f_frsize // from_torchrun("LOCAL_WORLD_SIZE", 1)
    fitting = max(0, (free // batch_bytes - IN_USE) // AHEAD)
    if fitting < wanted:
        needed = (wanted * AHEAD + IN_USE) * batch_bytes / 1e6
        tell_node(
            f"fewer processes load images than the {wanted} wanted: {HANDED_OVER} has no room for the {needed:.0f} MB "
            f"that they would take. In Docker: --shm-size {math.ceil(needed / 500)}g"
        )
    return min(wanted, fitting)


@cache
def tell_node(text: str) -> None:
    """Warns once, and of the processes of a node only the first."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        _log.warning("%s", text)
