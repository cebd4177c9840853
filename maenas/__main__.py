"""``maenas``, and ``python -m maenas``: the command as a process. Its imports take longer than many a command."""

import os
import signal


def main() -> None:
    """Entry point: Ctrl-C is one message also while modules are loaded, and none while the process ends."""
    starting = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if starting:
        signal.signal(signal.SIGINT, _end_at_once)
    from maenas.cli.main import main as command

    if starting:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command()
    finally:
        if starting:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end_at_once(_number: int, _frame: object) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(2)


if __name__ == "__main__":
    main()
