"""Spec files of a search: which request each is of, so that no search takes another one's for its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maenas.errors import MaenasError
from maenas.files import ensure_folder, read_text
from maenas.locks import locked
from maenas.outputs import check_file, check_name

if TYPE_CHECKING:
    from maenas.nas.request import Request

Kind = Literal["search", "shortlist"]


def request_id(request: Request, kind: Kind = "search") -> str:
    """Identity of what was asked for. How many of the best are written is no part of it."""
    asked = {name: value for name, value in asdict(request).items() if name != "top_k"}
    return hashlib.sha256(json.dumps([kind, asked], sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SpecFiles:
    """Where the specs of a search go: the best first, as many as may come."""

    folder: Path
    name: str
    paths: tuple[Path, ...]

    @property
    def checkpoint(self) -> Path:
        """What an interrupted search leaves."""
        return self.folder / f"{self.name}.ckpt.json"

    def finish(self, written: Sequence[Path]) -> None:
        """Remove specs of a longer list that an earlier search has left under this name."""
        for path in _siblings(self.folder, self.name):
            if path not in written:
                path.unlink(missing_ok=True)


@contextmanager
def spec_files(
    folder: Path, name: str, request: Request, count: int, *, kind: Kind = "search", overwrite: bool = False
) -> Iterator[SpecFiles]:
    """The files of up to `count` specs, kept from other processes: NAME.json, NAME-2.json ..., a shortlist from NAME-1.

    Files of the same request are replaced. Raises `MaenasError` where one cannot be written, where another process
    writes them, and, unless `overwrite` is set, where one of them, or another numbered one, is not of this request.
    """
    check_name(name, "--name")
    stems = [f"{name}-{number}" for number in range(1, count + 1)]
    if kind == "search":
        stems[0] = name
    files = SpecFiles(folder, name, tuple(folder / f"{stem}.json" for stem in stems))
    for path in (*files.paths, files.checkpoint):
        check_file(path)
    ensure_folder(folder)
    with locked(folder / f"{name}.json"):
        if not overwrite:
            _refuse_foreign(files, request, request_id(request, kind))
        yield files


def _refuse_foreign(files: SpecFiles, request: Request, asked: str) -> None:
    stated = {path: _stated(_origin(path), request, asked) for path in files.paths if path.exists()}
    for path, theirs in (_siblings(files.folder, files.name) | stated).items():
        if theirs != asked:
            raise MaenasError(
                f"{path} comes from another search or another source: choose another --name or "
                "--out, or add --overwrite"
            )


def _stated(origin: dict[str, Any], request: Request, asked: str) -> object:
    """The request of a file; for one of an older version, which states none, ours where score and seed are ours."""
    if "request" not in origin and "space_id" in origin:
        score = origin.get("score")
        same = isinstance(score, dict) and (score.get("name"), origin.get("seed")) == (request.score, request.seed)
        return asked if same else None
    return origin.get("request")


def _siblings(folder: Path, name: str) -> dict[Path, str]:
    """The specs NAME-1.json, NAME-2.json ... that a search wrote as one of several, and their requests."""
    pattern, found = re.compile(re.escape(name) + r"-([1-9][0-9]{0,3})\.json"), {}
    for path in sorted(folder.glob("*.json")):
        match = pattern.fullmatch(path.name)
        origin = _origin(path) if match else {}
        if match and (origin.get("rank") == int(match[1]) or "shortlist" in origin) and "request" in origin:
            found[path] = str(origin["request"])
    return found


def _origin(path: Path) -> dict[str, Any]:
    """The provenance in a spec file; empty for any other file."""
    try:
        origin = json.loads(read_text(path, what="spec"))["provenance"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return origin if isinstance(origin, dict) else {}
