"""Successive halving: after how many epochs candidates are compared, and how many of them stay.

Jamieson and Talwalkar, arXiv 1502.07943; `eta` as in Hyperband, arXiv 1603.06560.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from maenas.errors import MaenasError

WINDOW: Final = 3  # evaluations at the end of a rung whose mean AP ranks
LEAST_FINALISTS: Final = 2  # without a second there is nothing to compare with
PARTS: Final = 6  # of the first rung: about how many evaluations it has, so that the last three are its second half


def rung_epochs(epochs: int, *, rungs: int, eta: int) -> tuple[int, ...]:
    """The epochs at which rungs end: `epochs` for the last, an `eta`-th of the next one's before it.

    Raises `MaenasError` where there are too few epochs for so many rungs.
    """
    if rungs < 1 or eta < 2:
        raise MaenasError(f"a race of {rungs} rungs with eta {eta}: it has at least one rung, and eta is at least 2")
    ends = [-(-epochs // eta**left) for left in range(rungs - 1, -1, -1)]
    pace = evaluation_pace(ends[0])
    ends = [-(-end // pace) * pace for end in ends[:-1]] + [epochs]
    if any(late <= early for early, late in pairwise(ends)):
        raise MaenasError(
            f"{epochs} epochs are too few for {rungs} rungs with eta {eta}: they would end after "
            f"{', '.join(map(str, ends))} epochs; give more --epochs, or fewer --rungs"
        )
    return tuple(ends)


def evaluation_pace(first: int) -> int:
    """Epochs from one evaluation to the next, where the first rung has `first` epochs."""
    return max(1, first // PARTS)


def staying(count: int, eta: int) -> int:
    """How many of `count` candidates go on to the next rung: an `eta`-th, rounded up, and at least two."""
    return min(count, max(LEAST_FINALISTS, -(-count // eta)))


def field_sizes(count: int, rungs: int, eta: int) -> tuple[int, ...]:
    """How many candidates race in each rung, without a control that stays although it was beaten."""
    sizes = [count]
    for _ in range(rungs - 1):
        sizes.append(staying(sizes[-1], eta))
    return tuple(sizes)
