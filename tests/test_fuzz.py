"""Damaged files: whatever happens to a text, the reader returns a valid object or raises MaenasError.

Warnings are errors here too (pyproject.toml), so that a reader that only warns fails as well.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.latency.device import Device, devices_from_yaml
from maenas.latency.table import LatencyTable, content_id, table_from_json, table_to_json
from maenas.lowering import lower
from maenas.space import SearchSpace, space_from_yaml
from maenas.spec import BackboneSpec, SpecFile, read_spec, spec_from_json, spec_to_json
from maenas.structure import format_structure, parse_structure

INPUTS = 2500

_NUMBERS = [
    *("0", "-1", "1", "2", "3", "7", "8", "9", "16", "64", "255", "8192", "8200", "65536", "4294967296", "9" * 18),
    *("18446744073709551616", "-9223372036854775809", "9" * 19, "9" * 5000, "0x" + "f" * 5000, "0x40", "0o17", "1_000"),
    *("1.5", "-0.0", "0.1", "1e3", "1e-400", "1e308", "1e999", "NaN", "Infinity", "-Infinity", "01", "1e", "5.", ".5"),
    *("+3", "1j"),
]
_VALUES = [
    *("null", "true", "false", "None", "True", "yes", "''", '""', "[]", "{}", "()", "[[]]", '{"a": 1}', "[1, 2, 3]"),
    *("'x'", '"x"', '"k1kx"', '"csp"', "focus", "published", "~", "&a 1", "*a", "!!python/none 1", "2024-01-01", "<<"),
]
_SNIPPETS = [
    *(
        "\x00",
        "\x07",
        "\t",
        "\r",
        "\u2028",
        "\x85",
        "\ufeff",
        "\u0000",
        "é",
        "日本",
        "\U0001f600",
        "\ud800",
        "１",
        "٣",
        "\u202e",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "'",
        "\\",
        "\\u",
        "\\ud800",
        "\\x",
        "\\N{x}",
        "#",
        "-",
        "- ",
        "---\n",
        "...\n",
    ),
    *("|", ">", "%", "@", "`", "?", "? ", "&", "*", "!", "!!", "\n", "\n\n", " ", "(", ")", "lambda: 0", "**", "..."),
]
_TOKEN = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|-?\d+(?:\.\d+)?|[A-Za-z_]\w*|[^\s\w]")


def mutate(text: str, rng: np.random.Generator) -> str:
    """`text` with 1 to 5 damages."""
    for _ in range(int(_pick((1, 1, 1, 2, 3, 5), rng))):
        text = _DAMAGES[int(rng.integers(len(_DAMAGES)))](text, rng)
    return text


def _pick(items: Any, rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _span(text: str, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(text) + 1))
    return start, min(len(text), start + int(rng.integers(1, 40)))


def _flip_bytes(text: str, rng: np.random.Generator) -> str:
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(int(rng.integers(1, 4)) if data else 0):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return data.decode("utf-8", "replace")


def _delete(text: str, rng: np.random.Generator) -> str:
    start, end = _span(text, rng)
    return text[:start] + text[end:]


def _duplicate(text: str, rng: np.random.Generator) -> str:
    start, end = _span(text, rng)
    return text[:end] + text[start:end] + text[end:]


def _lines(text: str, rng: np.random.Generator) -> str:
    """Delete, repeat, or swap lines."""
    lines = text.split("\n")
    i, j = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    kind = rng.integers(3)
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines.insert(j, lines[i])
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return "\n".join(lines)


def _replace_token(text: str, rng: np.random.Generator, wanted: Callable[[str], bool], choices: Any) -> str:
    tokens = [match for match in _TOKEN.finditer(text) if wanted(match[0])]
    if not tokens:
        return text
    match = _pick(tokens, rng)
    return text[: match.start()] + _pick(choices, rng) + text[match.end() :]


def _other_number(text: str, rng: np.random.Generator) -> str:
    return _replace_token(text, rng, lambda token: token.lstrip("-")[:1].isdigit(), _NUMBERS)


def _swap_numbers(text: str, rng: np.random.Generator) -> str:
    present = re.findall(r"\d+(?:\.\d+)?", text) or ["0"]
    return _replace_token(text, rng, lambda token: token[0].isdigit(), present)


def _other_type(text: str, rng: np.random.Generator) -> str:
    return _replace_token(text, rng, lambda token: True, _VALUES)


def _other_word(text: str, rng: np.random.Generator) -> str:
    present = [token for token in _TOKEN.findall(text) if token[0].isalpha() or token[0] in "\"'"] or ["x"]
    return _replace_token(text, rng, lambda token: token[0].isalpha() or token[0] in "\"'", present)


def _truncate(text: str, rng: np.random.Generator) -> str:
    return text[: int(rng.integers(len(text) + 1))]


def _insert(text: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(len(text) + 1))
    return text[:at] + _pick(_SNIPPETS, rng) * int(_pick((1, 1, 1, 2, 2000), rng)) + text[at:]


_DAMAGES = (
    _flip_bytes,
    _delete,
    _duplicate,
    _lines,
    _other_number,
    _swap_numbers,
    _swap_numbers,
    _other_type,
    _other_word,
    _truncate,
    _insert,
)


def fuzz(texts: list[str], read: Callable[[str], Any], check: Callable[[Any], None]) -> Counter[str]:
    """How many damaged texts were read and how many refused; anything else fails, with the text in the report."""
    rng, outcomes = np.random.default_rng(0), Counter[str]()
    for number in range(INPUTS):
        text = mutate(texts[number % len(texts)], rng)
        try:
            value = read(text)
        except MaenasError as error:
            message = str(error)
            assert message.startswith("fuzz"), message
            assert len(message) < 2500
            assert all(line.isprintable() for line in message.split("\n")), ascii(message)
            outcomes["refused"] += 1
            continue
        except Exception as error:
            pytest.fail(f"input {number}: {type(error).__name__}: {error}\n{text[:3000]!a}")
        check(value)
        outcomes["read"] += 1
    return outcomes


def texts_of(kind: Any, pattern: str) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(data_dir(kind).glob(pattern))]


def test_damaged_specs_are_read_or_refused() -> None:
    def check(file: SpecFile) -> None:
        assert spec_from_json(spec_to_json(file.detector, file.name, file.provenance)) == file
        lower(file.detector)

    outcomes = fuzz(texts_of("searched_models", "*.json"), lambda text: spec_from_json(text, "fuzz"), check)
    assert min(outcomes["read"], outcomes["refused"]) > 40


def test_damaged_specs_whose_id_fits_are_read_or_refused() -> None:
    """The id stands against nearly every change, so that here it is written anew where the rest can be read."""

    def read(text: str) -> SpecFile:
        try:
            return spec_from_json(text, "fuzz")
        except MaenasError as error:
            fitting = re.search(r"but this detector's is ([0-9a-f]{12})", str(error))
            if fitting is None:
                raise
            return spec_from_json(re.sub(r'"id": "[^"]*"', f'"id": "{fitting[1]}"', text), "fuzz")

    outcomes = fuzz(texts_of("searched_models", "*.json"), read, lambda file: check_backbone(file.detector.backbone))
    assert min(outcomes["read"], outcomes["refused"]) > 40


def check_backbone(backbone: BackboneSpec) -> None:
    strides = np.cumprod([2] + [stage.stride for stage in backbone.stages])
    assert [strides[tap] for tap in backbone.taps] == [8, 16, 32]


def test_damaged_spaces_are_read_or_refused() -> None:
    def check(space: SearchSpace) -> None:
        last = np.array([len(row) - 1 for row in space.choices])
        check_backbone(space.spec_of(last))
        assert space.contains(space.spec_of(space.smallest))

    texts = [re.sub(r"(?m)^(#|description|source).*\n", "", text) for text in texts_of("search_spaces", "*.yaml")]
    texts = [text.replace("schema", "description: ''\nsource: ''\nschema") for text in texts]
    outcomes = fuzz(texts, lambda text: space_from_yaml(text, "fuzz"), check)
    assert min(outcomes["read"], outcomes["refused"]) > 40


@pytest.mark.parametrize(("family", "model"), [("res", "t"), ("csp", "m"), ("mob", "nano-s")])
def test_damaged_structures_are_read_or_refused(family: Any, model: str) -> None:
    backbone = read_spec(data_dir("searched_models") / f"damo-yolo-{model}.json").detector.backbone

    def read(text: str) -> BackboneSpec:
        return parse_structure(text, family=family, focus=True, act="relu", where="fuzz")

    outcomes = fuzz([format_structure(backbone)], read, check_backbone)
    assert min(outcomes["read"], outcomes["refused"]) > 40


def test_damaged_tables_are_read_or_refused() -> None:
    """The id is written anew where the rest can be read."""

    def read(text: str) -> LatencyTable:
        try:
            return table_from_json(text, "fuzz")
        except MaenasError as error:
            fitting = re.search(r"the content's is ([0-9a-f]{12})", str(error))
            if fitting is None:
                raise
            return table_from_json(re.sub(r'"id": "[^"]*"', f'"id": "{fitting[1]}"', text, count=1), "fuzz")

    def check(table: LatencyTable) -> None:
        assert content_id(table) == table.id
        assert table_from_json(table_to_json(table)) == table

    outcomes = fuzz(texts_of("latency_tables", "t4-*.json"), read, check)
    assert min(outcomes["read"], outcomes["refused"]) > 40


def test_damaged_device_catalogues_are_read_or_refused() -> None:
    text = texts_of("latency_tables", "devices.yaml")[0]
    part = "\n".join(
        line for line in text[: text.index("  - id: v100")].split("\n") if not line.strip().startswith("#")
    )

    def check(devices: dict[str, Device]) -> None:
        assert all(device.sm_count.value > 0 for device in devices.values())

    outcomes = fuzz([part], lambda text: devices_from_yaml(text, "fuzz"), check)
    assert min(outcomes["read"], outcomes["refused"]) > 40
