"""What may be given alone or several at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def texts(given: str | Path | Iterable[str | Path]) -> tuple[str, ...]:
    """One text or path, or several, as texts."""
    return (str(given),) if isinstance(given, str | Path) else tuple(map(str, given))
