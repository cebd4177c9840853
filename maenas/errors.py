"""The one exception for everything that a user can cause and mend."""


def printable(text: str) -> str:
    """`text` with escapes for the characters that a terminal would obey; it may come from any file."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def printable_line(text: str) -> str:
    """`printable`, and on one line: for a name among others, as of a class or a file."""
    return printable(text).replace("\n", "\\n")


class MaenasError(ValueError):
    """An error the user can act on.

    The message says what is wrong, where, and what to do. The command line prints it without a traceback and
    exits with code 2. Anything else that escapes is a bug of maenas.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class NoSplitError(MaenasError):
    """Data without the split asked for, which is no fault where the split is optional."""


class SharedError(MaenasError):
    """What every process of a run raises: the main one tells, the others end."""
