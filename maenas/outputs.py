"""Outputs checked before any work starts, without making or changing anything."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

from maenas.errors import MaenasError
from maenas.files import LONGEST_NAME, MOST_NAME_BYTES, output_target, reason

PLOT_FORMATS: Final = (".png", ".svg", ".pdf")


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise `MaenasError` unless a file can be written at `path`: it is one, or its folder exists or can be made."""
    _check_folder(output_target(path).parent, f"cannot write {os.fspath(path)}")


def check_plot(path: Path) -> None:
    """Raise `MaenasError` unless the name says which kind of plot the file is to be."""
    if path.suffix.lower() not in PLOT_FORMATS:
        raise MaenasError(f"--plot {path}: the file must end in {', '.join(PLOT_FORMATS)}")


def check_other(path: str | os.PathLike[str], *sources: str | os.PathLike[str]) -> None:
    """Raise `MaenasError` where `path` is one of the files `sources`, which writing it would replace."""
    if any(same_file(path, source) for source in sources):
        raise MaenasError(f"{os.fspath(path)} is an input; choose another file to write")


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to one file that exists."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise `MaenasError` unless files can be written into the folder `path`: it exists, or it can be made."""
    try:
        folder = Path(os.path.realpath(path))
    except ValueError as error:  # a NUL character, a lone surrogate
        raise MaenasError(f"cannot write into {str(path)!r}: {error}") from error
    _check_folder(folder, f"cannot write into {os.fspath(path)}")


def check_name(name: str, option: str) -> None:
    """Raise `MaenasError` unless files can be called `name` with an ending, in whatever folder."""
    if name in ("", ".", "..") or Path(name).name != name:
        raise MaenasError(f"{option} is {name!r}; it must be a plain file name, the folder is --out")
    if not name.isprintable():
        raise MaenasError(f"{option} is {name!r}; it must hold printable characters only")
    if len(os.fsencode(name)) > MOST_NAME_BYTES:
        raise MaenasError(f"{option} is {len(name)} characters long; choose a shorter name")


def _check_folder(folder: Path, what: str) -> None:
    """The nearest part of `folder` that exists must be a folder in which a file can be written."""
    there = folder
    try:
        while not os.path.lexists(there):
            if len(os.fsencode(there.name)) > LONGEST_NAME:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            there = there.parent
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise MaenasError(f"{what}: {reason(error)}") from error
