"""Frozen specifications of a detector and their JSON files.

A `DetectorSpec` is the one description of a network: it is scored, budgeted, trained and deployed from here.
All sizes are in pixels, all widths in channels.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from maenas.errors import MaenasError
from maenas.files import read_text, shipped_file, shipped_names, write_atomic
from maenas.strict import STRICT, dump_json, parse_json

OTHER_FILES = (".yaml", ".yml", ".pt", ".pth", ".safetensors", ".onnx", ".engine")  # of other tools, or with weights
Block = Literal["k1kx", "kxkx", "k1kxk1", "k1dwk1", "csp"]
Activation = Literal["relu", "silu"]

SCHEMA = "maenas/detector@1"
CHANNEL_MULTIPLE = 8
MAX_CHANNELS = 8192
MAX_DEPTH = 256
MAX_INPUT = 8192
OUTPUT_STRIDES = (8, 16, 32)
MOST_BINS = 64


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MaenasError(message)


def _require_channels(name: str, value: int, multiple: int = CHANNEL_MULTIPLE) -> None:
    low, high = value // multiple * multiple, (value // multiple + 1) * multiple
    nearest = f"{high}" if low == 0 else f"{low} or {high}"
    _require(
        value > 0 and value % multiple == 0,
        f"{name} is {value}; channels must be a positive multiple of {multiple} (nearest: {nearest})",
    )
    _require(value <= MAX_CHANNELS, f"{name} is {value}; the most supported is {MAX_CHANNELS}")


@dataclass(frozen=True)
class InputSpec:
    """What the network takes: float `[B, 3, height, width]`, and how an image becomes that."""

    __pydantic_config__: ClassVar = STRICT
    height: int = 640
    width: int = 640
    channel_order: Literal["rgb", "bgr"] = "rgb"
    value_range: tuple[float, float] = (0.0, 255.0)
    resize: Literal["stretch", "letterbox"] = "stretch"

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            _require(
                type(side) is int and 0 < side <= MAX_INPUT and side % OUTPUT_STRIDES[-1] == 0,
                f"input {name} is {side!r:.60}; "
                f"it must be a positive multiple of {OUTPUT_STRIDES[-1]}, at most {MAX_INPUT}",
            )
        low, high = self.value_range
        _require(
            -math.inf < low < high < math.inf,
            f"value_range is {list(self.value_range)}; the first number must be the smaller, both finite",
        )
        object.__setattr__(self, "value_range", (_canonical(low), _canonical(high)))


@dataclass(frozen=True)
class StemSpec:
    """First layer, at half the input size: Focus slice + k x k convolution, or a stride-2 k x k convolution."""

    __pydantic_config__: ClassVar = STRICT
    kind: Literal["focus", "conv"]
    out_channels: int
    kernel: int = 3

    def __post_init__(self) -> None:
        _require_channels("stem out_channels", self.out_channels)
        _require_kernel("stem kernel", self.kernel)


@dataclass(frozen=True)
class StageSpec:
    """`depth` units of one block.

    The first unit takes `in_channels` and the stride, the others `out_channels` and stride 1. For `csp` a unit is a
    residual k x k - k x k pair at half of `out_channels`; for `k1dwk1` `bottleneck` is the (expanded) hidden width.
    """

    __pydantic_config__: ClassVar = STRICT
    block: Block
    in_channels: int
    out_channels: int
    bottleneck: int
    kernel: int
    stride: int
    depth: int

    def __post_init__(self) -> None:
        _require_channels("in_channels", self.in_channels)
        _require_channels("out_channels", self.out_channels, 16 if self.block == "csp" else CHANNEL_MULTIPLE)
        _require_channels("bottleneck", self.bottleneck)
        _require_kernel("kernel", self.kernel)
        _require(self.stride in (1, 2), f"stride is {self.stride}; it must be 1 or 2")
        _require(self.block != "csp" or self.stride == 2, "a csp stage has stride 2")
        _require(1 <= self.depth <= MAX_DEPTH, f"depth is {self.depth}; it must be 1 to {MAX_DEPTH}")


@dataclass(frozen=True)
class BackboneSpec:
    """Stem and stages. `taps` are 1-based stage numbers whose outputs, at strides 8, 16 and 32, feed the neck."""

    __pydantic_config__: ClassVar = STRICT
    stem: StemSpec
    stages: tuple[StageSpec, ...]
    act: Activation
    taps: tuple[int, int, int]
    spp: bool = True

    def __post_init__(self) -> None:
        _require(0 < len(self.stages) <= 64, f"{len(self.stages)} stages; a backbone has 1 to 64")
        channels, stride, strides = self.stem.out_channels, 2, []
        for number, stage in enumerate(self.stages, start=1):
            _require(
                stage.in_channels == channels,
                f"stage {number} takes {stage.in_channels} channels, but what comes before it gives {channels}",
            )
            channels, stride = stage.out_channels, stride * stage.stride
            strides.append(stride)
        tapped = tuple(strides[t - 1] if 1 <= t <= len(strides) else None for t in self.taps)
        _require(
            tapped == OUTPUT_STRIDES,
            f"taps {list(self.taps)} are at strides {list(tapped)}; they must be stages at strides 8, 16 and 32",
        )
        _require(self.taps[-1] == len(self.stages), f"the last tap is stage {self.taps[-1]}, not the last stage")

    @property
    def widths_text(self) -> str:
        """Widths of the stem and of every stage, for people: "32-64-64-96-96-256"."""
        return "-".join(str(part.out_channels) for part in (self.stem, *self.stages))

    @property
    def tap_channels(self) -> tuple[int, int, int]:
        """Widths of the three tapped outputs, strides 8, 16, 32."""
        c3, c4, c5 = (self.stages[tap - 1].out_channels for tap in self.taps)
        return c3, c4, c5


@dataclass(frozen=True)
class NeckSpec:
    """RepGFPN: `depth` fusion blocks in each of its five merges (report, section 2.2).

    The hidden width of a block is `hidden_ratio` times its branch width: `basic` is a RepConv 3x3 and a 3x3 with an
    identity link, `mobile` an inverted residual with a 5x5 depthwise convolution.
    """

    __pydantic_config__: ClassVar = STRICT
    out_channels: tuple[int, int, int]
    depth: int
    hidden_ratio: float
    block: Literal["basic", "mobile"]
    act: Activation

    def __post_init__(self) -> None:
        for channels in self.out_channels:
            _require_channels("neck out_channels", channels)
        _require(1 <= self.depth <= MAX_DEPTH, f"neck depth is {self.depth}; it must be 1 to {MAX_DEPTH}")
        _require(0.25 <= self.hidden_ratio <= 16, f"hidden_ratio is {self.hidden_ratio}; it must be 0.25 to 16")
        object.__setattr__(self, "hidden_ratio", _canonical(self.hidden_ratio))


@dataclass(frozen=True)
class HeadSpec:
    """ZeroHead: one class and one box convolution per level; boxes as distributions over `reg_max` + 1 bins."""

    __pydantic_config__: ClassVar = STRICT
    num_classes: int = 80
    reg_max: int = 16
    kernel: int = 3

    def __post_init__(self) -> None:
        _require(1 <= self.num_classes <= 65536, f"num_classes is {self.num_classes}; it must be 1 to 65536")
        _require(1 <= self.reg_max <= MOST_BINS, f"reg_max is {self.reg_max}; it must be 1 to {MOST_BINS}")
        _require_kernel("head kernel", self.kernel)


@dataclass(frozen=True)
class DetectorSpec:
    """A whole detector: input, backbone, neck, head."""

    __pydantic_config__: ClassVar = STRICT
    input: InputSpec
    backbone: BackboneSpec
    neck: NeckSpec
    head: HeadSpec

    @property
    def id(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON: equal specs, equal ids, on any machine."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SpecFile:
    """A spec as stored: `provenance` says where it comes from (search settings, prediction); only reports read it."""

    __pydantic_config__: ClassVar = STRICT
    schema: str
    name: str
    id: str
    detector: DetectorSpec
    provenance: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _require(
            self.name.isprintable() and not {*self.name} & {*"/\\"} and self.name not in ("", ".", ".."),
            f"name is {self.name!r:.80}; files are named after it: it must be a plain file name",
        )
        _require(self.schema == SCHEMA, f"schema is {self.schema!r}; this version reads {SCHEMA!r}")
        _require(
            self.id == self.detector.id,
            f"id is {self.id}, but this detector's is {self.detector.id}: the file was edited; correct the id",
        )


def _require_kernel(name: str, value: int) -> None:
    _require(value in (1, 3, 5, 7), f"{name} is {value}; it must be 1, 3, 5 or 7")


def _canonical(value: float) -> float:
    """The same text, and so the same id, for numbers that are equal: 1 is written 1.0 and -0.0 is 0.0."""
    return float(value) + 0.0


def spec_to_json(spec: DetectorSpec, name: str, provenance: Mapping[str, Any] | None = None) -> str:
    """The JSON file of `spec`, byte for byte the same for the same arguments."""
    return dump_json(SpecFile(SCHEMA, name, spec.id, spec, provenance))


def spec_from_json(text: str, where: str = "spec") -> SpecFile:
    """Strict inverse of `spec_to_json`; raises `MaenasError` naming `where`, line, key and the valid choice."""
    return parse_json(text, SpecFile, where=where)


def read_spec(path: str | Path) -> SpecFile:
    """Read a spec file; raises `MaenasError`."""
    return spec_from_json(read_text(Path(path), what="spec"), str(path))


def load_spec(name: str) -> SpecFile:
    """The spec file `name`, or the published detector called so ("damo-yolo-t"); raises `MaenasError`."""
    path = Path(name)
    if name in PUBLISHED and not path.exists():
        return read_spec(published_file(name))
    suffix = path.suffix.lower()
    if suffix in OTHER_FILES or (suffix != ".json" and name not in PUBLISHED and not path.is_file()):
        near = difflib.get_close_matches(name, PUBLISHED, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise MaenasError(
            f"unknown network {name!r}{guess}; a network is a spec file (.json), as `maenas search` writes it, or one "
            f"of {', '.join(PUBLISHED)}"
        )
    return read_spec(name)


def published_file(name: str) -> Path:
    """File of a published detector, one of `PUBLISHED`."""
    return shipped_file("searched_models", f"{name}.json")


@cache
def published_spec(name: str) -> DetectorSpec:
    """A published detector, one of `PUBLISHED`."""
    return read_spec(published_file(name)).detector


def published_specs(input_size: int | None = None) -> dict[str, DetectorSpec]:
    """The published detectors by name, at their own input size or at another one in pixels."""
    return {name: resized(published_spec(name), input_size) for name in PUBLISHED}


def resized(spec: DetectorSpec, side: int | None) -> DetectorSpec:
    """The same detector for a square input of another side in pixels, None for its own; raises `MaenasError`."""
    size = spec.input if side is None else dataclasses.replace(spec.input, height=side, width=side)
    return dataclasses.replace(spec, input=size)


def write_spec(path: str | Path, spec: DetectorSpec, name: str, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a spec file atomically; raises `MaenasError`."""
    write_atomic(Path(path), spec_to_json(spec, name, provenance))


BLOCKS: tuple[Block, ...] = get_args(Block)
PUBLISHED: tuple[str, ...] = tuple(shipped_names("searched_models", ".json"))
