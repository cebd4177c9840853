"""Images by their names: lists name them as they lay on the machine where somebody drew the boxes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

from maenas.errors import MaenasError

UPLOADED: Final = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded image


def by_name(images: Iterable[Path]) -> dict[str, list[Path]]:
    """`images` by the last part of their paths."""
    places: dict[str, list[Path]] = {}
    for path in images:
        places.setdefault(path.name, []).append(path)
    return places


def place_of(path: Path, name: str, places: Mapping[str, Sequence[Path]]) -> Path | None:
    """The image `name` of the list at `path`: from the list's folder, or anywhere in `places`; None if it is not there.

    What Label Studio puts before the name of an uploaded image may be missing. Of several that are called so it is the
    one that shares most folders with `name`, else the one below the list's folder. Raises MaenasError where these are
    several, too.
    """
    local = name.replace("\\", "/")
    last = local.rpartition("/")[2]
    known = places.get(last) or places.get(UPLOADED.sub("", last), [])
    beside = path.parent / local
    if beside in known:
        return beside
    if len(known) > 1:
        shared = [_shared_parts(place, local) for place in known]
        known = [place for place, count in zip(known, shared, strict=True) if count == max(shared)]
    if len(known) > 1:
        near = [place for place in known if path.parent in place.parents]
        if len(near) != 1:
            raise MaenasError(f"{path}: {name!r} may be {known[0]} or {known[1]}; give paths from the list's folder")
        known = near
    return known[0] if known else None


def _shared_parts(place: Path, name: str) -> int:
    """How many parts of two paths are equal, from their ends."""
    pairs = zip(reversed(place.parts), reversed(name.split("/")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
