"""Settings of the documentation's generator; `make docs` runs it and takes warnings for errors."""

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
pygments_style = "friendly"
pygments_dark_style = "monokai"


def setup(app: Sphinx) -> None:
    from generated import PAGES

    def append_generated(_: Sphinx, page: str, source: list[str]) -> None:
        if page in PAGES:
            source[0] += "\n" + PAGES[page]()

    app.connect("source-read", append_generated)
