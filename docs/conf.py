"""Settings of the documentation's generator; `make docs` runs it and takes warnings for errors."""

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

project = "maenas"
version = release = version_of("maenas")
copyright = "the maenas authors; Apache-2.0"
language = "en"

extensions = ["myst_parser"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "maenas"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_sourcelink = False
html_use_index = False
highlight_language = "text"
pygments_style = "default"
pygments_dark_style = "github-dark"


def setup(app: Sphinx) -> None:
    from generated import PAGES

    def prepare(_: Sphinx, page: str, source: list[str]) -> None:
        """Appends what is generated, and keeps a number in a table and its % in one line."""
        if page in PAGES:
            source[0] += "\n" + PAGES[page]()
        source[0] = re.sub(r"^\|.*$", lambda row: re.sub(r"(?<=\d) %", "\u00a0%", row[0]), source[0], flags=re.M)

    app.connect("source-read", prepare)
