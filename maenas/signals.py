"""Signals that end the work of this process as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")  # SIGHUP is not everywhere


@contextmanager
def ending_signals() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, with a KeyboardInterrupt; gives the signals that came.

    A signal that is ignored, as SIGHUP under nohup, stays so. Outside the main thread nothing changes.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def end(number: int, _frame: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, end)
    try:
        yield seen
    finally:
        for number in ours:
            signal.signal(number, before[number])
