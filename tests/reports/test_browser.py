"""The page in headless Chromium: nothing on its console, the plots drawn, nothing wider than the screen."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from maenas.reports.blocks import Section
from maenas.reports.html import render_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BUDGET_MS = 8000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt-get install chromium)"),
]

# Shows the page at a phone's width too (a window cannot be so narrow), presses a button, and notes what it finds.
FRAME = """<!doctype html><body style="margin:0">
<iframe src="{page}" style="border:0;width:{width}px;height:{height}px"></iframe><pre></pre><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => setTimeout(() => {{
  const page = frame.contentDocument;
  const plots = [...page.querySelectorAll("[data-figure]")];
  const front = page.querySelectorAll("[data-view]")[1].closest("figure").querySelector("[data-figure]");
  const before = front.layout.xaxis.range.slice();
  page.querySelectorAll("[data-view]")[1].click();
  document.querySelector("pre").textContent = JSON.stringify({{
    plots: plots.length,
    drawn: plots.filter((plot) => plot.querySelector("svg.main-svg") && plot.querySelector(".trace, .points")).length,
    width: page.documentElement.scrollWidth,
    ink: page.defaultView.getComputedStyle(page.body).color,
    text: front.querySelector(".xtitle").style.fill,
    before: before,
    after: front.layout.xaxis.range,
  }});
}}, 3000));
</script>"""


@pytest.fixture(scope="module")
def page(sections: list[Section], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    path = tmp_path_factory.mktemp("browser") / "report.html"
    path.write_text(render_page("A report", sections), encoding="utf-8")
    return path


def chromium(profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
    logs = ["--enable-logging=stderr", f"--virtual-time-budget={BUDGET_MS}", f"--user-data-dir={profile}"]
    return subprocess.run([CHROMIUM, *fixed, *logs, *options], capture_output=True, text=True, check=True, timeout=120)


def look(page: Path, folder: Path, *, width: int, dark: bool) -> tuple[dict[str, Any], list[str]]:
    """What the frame's script noted, and the lines of the console."""
    frame = page.with_name(f"frame-{width}-{dark}.html")
    frame.write_text(FRAME.format(page=page.name, width=width, height=900), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = chromium(folder, scheme, f"--window-size={max(width, 600)},900", "--dump-dom", frame.as_uri())
    noted = re.search(r"<pre>(.+?)</pre>", done.stdout)
    assert noted is not None, done.stderr
    return json.loads(unescape(noted[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_works_in_a_browser(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    noted, console = look(page, tmp_path, width=width, dark=dark)
    assert console == []
    assert noted["drawn"] == noted["plots"] > 8
    assert noted["width"] <= width, "the page scrolls sideways"
    assert brightness(noted["ink"]) > 200 if dark else brightness(noted["ink"]) < 60
    assert brightness(noted["text"]) == brightness(noted["ink"])
    assert noted["after"][1] > noted["before"][1]


def brightness(colour: str) -> float:
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 3


def test_a_script_that_is_not_the_page_s_own_is_refused(page: Path, tmp_path: Path) -> None:
    intruded = page.with_name("intruded.html")
    text = page.read_text(encoding="utf-8")
    intruded.write_text(text.replace("</main>", "<script>document.title = 'seized'</script></main>"), encoding="utf-8")
    done = chromium(tmp_path, "--dump-dom", intruded.as_uri())
    assert "<title>A report</title>" in done.stdout
    assert "Content Security Policy" in done.stderr
