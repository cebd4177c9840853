"""Sections as one HTML page that needs nothing else: style, script, plotly.js and data are inside.

The page carries a content security policy: only the scripts written here run (by their hashes), and nothing is loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from maenas import __version__
from maenas.errors import MaenasError, printable
from maenas.reports.blocks import Plot, Section

FOLDER = Path(__file__).parent


def render_page(title: str, sections: Sequence[Section]) -> str:
    """The page's text; raises `MaenasError` where the packages of the extra `report` are missing."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise MaenasError(f"a report needs {error.name}: pip install plotly jinja2") from None
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    plots = list(_plots(sections))
    scripts = [get_plotlyjs(), _read("page.js")]
    return environment.get_template("page.html.jinja").render(
        title=title,
        version=__version__,
        sections=sections,
        numbers={id(plot): number for number, plot in enumerate(plots)},
        key=id,
        style=Markup(_read("page.css")),
        scripts=[Markup(script) for script in scripts],
        figures=Markup(_json([plot.figure for plot in plots])),
        policy=_policy(scripts),
    )


def _visible(value: object) -> object:
    """Texts with their control characters as escapes; what is markup already stays."""
    return printable(value) if type(value) is str else value


def _plots(sections: Sequence[Section]) -> Iterator[Plot]:
    for section in sections:
        yield from (block for block in section.blocks if isinstance(block, Plot))
        yield from _plots(section.inner)


def _json(figures: list[dict[str, object]]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(figures, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
