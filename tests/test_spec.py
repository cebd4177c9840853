import copy
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from maenas.errors import MaenasError
from maenas.files import data_dir
from maenas.spec import (
    BLOCKS,
    PUBLISHED,
    BackboneSpec,
    DetectorSpec,
    HeadSpec,
    InputSpec,
    NeckSpec,
    StageSpec,
    StemSpec,
    load_spec,
    published_file,
    read_spec,
    spec_from_json,
    spec_to_json,
    write_spec,
)

# Whoever changes one of these breaks every file and table that refers to it.
SHIPPED_IDS = {
    "damo-yolo-l": "bb5a721d64e5",
    "damo-yolo-m": "a6660dc16ab2",
    "damo-yolo-nano-l": "15711ef9e8df",
    "damo-yolo-nano-m": "8bbb9768f505",
    "damo-yolo-nano-s": "b722e6fe1320",
    "damo-yolo-s": "60afda9391f1",
    "damo-yolo-t": "c2700dd3a3bf",
}


def shipped(name: str) -> Path:
    return data_dir("searched_models") / f"{name}.json"


T_TEXT = shipped("damo-yolo-t").read_text(encoding="utf-8")
T = spec_from_json(T_TEXT).detector


def refusal(text: str) -> str:
    with pytest.raises(MaenasError) as caught:
        spec_from_json(text, "net.json")
    return str(caught.value)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_random_specs_of_these_tests_hold_every_block(block: str) -> None:
    find(
        st.from_type(BackboneSpec),
        lambda backbone: {stage.block for stage in backbone.stages} == {block},
        settings=settings(max_examples=1000, phases=[Phase.generate], derandomize=True),
    )


provenances = st.none() | st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(0, 9) | st.none())


names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S"), exclude_characters="/\\."), min_size=1)


@given(spec=..., name=names, provenance=provenances)
def test_a_spec_reads_back_equal_and_writes_the_same_bytes(
    spec: DetectorSpec, name: str, provenance: dict[str, Any] | None
) -> None:
    text = spec_to_json(spec, name, provenance)
    file = spec_from_json(text)
    assert (file.detector, file.name, file.id, file.provenance) == (spec, name, spec.id, provenance)
    assert spec_to_json(file.detector, file.name, file.provenance) == text


@pytest.mark.parametrize("name", SHIPPED_IDS)
def test_the_ids_of_the_shipped_specs_never_change(name: str) -> None:
    assert read_spec(shipped(name)).id == SHIPPED_IDS[name]


