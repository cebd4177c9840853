"""What a training run changes in its process, and changes back: signals, algorithms."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from detector.distributed import World


@contextmanager
def algorithms(*, deterministic: bool) -> Iterator[None]:
    """The fastest algorithms, or with `deterministic` only those whose result never varies.

    cuBLAS needs a workspace of its own for that, told by a variable of the environment before its first use.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        flags = torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,  # left out, this would turn cuDNN off
            benchmark=not deterministic,
            deterministic=deterministic,
        )
        with flags:
            yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def stop_requested(world: World) -> Iterator[Callable[[], bool]]:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a question; the second one ends a single process at once.

    The answer is that of this process; the others may not have got the signal. A second one is nothing among several:
    torchrun passes on what the terminal or a scheduler has sent already. The signals keep their meaning outside the
    main thread, where Python allows no handlers. A SIGHUP that is ignored, as under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []

    def note(number: int, _frame: object) -> None:
        if seen and world.size == 1:
            raise KeyboardInterrupt
        seen.append(number)

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {n: signal.signal(n, note) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
