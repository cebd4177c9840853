"""Streams that nobody reads, or that are closed: they end no command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from maenas.errors import printable


class Patient:
    """A stream that takes what cannot be written, too: a reader who has enough ends no work.

    `lost` is the error that ended the writing; from then on everything goes to the null device.
    """

    def __init__(self, stream: TextIO, *, safe: bool = False) -> None:
        self._stream, self._safe = stream, safe
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """As the stream's own, but for the errors; `safe` streams escape what a terminal would obey."""
        if self._safe:
            text = "\t".join(map(printable, text.split("\t")))
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """As the stream's own, but for the errors."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextmanager
def patient_streams() -> Iterator[Patient]:
    """Standard output and error as `Patient` streams; gives the output.

    A stream that is closed (`>&-`) becomes the null device: otherwise the next file opened would take its number, and
    what a library prints would end up in it.
    """
    _open_streams()
    output, errors = sys.stdout, sys.stderr
    patient = Patient(output, safe=True)  # a progress bar moves about on the other one
    sys.stdout, sys.stderr = cast("TextIO", patient), cast("TextIO", Patient(errors))
    try:
        yield patient
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = output, errors


def _open_streams() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
