"""The one exception for everything that a user can cause and mend."""


class MaenasError(ValueError):
    """An error the user can act on.

    The message says what is wrong, where, and what to do. The command line prints it without a traceback and
    exits with code 2. Anything else that escapes is a bug of maenas.
    """
