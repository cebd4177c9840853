"""The structure text of the published tools: `[{'class': 'SuperResConvK1KX', 'in': 24, 'out': 64, ...}, ...]`.

The text holds a searched backbone only, and what it means depends on the backbone family that reads it:

- `res`: an entry is a stage of residual units, as written.
- `csp`: an entry with stride 2 stands for L - 1 blocks, one with stride 1 for L more blocks of the same csp stage.
- `mob`: `k` and `btn` are ignored; units are inverted residuals with a 5x5 depthwise convolution, whose hidden width
  is round8(ceil(out * (3.5 + 0.5 (p - 1)))) for the p-th entry after the stem.

Both spellings are read: DAMO-YOLO's (`SuperResConvK1KX`) and the NAS toolbox's (`SuperResK1KX`).
"""

from __future__ import annotations

import ast
import math
import warnings
from typing import Any

from maenas.choices import Family, Spelling
from maenas.errors import MaenasError
from maenas.lowering import round8
from maenas.presets import detector_around, get_neck_preset
from maenas.spec import Activation, BackboneSpec, Block, DetectorSpec, StageSpec, StemSpec

MOBILE_KERNEL = 5
MAX_TEXT = 1 << 20
_STEM_CLASSES = ("ConvKXBNRELU",)
_BLOCK_NAMES: dict[str, Block] = {"K1KX": "k1kx", "KXKX": "kxkx", "K1KXK1": "k1kxk1", "K1DWK1": "k1dwk1"}
_KEYS = {"class", "in", "out", "k", "s", "L", "btn"}
_IGNORED_KEYS = {"nbitsA", "nbitsW", "inner_class", "g", "act", "force_resproj", "block_id"}


def parse_structure(
    text: str, *, family: Family, focus: bool, act: Activation, where: str = "structure"
) -> BackboneSpec:
    """Backbone written in `text` as `family` would build it.

    `focus` puts the Focus slice before the stem convolution (else the stem has stride 2). Raises `MaenasError`.
    """
    entries = _parse_entries(text, where)
    stem, *rest = entries
    if stem["class"] not in _STEM_CLASSES:
        raise MaenasError(f"{where}: entry 0 is {_shown(stem['class'])}; a structure begins with {_STEM_CLASSES[0]!r}")
    if not rest:
        raise MaenasError(f"{where}: there is no stage after the stem")
    stages = [_stage(entry, position, family, where) for position, entry in enumerate(rest, start=1)]
    if family == "csp":
        stages = _merge_csp(stages, where)
    strides, taps, stride = [], [], 2
    for stage in stages:
        stride *= stage.stride
        strides.append(stride)
    for wanted in (8, 16, 32):
        if wanted not in strides:
            raise MaenasError(f"{where}: no stage ends at stride {wanted}; the stages end at {strides}")
        taps.append(len(strides) - strides[::-1].index(wanted))
    width, kernel = _integer(stem, "out", 0, where), _integer(stem, "k", 0, where)
    try:
        stem_spec = StemSpec("focus" if focus else "conv", width, kernel)
        return BackboneSpec(stem_spec, tuple(stages), act, (taps[0], taps[1], taps[2]))
    except MaenasError as error:
        raise MaenasError(f"{where}: {error}") from None


def structure_detector(
    text: str,
    *,
    family: Family,
    focus: bool,
    act: Activation,
    neck: str,
    input_size: int,
    num_classes: int,
    where: str = "structure",
) -> DetectorSpec:
    """A whole detector around the backbone written in `text`: a neck preset and its head. Raises `MaenasError`."""
    backbone = parse_structure(text, family=family, focus=focus, act=act, where=where)
    return detector_around(backbone, get_neck_preset(neck), side=input_size, num_classes=num_classes)


def format_structure(backbone: BackboneSpec, *, spelling: Spelling = "damo-yolo") -> str:
    """Structure text of `backbone`, an entry a line; raises `MaenasError` where the format cannot say it."""
    prefix = "SuperResConv" if spelling == "damo-yolo" else "SuperRes"
    stem = backbone.stem
    entries: list[dict[str, Any]] = [
        {"class": "ConvKXBNRELU", "in": 3, "out": stem.out_channels, "k": stem.kernel, "s": 1}
    ]
    for stage in backbone.stages:
        number = len(entries)
        common = {"in": stage.in_channels, "out": stage.out_channels, "k": stage.kernel, "s": stage.stride}
        if stage.block == "csp":
            merged = number == 3  # the published files write the stage at stride 16 as two entries
            second = math.ceil(stage.depth / 2) if merged else 0
            entries.append({"class": f"{prefix}KXKX", **common, "L": stage.depth - second + 1, "btn": stage.bottleneck})
            if merged:
                again = {**common, "in": stage.out_channels, "s": 1}
                entries.append({"class": f"{prefix}KXKX", **again, "L": second, "btn": stage.bottleneck})
            continue
        name = stage.block.upper()
        if stage.block == "k1dwk1" and spelling == "damo-yolo":
            if (stage.kernel, stage.bottleneck) != (MOBILE_KERNEL, mobile_hidden(stage.out_channels, number)):
                raise MaenasError(
                    f"stage {number} has kernel {stage.kernel} and hidden width {stage.bottleneck}; this format fixes "
                    f"them at {MOBILE_KERNEL} and {mobile_hidden(stage.out_channels, number)} for mobile backbones"
                )
            name = "K1KX"
        entries.append({"class": f"{prefix}{name}", **common, "L": stage.depth, "btn": stage.bottleneck})
    return "[" + ",\n ".join(repr(entry) for entry in entries) + "]\n"


