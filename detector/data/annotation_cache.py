"""Large annotation files, parsed once for all processes of a node: their arrays lie in a file mapped into memory.

The file stands in the user's cache folder under the path of the annotations. It counts only while they have the same
content, and the folders of their images the same entries. It is written in the form of safetensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from safetensors.numpy import save

from detector.data.flat import Columns, FlatSamples, flat
from detector.data.sample import Dataset, Problem
from detector.memory import tell_node
from maenas.errors import MaenasError
from maenas.files import FileStamp, ensure_folder, file_stamp, write_atomic

SCHEMA: Final = "maenas/annotations@3"  # to be raised with every change of what is read from the same file
LEAST_BYTES: Final = 8 * 2**20  # of a file that is worth it: a smaller one is parsed in a second
APART_BYTES: Final = 64 * 2**20  # of a file whose parsing takes gigabytes, most of which Python would keep
SETTLED_S: Final = 2.0  # a folder that changed so shortly before may change again unnoticed
_TYPES: Final[Mapping[str, type]] = {"F32": np.float32, "I64": np.int64, "U8": np.uint8}


class Parsed(NamedTuple):
    """What a file says, and the folders that were looked into for its images; None where it rests on more."""

    dataset: Dataset
    folders: Sequence[str] | None


def cache_folder() -> Path:
    """Where maenas keeps what it can make again; raises MaenasError where the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maenas"
    except RuntimeError as error:
        raise MaenasError(f"there is no folder for caches ({error}); set XDG_CACHE_HOME to one") from error


def cached(path: Path, parse: Callable[[], Parsed]) -> Dataset:
    """What `parse` makes of the annotations at `path`, from the cache where it has them, and else put there.

    Processes that come at the same time wait for the first. A cache that cannot be written is told once and done
    without.
    """
    try:
        before, digest = file_stamp(path), _digest(path)
    except OSError:
        return parse().dataset  # which says what is wrong
    name = f"annotations-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.safetensors"
    with contextlib.ExitStack() as stack:
        try:
            file = cache_folder() / name
            ensure_folder(file.parent)
            stack.enter_context(_turn(file.with_suffix(".lock")))
        except (MaenasError, OSError) as error:
            tell_node(f"annotations are parsed by every process, because they cannot be cached: {error}")
            return parse().dataset
        found = _read(file, path, digest)
        if found is None and before.size >= APART_BYTES and sys.platform == "linux":
            _apart(lambda: _fill(file, path, before, digest, parse))
            found = _read(file, path, digest)
        return found or _fill(file, path, before, digest, parse)


def _fill(file: Path, path: Path, before: FileStamp, digest: str, parse: Callable[[], Parsed]) -> Dataset:
    """Parse the annotations and put them into the cache, unless they or their folders may change unnoticed."""
    began = time.time()
    parsed = parse()
    if parsed.folders is None or file_stamp(path) != before:
        return parsed.dataset
    folders = {folder: _entries(folder) for folder in parsed.folders}
    if any(at is not None and at / 1e9 > began - SETTLED_S for at in folders.values()):
        return parsed.dataset
    try:
        write_atomic(file, _written(parsed.dataset, path, digest, folders))
    except MaenasError as error:
        tell_node(f"annotations are parsed by every process, because they cannot be cached: {error}")
        return parsed.dataset
    return _read(file, path, digest) or parsed.dataset


def _apart(work: Callable[[], object]) -> None:
    """Do `work` in a process of its own, with which the memory goes that it took; what fails there is not told."""

    def run() -> None:
        try:
            work()
        except BaseException:  # whoever waits does it again, and tells
            os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    process.join()


@contextlib.contextmanager
def _turn(place: Path) -> Iterator[None]:
    """One process at a time, where the system has locks; they end with their process."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(folder: str) -> int | None:
    """When the entries of a folder changed last, in nanoseconds; None where there is no such folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except (OSError, ValueError):  # ValueError: a name that no folder can have
        return None


# The file -----------------------------------------------------------------------------------------------------------


def _written(dataset: Dataset, path: Path, digest: str, folders: Mapping[str, int | None]) -> bytes:
    about = {
        "path": str(path),
        "digest": digest,
        "folders": dict(folders),
        "names": dataset.names,
        "problems": dataset.problems,
        "source": dataset.source,
    }
    return save(asdict(flat(dataset.samples).columns), {"schema": SCHEMA, "about": json.dumps(about)})


def _read(file: Path, path: Path, digest: str) -> Dataset | None:
    """The data set in the file of the cache; None where it is missing, damaged or out of date."""
    try:
        with file.open("rb") as opened:
            # Pages stay shared, although they seem to be writable, until something is written.
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        schema, about = header["__metadata__"]["schema"], json.loads(header["__metadata__"]["about"])
        if schema != SCHEMA or (about["path"], about["digest"]) != (str(path), digest):
            return None
        if any(_entries(folder) != changed for folder, changed in about["folders"].items()):
            return None
        columns = Columns(**{name: _array(data, start, header[name]) for name in Columns.__dataclass_fields__})
        problems = tuple(Problem(kind, where) for kind, where in about["problems"])
        _require_whole(columns)
        return Dataset(tuple(about["names"]), FlatSamples(columns), problems, about["source"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _array(data: mmap.mmap, start: int, entry: Mapping[str, Any]) -> np.ndarray:
    begin, end = entry["data_offsets"]
    type_ = np.dtype(_TYPES[entry["dtype"]])
    values = np.frombuffer(data, type_, (end - begin) // type_.itemsize, start + begin) if end > begin else []
    return np.asarray(values, type_).reshape(entry["shape"])


def _require_whole(columns: Columns) -> None:
    """Raises `ValueError` for rows that do not end where the next begin, or beyond the values."""
    count = len(columns.ids)
    parts = (
        (columns.path_ends, columns.paths),
        (columns.box_ends, columns.boxes, columns.labels, columns.areas),
        (columns.crowd_ends, columns.crowd_boxes, columns.crowd_labels),
    )
    for ends, *values in parts:
        whole = len(ends) == count + 1 and ends[0] == 0 and (np.diff(ends) >= 0).all()
        if not whole or any(len(value) != ends[-1] for value in values):
            raise ValueError("rows that do not fit")
    if columns.sizes.shape != (count, 2) or columns.boxes.shape[1:] != (4,) or columns.crowd_boxes.shape[1:] != (4,):
        raise ValueError("arrays of other shapes")