def test_every_shipped_spec_has_its_pinned_id_and_its_own_name() -> None:
    paths = [published_file(name) for name in PUBLISHED]
    assert [path.stem for path in paths] == sorted(SHIPPED_IDS)
    assert [read_spec(path).name for path in paths] == sorted(SHIPPED_IDS)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def changed(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """A copy with one leaf changed, past all validation."""
    if not path:
        return new
    if isinstance(value, tuple):
        return tuple(changed(item, path[1:], new) if i == path[0] else item for i, item in enumerate(value))
    result = copy.copy(value)
    name = str(path[0])
    object.__setattr__(result, name, changed(getattr(value, name), path[1:], new))
    return result


@pytest.mark.parametrize("path", [path for path, _ in leaves(T)], ids=lambda path: ".".join(map(str, path)))
def test_the_id_depends_on_every_field(path: tuple[str | int, ...]) -> None:
    old = dict(leaves(T))[path]
    new = f"{old}x" if isinstance(old, str) else not old if isinstance(old, bool) else old + 1
    assert changed(T, path, new).id != T.id
    assert changed(T, path, old).id == T.id


def test_equal_specs_have_equal_ids_however_their_numbers_are_written() -> None:
    one = dataclasses.replace(
        T, input=InputSpec(value_range=(-0.0, 255.0)), neck=dataclasses.replace(T.neck, hidden_ratio=1.0)
    )
    two = dataclasses.replace(
        T, input=InputSpec(value_range=(0, 255)), neck=dataclasses.replace(T.neck, hidden_ratio=1)
    )
    assert one == two
    assert one.id == two.id == T.id
    assert spec_to_json(one, "a") == spec_to_json(two, "a") == spec_to_json(T, "a")


@given(one=..., two=...)
def test_different_specs_have_different_ids(one: DetectorSpec, two: DetectorSpec) -> None:
    assert (one.id == two.id) == (one == two)
    assert copy.deepcopy(one).id == one.id


def test_a_written_file_is_the_text_and_reads_back(tmp_path: Path) -> None:
    write_spec(tmp_path / "t.json", T, "t", {"from": "here"})
    assert (tmp_path / "t.json").read_text(encoding="utf-8") == spec_to_json(T, "t", {"from": "here"})
    assert read_spec(tmp_path / "t.json").detector == T


def test_the_order_of_keys_and_the_layout_do_not_matter() -> None:
    text = json.dumps(json.loads(T_TEXT), sort_keys=True)
    assert spec_from_json(text) == spec_from_json(T_TEXT)


STAGE_2 = '"in_channels": 64, "out_channels": 96, "bottleneck": 64,'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"kind": "focus"', '"knid": "focus"', "stem.knid: unknown key; did you mean kind?"),
        ('"kind": "focus", ', "", "detector.backbone.stem.kind: this key is missing"),
        ('"kind": "focus"', '"kind": "fokus"', "detector.backbone.stem.kind: must be 'focus' or 'conv', got 'fokus'"),
        ('"num_classes": 80', '"num_classes": "80"', "detector.head.num_classes: must be a valid integer, got '80'"),
        ('"num_classes": 80', '"num_classes": 80.5', "detector.head.num_classes: must be a valid integer"),
        ('"num_classes": 80', '"num_classes": true', "detector.head.num_classes: must be a valid integer, got True"),
        ('"num_classes": 80', '"num_classes": 0', "detector.head: num_classes is 0; it must be 1 to 65536"),
        ('"reg_max": 16', '"reg_max": 65', "detector.head: reg_max is 65; it must be 1 to 64"),
        ('"kernel": 3}\n  }', '"kernel": 4}\n  }', "detector.head: head kernel is 4; it must be 1, 3, 5 or 7"),
        (
            "maenas/detector@1",
            "maenas/detector@2",
            "schema is 'maenas/detector@2'; this version reads 'maenas/detector@",
        ),
        ("c2700dd3a3bf", "c2700dd3a3be", "id is c2700dd3a3be, but this detector's is c2700dd3a3bf"),
        ('"reg_max": 16', '"reg_max": 15', "id is c2700dd3a3bf, but this detector's is "),
        ('"height": 640', '"height": 650', "detector.input: input height is 650; it must be a positive multiple of 32"),
        ('"height": 640', '"height": 0', "detector.input: input height is 0; it must be a positive multiple of 32"),
        ("[0.0, 255.0]", "[255.0, 0.0]", "detector.input: value_range is [255.0, 0.0]; the first number must be the s"),
        ("[0.0, 255.0]", "[0.0]", "detector.input.value_range[1]: this key is missing"),
        (STAGE_2, STAGE_2.replace("64,", "65,", 1), "stages[1]: in_channels is 65; channels must be a positive mult"),
        (STAGE_2, STAGE_2.replace("96", "100"), "stages[1]: out_channels is 100; channels must be a positive multip"),
        (STAGE_2, STAGE_2.replace("96", "100"), "(nearest: 96 or 104)"),
        (STAGE_2, STAGE_2.replace("96", "104"), "stage 3 takes 96 channels, but what comes before it gives 104"),
        (STAGE_2, STAGE_2.replace("64,", "72,", 1), "stage 2 takes 72 channels, but what comes before it gives 64"),
        (
            STAGE_2,
            STAGE_2.replace("96", "0"),
            "out_channels is 0; channels must be a positive multiple of 8 (nearest: 8)",
        ),
        (STAGE_2, STAGE_2.replace("96", "8200"), "out_channels is 8200; the most supported is 8192"),
        ('"stride": 1', '"stride": 3', "stages[3]: stride is 3; it must be 1 or 2"),
        ('"depth": 1', '"depth": 0', "stages[4]: depth is 0; it must be 1 to 256"),
        ('"taps": [2, 4, 5]', '"taps": [1, 4, 5]', "taps [1, 4, 5] are at strides [4, 16, 32]; they must be stages at"),
        ('"taps": [2, 4, 5]', '"taps": [2, 4, 6]', "taps [2, 4, 6] are at strides [8, 16, None]; they must be stages"),
        ('"taps": [2, 4, 5]', '"taps": [2, 4]', "detector.backbone.taps[2]: this key is missing"),
        ('"hidden_ratio": 1.0', '"hidden_ratio": 17.0', "detector.neck: hidden_ratio is 17.0; it must be 0.25 to 16"),
        ('"depth": 3', '"depth": 0', "detector.neck: neck depth is 0; it must be 1 to 256"),
    ],
)
def test_an_error_names_the_place_and_the_valid_choice(old: str, new: str, message: str) -> None:
    head, found, tail = T_TEXT.rpartition(old)
    assert found
    text = refusal(head + new + tail)
    assert message in text
    assert all(re.match(r"net\.json(:\d+)?: ", line) for line in text.splitlines())


