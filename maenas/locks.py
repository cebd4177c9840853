"""One process at a time in a run's folder, in a table, or on a name: a lock that dies with its process."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from maenas.errors import MaenasError
from maenas.files import hidden_name, reason

ORPHANED_S: Final = 10.0  # how long the children of a process that was killed may hold its lock
UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})  # by some network file systems


def lock_file(path: str | os.PathLike[str]) -> Path:
    """The hidden file that stands for the lock: in a folder, or beside a file that exists or is to be made."""
    target = Path(os.path.realpath(path))
    return target / ".lock" if target.is_dir() else target.with_name(hidden_name(target.name, "lock"))


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold `path`, a folder or a file to be written, for this process alone.

    The system frees the lock when its process ends, however it ends: a file left by a killed one hinders nobody. The
    folder in which the lock file lies must exist. Where the system has no such locks, nothing is locked.

    Raises `MaenasError`, with the number of the other process, where the lock is held, also by this process itself.
    """
    if sys.platform == "win32":
        yield
        return
    place = lock_file(path)
    try:
        descriptor = _taken(place, path)
    except OSError as error:
        raise MaenasError(f"cannot write into {place.parent}: {reason(error)}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            place.unlink()  # before it is freed: nobody else can hold it yet
        os.close(descriptor)


def _taken(place: Path, path: str | os.PathLike[str]) -> int:
    """The open lock file, locked, with our process number in it; raises `MaenasError` where another one has it."""
    import fcntl

    until = time.monotonic() + ORPHANED_S
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno in UNSUPPORTED:
                return os.open(os.devnull, os.O_RDONLY)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if holder is None or _lives(holder) or time.monotonic() > until:
                raise MaenasError(_refusal(path, holder)) from None
            time.sleep(0.1)
            continue
        try:
            if _is_at(place, descriptor):
                _name_us(place, descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it while we waited


def _name_us(place: Path, descriptor: int) -> None:
    """Write our process number into the lock that we hold; where it cannot be written, no lock file is left."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        with contextlib.suppress(OSError):
            place.unlink()
        raise


def _refusal(path: str | os.PathLike[str], holder: int | None) -> str:
    who = "another command" if holder is None else f"process {holder}"
    return f"{os.fspath(path)} is in use by {who}; wait until it ends, or choose another place"


def _holder(descriptor: int) -> int | None:
    """The number in a lock file; None where its holder has not yet written it."""
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() and len(text) < 12 else None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def _is_at(place: Path, descriptor: int) -> bool:
    ours = os.fstat(descriptor)
    try:
        there = os.lstat(place)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
