"""The documentation builds as a site without a warning, and its pages need no network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("furo")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site: what `make docs` leaves in site/."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", "--builder", "html"]
    done = subprocess.run(
        [*command, "--doctree-dir", str(out / "doctrees"), str(ROOT / "docs"), str(out / "html")],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    contents = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / name).is_file()
        assert name == "index.html" or f'href="{name}"' in contents, f"{name} is not in the navigation"


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """Links may lead anywhere; what a browser fetches by itself has to lie in the folder."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]*? src=\"([^\"]*)", text)
        fetched += re.findall(r"<link(?![^>]*rel=\"(?:index|search|next|prev|canonical)\")[^>]*? href=\"([^\"]*)", text)
        assert fetched
        assert not [url for url in fetched if re.match(r"(https?:)?//", url)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_the_reference_has_every_command(site: Path) -> None:
    text = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for command in ("search", "train", "export", "tables-merge", "weights-convert", "data-check"):
        assert f'id="maenas-{command}"' in text
    assert "&lt;str&gt;" not in text