def test_an_error_names_the_line_of_the_value_or_of_the_object_around_it() -> None:
    lines = T_TEXT.splitlines()
    of_value = next(number for number, line in enumerate(lines, start=1) if '"num_classes"' in line)
    assert refusal(T_TEXT.replace(": 80", ": 8.5")).startswith(f"net.json:{of_value}: detector.head.num_classes: ")
    of_stage = next(number for number, line in enumerate(lines, start=1) if '"stride": 1' in line)
    assert refusal(T_TEXT.replace('"stride": 1', '"stride": 3')).startswith(f"net.json:{of_stage}: detector.backbone.")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: StageSpec("csp", 16, 24, 16, 3, 2, 1),
            "out_channels is 24; channels must be a positive multiple of 16",
        ),
        (lambda: StageSpec("csp", 16, 16, 16, 3, 1, 1), "a csp stage has stride 2"),
        (lambda: StemSpec("conv", 16, 2), "stem kernel is 2; it must be 1, 3, 5 or 7"),
        (lambda: StemSpec("conv", -8), "stem out_channels is -8"),
        (lambda: NeckSpec((64, 128, 250), 1, 1.0, "basic", "relu"), "neck out_channels is 250"),
        (lambda: NeckSpec((64, 64, 64), 1, float("nan"), "basic", "relu"), "hidden_ratio is nan"),
        (lambda: InputSpec(value_range=(float("-inf"), float("inf"))), "value_range"),
        (lambda: InputSpec(height="320"), "input height is '320'; it must be a positive multiple of 32"),  # type: ignore
        (lambda: InputSpec(height=(320, 320)), "input height is (320, 320); it must"),  # type: ignore
        (lambda: InputSpec(width=320.0), "input width is 320.0; it must"),  # type: ignore
        (lambda: HeadSpec(num_classes=0), "num_classes is 0"),
        (lambda: dataclasses.replace(T.backbone, stages=()), "0 stages; a backbone has 1 to 64"),
        (
            lambda: dataclasses.replace(
                T.backbone, stages=(*T.backbone.stages, StageSpec("k1kx", 384, 384, 64, 3, 1, 1))
            ),
            "the last tap is stage 5, not the last stage",
        ),
    ],
)
def test_a_spec_that_cannot_be_built_is_refused_in_code_as_well(make: Any, message: str) -> None:
    with pytest.raises(MaenasError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo11n.pt", "damo-yolo-x", "no-such-network"])
def test_a_network_named_as_elsewhere_is_answered_with_what_a_network_is_here(name: str) -> None:
    with pytest.raises(MaenasError, match=r"unknown network .*spec file \(.json\).*damo-yolo-t"):
        load_spec(name)


@pytest.mark.parametrize("name", ["model.yaml", "weights.safetensors", "net.onnx"])
def test_a_file_that_is_no_spec_is_no_broken_json(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xff nc: 80\n")
    with pytest.raises(MaenasError, match="a network is a spec file"):
        load_spec(str(tmp_path / name))
