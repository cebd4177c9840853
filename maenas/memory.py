"""Memory: how much this process may have, and how much is free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class Limit(NamedTuple):
    """What a control group may have, what it has, and what of that the system takes back when it needs it."""

    most: int
    used: int
    inactive: int


def total_memory(root: Path = ROOT) -> int:
    """Bytes of memory that this process may have at all: the machine's, or what a control group allows.

    `root` is the folder with `proc` and `sys`.
    """
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([there, *(limit.most for limit in _limits(root))])


def free_memory(root: Path = ROOT) -> int:
    """Bytes that are free for a cache: of the machine, and of every control group that this process is in.

    Files that the system keeps in memory only because nobody else needs it count as free.
    """
    free = [limit.most - limit.used + limit.inactive for limit in _limits(root)]
    return max(0, min([_available(root), *free]))


def _available(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return total_memory(root)


def _limits(root: Path) -> Iterator[Limit]:
    """Of the control groups of this process and of those around them, in both versions."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        groups = []
    for line in groups:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            top = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        inner = top / place.strip("/")
        for folder in (inner, *inner.parents):
            limit = _limit(folder, *names)
            if limit is not None:
                yield limit
            if folder == top:
                break


def _limit(folder: Path, most: str, used: str, inactive: str) -> Limit | None:
    """None where there is no such group, or no limit ("max")."""
    try:
        numbers = int((folder / most).read_text()), int((folder / used).read_text())
        rows = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
        return Limit(*numbers, next((int(row[1]) for row in rows if row[0] == inactive), 0))
    except (OSError, ValueError):
        return None
