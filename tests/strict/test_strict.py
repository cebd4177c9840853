import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from maenas.errors import MaenasError
from maenas.strict import STRICT, dump_json, parse_json, parse_yaml


@dataclass(frozen=True)
class Stage:
    __pydantic_config__ = STRICT

    kernel: int
    width: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise MaenasError(f"kernel must be odd, got {self.kernel}")


@dataclass(frozen=True)
class Net:
    __pydantic_config__ = STRICT

    schema: Literal["net@1"]
    stages: tuple[Stage, ...]
    options: dict[str, tuple[int, ...]] | None = None


Reader = Callable[..., Any]
READERS = [parse_json, parse_yaml]

GOOD = """{
  "schema": "net@1",
  "stages": [
    {"kernel": 3, "width": 2, "name": "µ"},
    {"kernel": 5}
  ],
  "options": {"a": [1, 2]}
}
"""


def refusal(read: Reader, text: str, type_: Any = Net) -> str:
    with pytest.raises(MaenasError) as caught:
        read(text, type_, where="net.file")
    return str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_json_is_read_by_both_readers(read: Reader) -> None:
    expected = Net("net@1", (Stage(3, 2.0, "µ"), Stage(5)), {"a": (1, 2)})
    assert read(GOOD, Net, where="x") == expected


def test_block_yaml_means_the_same_as_json() -> None:
    text = "schema: net@1\nstages:\n  - {kernel: 3, width: 2e0, name: µ}\n  - kernel: 5\noptions:\n  a: [1, +2]\n"
    assert parse_yaml(text, Net, where="x") == parse_json(GOOD, Net, where="x")


def test_a_dumped_dataclass_reads_back_and_dumps_the_same() -> None:
    net = parse_json(GOOD, Net, where="x")
    text = dump_json(net)
    assert parse_json(text, Net, where="x") == net
    assert dump_json(parse_json(text, Net, where="x")) == text
    assert json.loads(text) == json.loads(json.dumps(asdict(net)))


def test_a_stage_is_dumped_on_one_line() -> None:
    assert dump_json(parse_json(GOOD, Net, where="x")) == (
        "{\n"
        '  "schema": "net@1",\n'
        '  "stages": [\n'
        '    {"kernel": 3, "width": 2.0, "name": "µ"},\n'
        '    {"kernel": 5, "width": 1.0, "name": null}\n'
        "  ],\n"
        '  "options": {"a": [1, 2]}\n'
        "}\n"
    )


def test_a_long_list_is_dumped_on_several_lines() -> None:
    net = Net("net@1", (), {"a": tuple(range(100, 150))})
    assert max(len(line) for line in dump_json(net).splitlines()) <= 20
    assert parse_json(dump_json(net), Net, where="x") == net


def test_what_json_cannot_hold_is_not_dumped() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dump_json(Stage(3, float("nan")))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"kernel": 5', '"kernal": 5', "net.file:5: stages[1].kernal: unknown key; did you mean kernel?"),
        ('"kernel": 5', '"zzz": 5', "unknown key; the known keys are kernel, name, width"),
        ('"kernel": 5', '"width": 5', "net.file:5: stages[1].kernel: this key is missing"),
        ('"kernel": 5', '"kernel": "5"', "net.file:5: stages[1].kernel: must be a valid integer, got '5'"),
        ('"kernel": 5', '"kernel": 5.0', "net.file:5: stages[1].kernel: must be"),
        ('"kernel": 5', '"kernel": true', "net.file:5: stages[1].kernel: must be"),
        ('"kernel": 5', '"kernel": 4', "net.file:5: stages[1]: kernel must be odd, got 4"),
        ('"kernel": 5', '"kernel": 5, "kernel": 3', "net.file:5: the key 'kernel' appears twice"),
        ('"kernel": 5', f'"kernel": {"9" * 5000}', "net.file:5: '9999"),
        ('"width": 2', '"width": 1e999', "net.file:4: '1e999' is too large a number"),
        ('"net@1"', '"net@2"', "net.file:2: schema: must be 'net@1', got 'net@2'"),
        ("[1, 2]", '[1, "x"]', "net.file:7: options.a[1]: must be a valid integer, got 'x'"),
        ('"schema"', '"shcema"', "net.file:2: shcema: unknown key; did you mean schema?"),
    ],
)
def test_an_error_names_the_line_the_key_and_the_remedy(read: Reader, old: str, new: str, message: str) -> None:
    assert message in refusal(read, GOOD.replace(old, new))


@pytest.mark.parametrize("read", READERS)
def test_an_error_begins_with_the_place(read: Reader) -> None:
    assert refusal(read, GOOD.replace('"kernel": 5', '"kernel": "x"')).startswith("net.file:5: ")


