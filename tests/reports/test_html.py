import base64
import hashlib
import json
import sys
from html.parser import HTMLParser

import pytest

from maenas.errors import MaenasError
from maenas.reports.blocks import Note, Picture, Plot, Section, Table
from maenas.reports.html import render_page
from maenas.reports.networks import Network

VOID = {"meta", "link", "img", "br", "meter", "input"} - {"meter"}


class Page(HTMLParser):
    """Elements, attributes and texts of a page; refuses a tag that is not closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def text(sections: list[Section]) -> str:
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    return render_page("A report", sections)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def scripts_of(page: Page) -> list[str]:
    return [data for tag, data in page.texts if tag == "script"]


def test_the_page_is_well_formed_and_its_ids_are_distinct(page: Page) -> None:
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {link for link in page.attributes("href") if link.startswith("#")} <= {f"#{name}" for name in ids}


def test_the_page_loads_nothing(text: str, page: Page) -> None:
    for link in (*page.attributes("src"), *page.attributes("href")):
        assert link.startswith(("#", "data:"))
    assert not any(tag in ("iframe", "object", "embed", "base", "form") for tag, _ in page.elements)
    style = next(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_only_the_scripts_of_the_policy_are_in_the_page(page: Page) -> None:
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    _, *scripts = scripts_of(page)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts}
    allowed = policy.partition("script-src ")[2].partition(";")[0].split()
    assert hashes == set(allowed)


def test_the_figures_of_the_page_are_valid_for_plotly(page: Page) -> None:
    objects = pytest.importorskip("plotly.graph_objects")
    figures = json.loads(scripts_of(page)[0])
    assert len(figures) == len(page.attributes("data-figure")) > 8
    for figure in figures:
        objects.Figure(figure)  # raises ValueError for an unknown key or value


def test_every_plot_has_a_text_and_every_table_a_header(page: Page) -> None:
    plots = [attributes for _, attributes in page.elements if "data-figure" in attributes]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)
    assert sorted(int(a["data-figure"]) for a in plots) == list(range(len(plots)))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("thead") > 0


def test_names_are_shown_as_text(text: str, page: Page, networks: tuple[Network, ...]) -> None:
    name = networks[0].name
    assert "<b>" in name
    assert ("th", name) in page.texts
    assert not any(tag == "b" for tag, _ in page.elements)
    assert "<b>" not in text.replace(text[text.index("<script") :], "")


HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\'"&{{ 7*7 }}'


def test_no_text_becomes_an_element_or_a_script() -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    figure = {"data": [{"type": "bar", "name": HOSTILE, "x": [HOSTILE], "y": [1]}], "layout": {}}
    table = Table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]])
    plot = Plot(HOSTILE, HOSTILE, figure, table, views=[(HOSTILE, {HOSTILE: [1.0]})])
    section = Section(HOSTILE, [Note(HOSTILE), table, plot, Picture(HOSTILE, "data:,")])
    page = Page(render_page(HOSTILE, [section]))
    harmless = Page(
        render_page("", [Section("", [Note(""), Table("", ["", ""], [["", ""]]), plot, Picture("", "data:,")])])
    )
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert len(scripts_of(page)) == 3
    assert not page.attributes("onerror")
    assert ("h1", HOSTILE) in page.texts
    assert json.loads(scripts_of(page)[0]) == [figure]


def test_equal_sections_give_equal_pages(text: str, sections: list[Section]) -> None:
    assert render_page("A report", sections) == text


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MaenasError, match=f"needs {package}.*pip install plotly jinja2"):
        render_page("", [])
