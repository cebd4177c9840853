"""Several search spaces under one request: the best detector of each, and the space whose best scores highest.

All are searched at one input size, since scores at different sizes do not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from maenas.errors import MaenasError
from maenas.nas.request import Request, Setup, prepare
from maenas.nas.run import Candidate, run
from maenas.nas.space import load_space, space_names

ALL = "all"


@dataclass(frozen=True)
class SpaceBest:
    """The best detector of one space, or why the space has none."""

    space: str
    setup: Setup | None  # the request in this space
    best: Candidate | None
    proven: bool
    neck: str
    share: float | None  # the backbone's part of the modelled time, where the neck was searched
    why_not: str = ""


def named_spaces(text: str) -> tuple[str, ...]:
    """`all` as the names of the shipped spaces, `a,b` as two; one name as itself. Raises `MaenasError`."""
    if text == ALL:
        return tuple(space_names())
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) < len(names):
        raise MaenasError(f"--space is {text!r}; give one space, several different ones with commas between, or all")
    return names


def compare_spaces(request: Request, names: Sequence[str]) -> tuple[SpaceBest, ...]:
    """The best of each space within the limits of `request`, the highest score first.

    A space in which nothing fits comes last, with the reason. Raises `MaenasError` for a space that cannot be read.
    """
    spaces = [load_space(name) for name in names]
    if request.score == "mae" and len({space.score_weights for space in spaces}) > 1:
        raise MaenasError(
            "the spaces have different score_weights, so that their scores by mae cannot be compared: search each alone"
        )
    sizes = [space.input_size for space in spaces]
    size = request.input_size or max(set(sizes), key=sizes.count)
    rows = [_best_of(replace(request, space=name, input_size=size)) for name in names]
    return tuple(sorted(rows, key=lambda row: -row.best.score if row.best else float("inf")))


def in_best_space(rows: Sequence[SpaceBest]) -> Setup:
    """The request in the space of the highest score, at the size compared; raises `MaenasError` if nothing fits."""
    best = rows[0].setup
    if best is None:
        reasons = "\n".join(f"  {row.space}: {row.why_not}" for row in rows)
        raise MaenasError(f"no space has an architecture within these limits:\n{reasons}")
    return best


def _best_of(request: Request) -> SpaceBest:
    try:
        setup = prepare(request)
        result = run(replace(setup, request=replace(request, solver="exact", top_k=1)))
    except MaenasError as error:
        return SpaceBest(request.space, None, None, False, "", None, str(error))
    share = setup.necks.chosen.share if setup.necks is not None else None
    return SpaceBest(request.space, setup, result.candidates[0], result.proven, setup.space.neck, share)
