import ast
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.spec import BackboneSpec, StageSpec, StemSpec, read_spec
from maenas.structure import MAX_TEXT, MOBILE_KERNEL, Family, format_structure, mobile_hidden, parse_structure
from tests.conftest import FILES

T_TEXT = """[
 {'class': 'ConvKXBNRELU', 'in': 3, 'out': 24, 'k': 3, 's': 1},
 {'class': 'SuperResConvK1KX', 'in': 24, 'out': 64, 'k': 3, 's': 2, 'L': 2, 'btn': 24},
 {'class': 'SuperResConvK1KX', 'in': 64, 'out': 96, 'k': 3, 's': 2, 'L': 2, 'btn': 64},
 {'class': 'SuperResConvK1KX', 'in': 96, 'out': 192, 'k': 3, 's': 2, 'L': 2, 'btn': 96},
 {'class': 'SuperResConvK1KX', 'in': 192, 'out': 192, 'k': 3, 's': 1, 'L': 2, 'btn': 152},
 {'class': 'SuperResConvK1KX', 'in': 192, 'out': 384, 'k': 3, 's': 2, 'L': 1, 'btn': 192}]
"""
FAMILY_OF: dict[str, Family] = {"csp": "csp", "k1dwk1": "mob"}


def shipped(model: str) -> BackboneSpec:
    return read_spec(data_dir("searched_models") / f"{FILES[model]}.json").detector.backbone


def parse(text: str, **changes: Any) -> BackboneSpec:
    options: dict[str, Any] = {"family": "res", "focus": True, "act": "relu", "where": "net.txt"} | changes
    return parse_structure(text, **options)


def refusal(text: str, **changes: Any) -> str:
    with pytest.raises(MaenasError) as caught:
        parse(text, **changes)
    return str(caught.value)


@pytest.mark.parametrize("toolbox", [False, True])
@pytest.mark.parametrize("model", FILES)
def test_the_released_structures_are_the_shipped_backbones_in_both_spellings(
    model: str, toolbox: bool, golden: Any
) -> None:
    released = golden("zoo.json")["models"][model]
    assert released["use_focus"] == (model in "TSML")
    text = str(released["structure"])
    if toolbox:
        text = text.replace("SuperResConv", "SuperRes")
        assert "SuperResConv" not in text
    backbone = parse(text, family=released["family"], focus=released["use_focus"], act=released["act"])
    assert backbone == shipped(model)


@pytest.mark.parametrize("model", FILES)
def test_the_shipped_backbones_are_written_as_they_were_released(model: str, golden: Any) -> None:
    released = golden("zoo.json")["models"][model]
    written = ast.literal_eval(format_structure(shipped(model)))
    if released["family"] == "mob":  # there the released k and btn mean nothing
        for entry in (*written[1:], *released["structure"][1:]):
            del entry["k"], entry["btn"]
    assert written == released["structure"]


