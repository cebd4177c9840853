"""``python -m maenas`` is the same as ``maenas``."""

from maenas.cli.main import main

if __name__ == "__main__":
    main()
