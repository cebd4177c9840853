"""Images by their names: lists name them as they lay on the machine where somebody drew the boxes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Final

from detector.data.sample import path_inside
from maenas.errors import MaenasError

UPLOADED: Final = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded image


def find_images(
    path: Path, names: Sequence[str], roots: Sequence[Path], elsewhere: Callable[[], Iterable[Path]]
) -> tuple[Path | None, list[Path]]:
    """The first of `roots` that has the first image that any has, and where each of the images `names` lies, or should.

    The list at `path` names them. Where no root has one of them, they are looked for by their names alone among the
    files `elsewhere`, and the root is None. Raises MaenasError for a name that leads out of the root, if that finds
    none either, and as `place_of`.
    """
    root = _root_of(names, roots)
    places = by_name([] if root else elsewhere())
    found = [place_of(path, name, places) for name in names]
    if any(found):
        return None, [place or roots[0] / _last(name) for place, name in zip(found, names, strict=True)]
    return root, [path_inside(root or roots[0], name, where=str(path)) for name in names]


def _root_of(names: Sequence[str], roots: Sequence[Path]) -> Path | None:
    """The first folder that has the first image that any has; None if none has one."""
    for name in names:
        for root in roots:
            with suppress(MaenasError):  # the name leads out of the folder
                if os.path.isfile(path_inside(root, name, where="")):
                    return root
    return None


def by_name(images: Iterable[Path]) -> dict[str, dict[Path, None]]:
    """`images` by the last part of their paths, in order; thousands may have the same."""
    places: dict[str, dict[Path, None]] = {}
    for path in images:
        places.setdefault(path.name, {})[path] = None
    return places


def place_of(path: Path, name: str, places: Mapping[str, Collection[Path]]) -> Path | None:
    """The image `name` of the list at `path`: from the list's folder, or anywhere in `places`; None if it is not there,
    or lies in the list's folder and is none of `places`.

    What Label Studio puts before the name of an uploaded image may be missing. Of several that are called so it is the
    one that shares most folders with `name`, else the one below the list's folder. Raises MaenasError where these are
    several, too.
    """
    local = name.replace("\\", "/")
    last = _last(name)
    alike = places.get(last) or places.get(UPLOADED.sub("", last), {})
    beside = path.parent / local
    if beside in alike:
        return beside
    known = list(alike)
    if known and os.path.isfile(beside):  # of another split
        return None
    if len(known) > 1:
        shared = [_shared_parts(place, local) for place in known]
        known = [place for place, count in zip(known, shared, strict=True) if count == max(shared)]
    if len(known) > 1:
        near = [place for place in known if path.parent in place.parents]
        if len(near) != 1:
            raise MaenasError(
                f"{path}: {name!r:.200} may be {known[0]} or {known[1]}; give paths from the list's folder"
            )
        known = near
    return known[0] if known else None


def local_name(root: Path, name: str) -> str:
    """`name`, without its first folder where only that leads to what is in `root`; without any that do, where it is
    absolute."""
    name = name.replace("\\", "/")
    parts = name.split("/")
    if ".." in parts:
        return name
    absolute = name.startswith("/") or name[1:2] == ":"
    ends = ("/".join(parts[start:]) for start in range(len(parts) if absolute else 2))
    return next((end for end in ends if end and os.path.exists(root / end)), name.lstrip("/"))


def _shared_parts(place: Path, name: str) -> int:
    """How many parts of two paths are equal, from their ends."""
    pairs = zip(reversed(place.parts), reversed(name.split("/")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]