@st.composite
def writable(draw: st.DrawFn) -> BackboneSpec:
    """A random backbone of one block, with the taps, SPP and hidden mobile widths that the format takes as given."""
    backbone = draw(st.from_type(BackboneSpec))
    block = draw(st.sampled_from(["k1kx", "kxkx", "k1kxk1", "k1dwk1", "csp"]))
    stages: list[StageSpec] = []
    for stage in backbone.stages:
        if block == "csp" and stage.stride == 1:
            continue
        position, before = len(stages) + 1, stages[-1].out_channels if stages else backbone.stem.out_channels
        out = -(-stage.out_channels // 16) * 16 if block == "csp" else stage.out_channels
        kernel, btn = (MOBILE_KERNEL, mobile_hidden(out, position)) if block == "k1dwk1" else (stage.kernel, 24)
        stages.append(StageSpec(block, before, out, btn, kernel, stage.stride, stage.depth))
    strides = np.cumprod([2] + [stage.stride for stage in stages])[1:].tolist()
    c3, c4, c5 = (max(i for i, have in enumerate(strides, start=1) if have == want) for want in (8, 16, 32))
    if block == "csp":  # its third stage is written as two entries of at least one unit each
        stages[2] = dataclasses.replace(stages[2], depth=stages[2].depth + 1)
    return BackboneSpec(backbone.stem, tuple(stages), backbone.act, (c3, c4, c5), spp=True)


@given(backbone=writable(), spelling=st.sampled_from(["damo-yolo", "nas-toolbox"]))
def test_a_written_structure_reads_back(backbone: BackboneSpec, spelling: Any) -> None:
    text = format_structure(backbone, spelling=spelling)
    family = FAMILY_OF.get(backbone.stages[0].block, "res")
    assert parse(text, family=family, focus=backbone.stem.kind == "focus", act=backbone.act) == backbone


@given(depths=st.tuples(*[st.integers(1, 5)] * 4))
def test_every_csp_depth_reads_back(depths: tuple[int, ...]) -> None:
    stages = tuple(StageSpec("csp", 16, 16, 16, 3, 2, depth) for depth in depths)
    backbone = BackboneSpec(StemSpec("focus", 16), stages, "silu", (2, 3, 4))
    assert parse(format_structure(backbone), family="csp", act="silu") == backbone


def test_what_the_format_cannot_say_is_refused() -> None:
    stages = list(shipped("Ns").stages)
    stages[1] = dataclasses.replace(stages[1], bottleneck=96)
    with pytest.raises(MaenasError, match="stage 2 has kernel 5 and hidden width 96; this format fixes them at 5 and "):
        format_structure(dataclasses.replace(shipped("Ns"), stages=tuple(stages)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'L': 1", "'depth': 1", "net.txt: entry 5 has the unknown key 'depth'; known: ["),
        ("'L': 1, ", "", "net.txt: entry 5 needs an integer 'L', not None"),
        ("'L': 1", "'L': 1.0", "net.txt: entry 5 needs an integer 'L', not 1.0"),
        ("'L': 1", "'L': True", "net.txt: entry 5 needs an integer 'L', not True"),
        ("'L': 1", "'L': '1'", "net.txt: entry 5 needs an integer 'L', not '1'"),
        ("'L': 1", "'L': [1]", "net.txt: entry 5 needs an integer 'L', not list"),
        ("'L': 1", "'L': 0", "net.txt: entry 5: depth is 0; it must be 1 to 256"),
        ("'L': 1", f"'L': {'9' * 4000}", "net.txt: entry 5: 'L' is too large a number"),
        ("'L': 1", f"'L': 0x{'f' * 9000}", "net.txt: entry 5: 'L' is too large a number"),
        ("'L': 1", f"'L': 0x{'f' * 9000}.real", "not a list of"),
        ("'L': 1", f"0x{'f' * 9000}: 1", "net.txt: entry 5 has the unknown key int"),
        (
            "'out': 384",
            "'out': 380",
            "net.txt: entry 5: out_channels is 380; channels must be a positive multiple of 8",
        ),
        ("'in': 192, 'out': 384", "'in': 96, 'out': 384", "net.txt: stage 5 takes 96 channels, but what comes before"),
        (
            "SuperResConvK1KX', 'in': 24",
            "SuperResConvK2KX', 'in': 24",
            "net.txt: entry 1 has the unknown class 'SuperRes",
        ),
        ("SuperResConvK1KX', 'in': 24", "SuperResConv', 'in': 24", "known: SuperResConvK1KX, "),
        (
            "ConvKXBNRELU",
            "SuperResConvK1KX",
            "net.txt: entry 0 is 'SuperResConvK1KX'; a structure begins with 'ConvKXBN",
        ),
        (
            "'s': 2, 'L': 1",
            "'s': 1, 'L': 1",
            "net.txt: no stage ends at stride 32; the stages end at [4, 8, 16, 16, 16]",
        ),
        ("'class': 'ConvKXBNRELU', ", "", "net.txt: entry 0 has no 'class'"),
        ("'class': 'ConvKXBNRELU'", "'class': 3", "net.txt: entry 0 has no 'class'"),
        ("'in': 3,", "'in': 3 'x',", "net.txt:2: not a list of"),
    ],
)
def test_an_error_names_the_entry_and_the_valid_choice(old: str, new: str, message: str) -> None:
    head, found, tail = T_TEXT.rpartition(old)
    assert found
    text = refusal(head + new + tail)
    assert message in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("csp", "entry 1 is 'SuperResConvK1KX'; a csp backbone is made of KXKX entries"),
        ("res", None),
        ("mob", None),
    ],
)
def test_a_family_refuses_blocks_that_it_cannot_build(family: Any, message: str | None) -> None:
    if message is None:
        expected = "k1kx" if family == "res" else "k1dwk1"
        assert {stage.block for stage in parse(T_TEXT, family=family).stages} == {expected}
    else:
        assert message in refusal(T_TEXT, family=family)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'L': 2, 'btn': 64}", "'L': 1, 'btn': 64}", "csp stage 1: L is 1, which leaves it without blocks"),
        (
            "'s': 1, 'L': 4, 'btn': 256",
            "'s': 1, 'L': 4, 'btn': 264",
            "csp stage 3: the out, btn and k of its 2 entries",
        ),
    ],
)
def test_entries_that_are_no_csp_stage_are_refused(old: str, new: str, message: str) -> None:
    text = format_structure(shipped("M"))
    assert old in text
    assert message in refusal(text.replace(old, new, 1), family="csp")