def mobile_hidden(out_channels: int, position: int) -> int:
    """Hidden width of a published mobile stage, `position` counted from 1 after the stem."""
    return int(round8(math.ceil(out_channels * (3.5 + 0.5 * (position - 1)))))


def _parse_entries(text: str, where: str) -> list[dict[str, Any]]:
    if len(text) > MAX_TEXT:
        raise MaenasError(f"{where}: {len(text)} characters; a structure has at most {MAX_TEXT}")
    try:
        with warnings.catch_warnings(action="ignore"):  # the compiler's remarks, for example on "\\d"
            value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise MaenasError(f"{where}{line}: not a list of {{'class': ..., 'in': ..., 'out': ...}} entries") from None
    if isinstance(value, dict) and isinstance(value.get("net_str", value.get("best_structures")), list | str):
        raise MaenasError(f"{where}: give the list of entries itself, not the search log around it")
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise MaenasError(f"{where}: not a list of {{'class': ..., 'in': ..., 'out': ...}} entries")
    for number, entry in enumerate(value):
        unknown = [key for key in entry if key not in _KEYS | _IGNORED_KEYS]
        if unknown:
            raise MaenasError(
                f"{where}: entry {number} has the unknown key {_shown(unknown[0])}; known: {sorted(_KEYS)}"
            )
        if not isinstance(entry.get("class"), str):
            raise MaenasError(f"{where}: entry {number} has no 'class'")
    return value


def _integer(entry: dict[str, Any], key: str, number: int, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int:
        raise MaenasError(f"{where}: entry {number} needs an integer {key!r}, not {_shown(value)}")
    if abs(value) > MAX_TEXT:  # Python refuses to write, and so to report, integers of thousands of digits
        raise MaenasError(f"{where}: entry {number}: {key!r} is too large a number")
    return value


def _shown(value: Any) -> str:
    if not isinstance(value, str | bool | float | None):
        return type(value).__name__
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _stage(entry: dict[str, Any], position: int, family: Family, where: str) -> StageSpec:
    name = entry["class"].removeprefix("SuperRes").removeprefix("Conv")
    if not entry["class"].startswith("SuperRes") or name not in _BLOCK_NAMES:
        known = ", ".join(f"SuperResConv{known}" for known in _BLOCK_NAMES)
        raise MaenasError(f"{where}: entry {position} has the unknown class {_shown(entry['class'])}; known: {known}")
    block = _BLOCK_NAMES[name]
    cin, out, k, s, depth, btn = (_integer(entry, key, position, where) for key in ("in", "out", "k", "s", "L", "btn"))
    if family == "mob" and block == "k1kx":
        block, k, btn = "k1dwk1", MOBILE_KERNEL, mobile_hidden(out, position)
    if family == "csp" and block != "kxkx":
        raise MaenasError(
            f"{where}: entry {position} is {_shown(entry['class'])}; a csp backbone is made of KXKX entries"
        )
    try:
        return StageSpec(block, cin, out, btn, k, s, depth)
    except MaenasError as error:
        raise MaenasError(f"{where}: entry {position}: {error}") from None


def _merge_csp(entries: list[StageSpec], where: str) -> list[StageSpec]:
    """One csp stage for each stride-2 entry and the stride-1 entries behind it."""
    groups: list[list[StageSpec]] = []
    for entry in entries:
        if entry.stride == 1 and groups:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return [_csp_stage(group, number, where) for number, group in enumerate(groups, start=1)]


def _csp_stage(group: list[StageSpec], number: int, where: str) -> StageSpec:
    first = group[0]
    shape = (first.out_channels, first.bottleneck, first.kernel)
    for entry in group[1:]:
        if (entry.in_channels, entry.out_channels, entry.bottleneck, entry.kernel) != (first.out_channels, *shape):
            raise MaenasError(f"{where}: csp stage {number}: the out, btn and k of its {len(group)} entries differ")
    depth = sum(entry.depth for entry in group) - 1
    if depth < 1:
        raise MaenasError(f"{where}: csp stage {number}: L is 1, which leaves it without blocks")
    try:
        return StageSpec("csp", first.in_channels, *shape, first.stride, depth)
    except MaenasError as error:
        raise MaenasError(f"{where}: csp stage {number}: {error}") from None