@pytest.mark.parametrize("read", READERS)
def test_at_most_five_problems_are_listed(read: Reader) -> None:
    text = json.dumps({"schema": "net@1", "stages": [{"kernel": "x"}] * 8})
    lines = refusal(read, text).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "... and 3 more"


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", '"x"', "{", "}", "{]", "[" * 100_000, '{"a":' * 100_000, "\x00"]
)
def test_what_is_no_mapping_is_refused(read: Reader, text: str) -> None:
    assert refusal(read, text).startswith("net.file")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_constants_that_are_no_numbers_are_refused(constant: str) -> None:
    text = GOOD.replace('"width": 2', f'"width": {constant}')
    assert refusal(parse_json, text) == f"net.file:4: {constant} is not a number that can be used"


def test_json_syntax_errors_name_the_line() -> None:
    assert refusal(parse_json, GOOD.replace('"net@1",', '"net@1"')).startswith("net.file:3: not valid JSON: ")


def test_json_strings_that_look_like_structure_do_not_move_the_line() -> None:
    text = '{"schema": "net@1",\n"stages": [{"kernel": 3, "name": "}],\\"{[:"},\n{"kernel": 4}]}'
    assert refusal(parse_json, text).startswith("net.file:3: stages[1]: ")


def test_a_lone_surrogate_is_refused() -> None:
    assert refusal(parse_json, GOOD.replace("µ", "\\ud800")).startswith("net.file")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("&a 3", "anchors and aliases are not allowed"),
        ("*a", "anchors and aliases are not allowed"),
        ("!!python/object/apply:os.system [ls]", "is not allowed"),
        ("!x 3", "the tag !x is not allowed"),
        ("2024-01-01", "'2024-01-01' is read as a timestamp"),
        ("yes", "'yes' is read as a bool"),
        ("0x10", "'0x10' is read as a int"),
        ("1:30", "'1:30' is read as a int"),
        ("010", "'010' is read as a int"),
        ("1_000", "'1_000' is read as a int"),
        (".nan", ".nan is not a number"),
        ("-.inf", "-.inf is not a number"),
        ("{1: 2}", "a key must be a string; put '1' in quotes"),
        ("{[1]: 2}", "a key must be a string"),
        ("{yes: 2}", "'yes' is read as a bool"),
        ("{<<: {b: 2}}", "read as a merge"),
        ("{a: 1, a: 2}", "the key 'a' appears twice"),
        ("[1", "not valid YAML"),
        ("\t- 1", "not valid YAML"),
        ("\x07", "not valid YAML"),
    ],
)
def test_yaml_beyond_json_is_refused_with_its_line(value: str, message: str) -> None:
    text = refusal(parse_yaml, f"schema: net@1\nstages: []\noptions: {value}\n")
    assert text.startswith(("net.file:3: ", "net.file:4: "))
    assert message in text


def test_several_yaml_documents_are_refused() -> None:
    assert "not valid YAML" in refusal(parse_yaml, "a: 1\n---\nb: 2\n")


def test_aliases_cannot_blow_up_memory() -> None:
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30))
    assert "anchors" in refusal(parse_yaml, f"l0: &l0 [x]\n{levels}\n")


@pytest.mark.parametrize("read", READERS)
@given(text=st.text(max_size=80) | st.text(alphabet='{}[]:,"\\\n -&*!|>01eu.#ab', max_size=80))
@example(text='{"a": 1}')
@example(text='{"schema": "net@1", "stages": [{"kernel": {"a": []}}]}')
def test_any_text_is_read_or_refused_as_an_error_of_the_user(read: Reader, text: str) -> None:
    with pytest.raises(MaenasError):
        read(text, Net, where="x")


texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]))  # YAML has no control characters
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@dataclass(frozen=True)
class Anything:
    __pydantic_config__ = STRICT

    value: Any


@given(value=values)
def test_any_value_reads_back_through_both_readers(value: Any) -> None:
    expected = Anything(value)
    assert parse_json(dump_json(expected), Anything, where="x") == expected
    assert parse_yaml(json.dumps(asdict(expected)), Anything, where="x") == expected


@given(value=values)
def test_a_problem_after_any_json_has_its_own_line(value: Any) -> None:
    text = json.dumps({"value": value, "extra": 1}, indent=1)
    line = len(text.splitlines()) - 1
    assert refusal(parse_json, text, Anything).startswith(f"net.file:{line}: extra: unknown key")


def test_the_first_repeated_key_is_named() -> None:
    assert refusal(parse_json, '{"a": 1,\n"a": {"b": 1,\n"b": 2}}') == "net.file:2: the key 'a' appears twice"