def test_a_search_log_is_refused_with_the_remedy() -> None:
    assert "give the list of entries itself" in refusal(f"{{'best_structures': [{T_TEXT}]}}")


HOSTILE = [
    "",
    "[]",
    "[[]]",
    "[{}]",
    "{}",
    "3",
    "None",
    "...",
    "b'x'",
    "[{'class': 'ConvKXBNRELU', 'in': 3, 'out': 24, 'k': 3, 's': 1}]",
    "__import__('pathlib').Path('executed').touch()",
    "[{'class': __import__('pathlib').Path('executed').touch()}]",
    "(lambda: open('executed', 'w'))()",
    "[print('executed', file=open('executed', 'w')) for _ in 'x']",
    "f\"{open('executed', 'w')}\"",
    "import os",
    "exit()",
    "raise SystemExit",
    "1 if True else 2",
    "9**9**9",
    "'x' * 10**10",
    "[1] * 10**10",
    "{[]: 1}",
    "[{{}: 1}]",
    "{*'a'}",
    "[{**{}}]",
    "[" * 10_000,
    "(" * 50_000 + ")" * 50_000,
    "[" * 90 + "]" * 90,
    "-" * 100_000 + "1",
    "+".join(["1"] * 50_000),
    "1" * 100_000,
    "0x" + "f" * 100_000,
    "1e999",
    "'\\d'",
    "'\\N{x}'",
    "'\\ud800'",
    "\ud800",
    "\x00",
    "[\x00]",
    "# coding: utf-7\n[]",
    "\ufeff[]",
    "[{'class': '\U0001f600'}]",
    "[{'class': 'ConvKXBNRELU', 'in': 3, 'out': 24, 'k': 3, 's': 1}" + ", {'class': 'SuperResConvK1KX'}" * 20_000 + "]",
    " " * (MAX_TEXT + 1),
]


@pytest.mark.parametrize("family", ["res", "csp", "mob"])
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:24]))
def test_malformed_text_is_an_error_of_the_user_and_runs_nothing(
    text: str, family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(text, family=family)
    assert message.startswith("net.txt")
    assert len(message) < 400
    assert list(tmp_path.iterdir()) == []


def test_the_compilers_remarks_on_the_text_do_not_reach_the_user() -> None:
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        refusal("['\\d', 0x1for x]")
        refusal("['\\d']")
    assert remarks == []


@pytest.mark.parametrize("family", ["res", "csp", "mob"])
def test_numbers_of_any_size_are_refused_or_read(family: Any) -> None:
    for value in (0, -8, 2**20, 2**31, 2**63, -(2**64), 10**400, 10**5000):
        for key in ("in", "out", "k", "s", "L", "btn"):
            for number in range(6):
                entries = ast.literal_eval(T_TEXT)
                if key in entries[number]:
                    entries[number][key] = 12345678
                    text = str(entries).replace("12345678", hex(value))
                    if family == "csp":
                        text = text.replace("K1KX", "KXKX")
                    try:
                        backbone = parse(text, family=family)
                    except MaenasError:
                        continue
                    assert isinstance(backbone, BackboneSpec)
                    ignored = {"in", "s"} if number == 0 else {"k", "btn"} if family == "mob" else set()
                    assert key in ignored


@settings(max_examples=300)
@given(text=st.text(max_size=60) | st.text(alphabet="[]{}()'\",:\\ \nabkLsin0123456789.-+*", max_size=60))
def test_any_text_is_read_or_refused_as_an_error_of_the_user(text: str) -> None:
    with pytest.raises(MaenasError):
        parse(text)
