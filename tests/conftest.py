"""What several test files share: golden numbers, and what `st.from_type(DetectorSpec)` and the like draw."""

import gzip
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from maenas.cli import main as cli
from maenas.spec import BLOCKS, BackboneSpec, DetectorSpec, HeadSpec, InputSpec, NeckSpec, StageSpec, StemSpec

settings.register_profile("maenas", deadline=None)  # no time decides whether a test passes
settings.load_profile("maenas")

# Commands that a shell starts in the background ignore Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).resolve().parent
# What the authors' released implementation computes (tests/golden/authors/README.md): most of it here, the rest, which
# is too large for the repository, beside the checkout of whoever has it.
GOLDEN = TESTS / "golden" / "authors"
SHARED_GOLDEN = TESTS.parents[1] / "shared" / "golden"

# Published models as the golden numbers call them, and the names of their spec files.
FILES = {
    "T": "damo-yolo-t",
    "S": "damo-yolo-s",
    "M": "damo-yolo-m",
    "L": "damo-yolo-l",
    "Ns": "damo-yolo-nano-s",
    "Nm": "damo-yolo-nano-m",
    "Nl": "damo-yolo-nano-l",
}

Golden = Callable[[str], Any]


def golden_file(name: str) -> Path:
    """A file of the authors' golden numbers; skips where it is not at hand."""
    for path in (GOLDEN / name, SHARED_GOLDEN / name):
        if path.is_file():
            return path
    pytest.skip(f"the golden numbers {name} are too large for the repository and not in {SHARED_GOLDEN}")


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Golden numbers of the repository, by file name."""
    return lambda name: json.loads((TESTS / "golden" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def shared_golden() -> Golden:
    """The authors' golden numbers, by file name; skips where that file is not at hand."""
    return lambda name: json.loads(gzip.decompress(golden_file(f"{name}.gz").read_bytes()))


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Maenas = Callable[..., Outcome]


@pytest.fixture
def maenas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Maenas:
    """Run the entry point in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["maenas", *map(str, arguments)])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def widths(most: int = 64, step: int = 8) -> st.SearchStrategy[int]:
    return st.integers(1, most // step).map(lambda n: n * step)


@st.composite
def backbones(draw: st.DrawFn) -> BackboneSpec:
    """One block throughout or a mixture; stages of stride 1 anywhere; all kernel sizes."""
    blocks = draw(st.sampled_from(BLOCKS).map(lambda block: (block,)) | st.just(BLOCKS))
    at_stride_1 = [block for block in blocks if block != "csp"]
    strides: list[int] = []
    ends = []  # the stages at each of the strides 2, 4, 8, 16, 32
    for level in range(5):
        more = draw(st.integers(0, 1)) if at_stride_1 else 0
        new = ([2] if level else []) + [1] * more
        ends.append(range(len(strides) + 1, len(strides) + len(new) + 1))
        strides += new
    stem = StemSpec(draw(st.sampled_from(["focus", "conv"])), draw(widths(32)), draw(st.sampled_from([1, 3, 5, 7])))
    stages, width = [], stem.out_channels
    for stride in strides:
        block = draw(st.sampled_from(blocks if stride == 2 else at_stride_1))
        out = draw(widths(step=16 if block == "csp" else 8) | st.just(width if block != "csp" else 16))
        kernel, depth = draw(st.sampled_from([1, 3, 5, 7])), draw(st.integers(1, 3))
        stages.append(StageSpec(block, width, out, draw(widths()), kernel, stride, depth))
        width = out
    taps = (draw(st.sampled_from(ends[2])), draw(st.sampled_from(ends[3])), len(stages))
    return BackboneSpec(stem, tuple(stages), draw(st.sampled_from(["relu", "silu"])), taps, draw(st.booleans()))


inputs = st.builds(
    InputSpec,
    height=st.integers(1, 10).map(lambda n: 32 * n),
    width=st.integers(1, 10).map(lambda n: 32 * n),
    value_range=st.tuples(st.floats(-300, 0), st.floats(0, 300, exclude_min=True)),
)
necks = st.builds(
    NeckSpec,
    out_channels=st.tuples(widths(), widths(), widths()),
    depth=st.integers(1, 3),
    hidden_ratio=st.floats(0.25, 4),
)
heads = st.builds(
    HeadSpec, num_classes=st.integers(1, 100), reg_max=st.integers(1, 20), kernel=st.sampled_from([1, 3, 5, 7])
)

st.register_type_strategy(BackboneSpec, backbones())
st.register_type_strategy(
    DetectorSpec, st.builds(DetectorSpec, input=inputs, backbone=backbones(), neck=necks, head=heads)
)
