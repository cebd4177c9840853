"""What the documentation shows is true: its commands run, its files are accepted, its links lead somewhere.

In a ```console block, lines that start with `$ maenas` are run one after the other in a folder of their own, with the
```yaml blocks of the page whose first line is `# NAME.yaml` in it. A ```python block is a program of its own. A comment
before a block changes that: `<!-- not run: reason -->` (its commands are parsed all the same);
`<!-- compared with the real output ... -->`, which also compares what it prints; `<!-- run with a small detector -->`,
whose folder has random weights (`net.safetensors`) and pictures (`a.jpg`, `b.jpg`, `photos/`); the same with `run
slowly` is a test marked slow.
"""

import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from maenas.cli.main import app
from maenas.spec import BackboneSpec, DetectorSpec, HeadSpec, InputSpec, NeckSpec, StageSpec, StemSpec

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*/README.md"))]
LONGEST = 120  # characters of a line, tables and what commands print aside
SMALL = DetectorSpec(  # runs in a moment
    InputSpec(64, 64),
    BackboneSpec(
        StemSpec("focus", 8),
        tuple(StageSpec("k1kx", a, b, 16, 3, 2, 1) for a, b in ((8, 8), (8, 16), (16, 16), (16, 16))),
        "relu",
        (2, 3, 4),
    ),
    NeckSpec((16, 16, 16), 1, 1.0, "basic", "relu"),
    HeadSpec(4, 7, 3),
)
TIMED = ("evolution", "exact")  # lines of a search's output that tell how long it took
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*) -->\n)?"
    r"^(?P<indent> *)```(?P<kind>console|python|yaml)\n(?P<body>.*?)^(?P=indent)```$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    mark: str
    kind: str
    lines: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Every `maenas ...`; a line that ends with a backslash goes on in the next one."""
        text = re.sub(r" \\\n +", " ", "\n".join(self.lines))
        return [line[2:] for line in text.splitlines() if line.startswith("$ maenas")]

    @property
    def output(self) -> list[str]:
        return [line for line in self.lines if not line.startswith("$ ")]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, m.start()) + 1, m["mark"] or "", m["kind"], _lines(m["body"]))
        for m in BLOCK.finditer(text)
    ]


def _lines(body: str) -> tuple[str, ...]:
    return tuple(textwrap.dedent(body).splitlines())


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [block for block in BLOCKS if block.kind == "console" and block.commands]
TO_RUN = [
    pytest.param(block, marks=[pytest.mark.slow] if "slowly" in block.mark else [], id=block.place)
    for block in COMMANDS
    if not block.mark.startswith("not run: ")
]
COMPARED = [block for block in COMMANDS if block.mark.startswith("compared with the real output")]
PROGRAMS = [block for block in BLOCKS if block.kind == "python"]


def write_yaml_files(page: Path, folder: Path) -> None:
    for block in blocks_of(page):
        name = block.lines[0].removeprefix("# ") if block.kind == "yaml" and block.lines else ""
        if name.endswith(".yaml"):
            (folder / name).write_text("\n".join(block.lines) + "\n", encoding="utf-8")


def run(command: str, folder: Path) -> str:
    """What `maenas ...` prints; also into a file where the command ends with `> FILE`."""
    words = shlex.split(command)
    words, target = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, None)
    program = [sys.executable, "-m", "maenas", *words[1:]]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{done.stderr}"
    if target is not None:
        (folder / target).write_text(done.stdout, encoding="utf-8")
    return done.stdout


def prepare(block: Block, folder: Path) -> None:
    """What the commands and programs of a block find in their folder."""
    write_yaml_files(block.page, folder)
    if "small detector" in block.mark:
        torch, weights = pytest.importorskip("torch"), pytest.importorskip("detector.model.weights")
        torch.manual_seed(0)
        net = importlib.import_module("detector.model.net").DetectorNet(SMALL)
        weights.write_weights(folder / "net.safetensors", net, SMALL, ("circle", "square", "triangle", "cross"))
        (folder / "photos").mkdir()
        image = pytest.importorskip("PIL.Image").effect_mandelbrot((120, 90), (-3, -2.5, 2, 2.5), 50).convert("RGB")
        for name in ("a.jpg", "b.jpg", "photos/c.jpg"):
            image.save(folder / name)


@pytest.mark.parametrize("block", TO_RUN)
def test_commands_of_the_documentation_run(block: Block, tmp_path: Path) -> None:
    prepare(block, tmp_path)
    printed = [line for command in block.commands for line in run(command, tmp_path).splitlines()]
    if block in COMPARED:
        shown, real = ([line for line in lines if not line.startswith(TIMED)] for lines in (block.output, printed))
        assert real == shown, f"{block.place} shows what the command no longer prints"


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.place)
def test_commands_of_the_documentation_have_only_options_that_there_are(block: Block) -> None:
    group: Any = typer.main.get_command(app)
    for command in block.commands:
        words = shlex.split(command)[1:]
        words = words[:-2] if words[-2:-1] == [">"] else words
        context, inner = group.make_context("maenas", list(words)), group
        while hasattr(inner, "commands"):
            name, inner, words = inner.resolve_command(context, list(words))
            context = inner.make_context(name, list(words), parent=context)


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.place)
def test_programs_of_the_documentation_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile("\n".join(block.lines), block.place, "exec")
    if not block.mark.startswith("not run: "):
        prepare(block, tmp_path)
        monkeypatch.chdir(tmp_path)
        exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_line_is_too_long(page: Path) -> None:
    """Rows of tables cannot be broken, and what a command prints is shown as it is."""
    printed = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            printed = "console" in line
        if len(line) > LONGEST and not line.lstrip().startswith("|") and (not printed or line.startswith("$ ")):
            pytest.fail(f"{page.name}:{number} has {len(line)} characters")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_row_of_a_table_has_a_head(page: Path) -> None:
    """A blank line ends a table: what follows it would be shown as text with bars in it."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    tables = re.findall(r"(?:^ *\|.*\n)+", text, re.M)
    assert [rows for rows in tables if not re.match(r".*\n *\|(?: -+ \|)+\n", rows)] == []


def test_the_readme_shows_a_search() -> None:
    compared = [block for block in COMPARED if block.page.parent == ROOT]
    assert len(compared) == 1
    assert compared[0].output


def test_the_documentation_states_the_stored_benchmark_results() -> None:
    stored = json.loads((ROOT / "benchmarks" / "results" / "search.json").read_text(encoding="utf-8"))
    code = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "search.py")
    assert code is not None
    assert code.loader is not None
    benchmark = importlib.util.module_from_spec(code)
    code.loader.exec_module(benchmark)
    table = (ROOT / "docs" / "lab" / "speed.md").read_text(encoding="utf-8")
    assert benchmark.speed_table(stored["conditions"], stored["results"]) in table
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"optimum, {stored['results']['commands'][0]['median_seconds']:.1f} s after" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not (broken := re.findall(r"\]\([^)\n]*\n", text)), f"{page.name}: {broken[0]!r} goes on in the next line"
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        if heading:
            assert heading in anchors(target), f"{page.name}: {target.name} has no heading #{heading}"


def anchors(page: Path) -> set[str]:
    """Headings as links name them: lower case, spaces to dashes, punctuation gone."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
