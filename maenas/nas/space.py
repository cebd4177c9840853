"""Search spaces: a YAML file -> every backbone that may be built, and how a genome (`genome`) names one of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from maenas.errors import MaenasError
from maenas.files import read_text, shipped_file, shipped_names
from maenas.nas.genome import GENES, Genome, stage_genes
from maenas.nas.space_parts import DepthBound, StageSpace, StemSpace, require
from maenas.presets import get_neck_preset
from maenas.score import MAE_WEIGHTS
from maenas.spec import (
    MAX_CHANNELS,
    OUTPUT_STRIDES,
    Activation,
    BackboneSpec,
    Block,
    InputSpec,
    StageSpec,
    StemSpec,
)
from maenas.strict import STRICT, parse_yaml

SCHEMA = "maenas/space@1"


@dataclass(frozen=True)
class SearchSpace:
    """One search space as written in its file."""

    __pydantic_config__: ClassVar = STRICT
    schema: str
    name: str
    description: str
    source: str
    block: Block
    act: Activation
    spp: bool
    input_size: int
    neck: str
    stem: StemSpace
    stages: tuple[StageSpace, ...]
    taps: tuple[int, int, int]
    bottleneck_ratio: tuple[float, float]
    depth_bound: DepthBound
    score_weights: tuple[float, float, float, float, float] = MAE_WEIGHTS
    widths_never_shrink: bool = True

    def __post_init__(self) -> None:
        require(self.schema == SCHEMA, f"schema is {self.schema!r}; this version reads {SCHEMA!r}")
        get_neck_preset(self.neck)
        low, high = self.bottleneck_ratio
        require(
            0 < low <= high <= MAX_CHANNELS,
            f"bottleneck_ratio {[low, high]} must rise from above 0 to at most {MAX_CHANNELS}",
        )
        require(
            all(0 <= weight <= 1000 for weight in self.score_weights) and any(self.score_weights),
            f"score_weights {list(self.score_weights)} must be 0 to 1000, and not all 0",
        )
        require(0 < len(self.stages) <= 16, f"{len(self.stages)} stages; a space has 1 to 16")
        strides = np.cumprod([2] + [stage.stride for stage in self.stages])[1:]
        require(
            all(
                1 <= tap <= len(strides) and strides[tap - 1] == want
                for tap, want in zip(self.taps, OUTPUT_STRIDES, strict=True)
            ),
            f"taps {list(self.taps)} must be stages at strides 8, 16 and 32; the stages are at {strides.tolist()}",
        )
        require(self.taps[-1] == len(self.stages), "the last tap must be the last stage")
        self._require_valid_choices()

    def _require_valid_choices(self) -> None:
        """The specs' own rules (multiples of 8 or 16, kernels, chaining) for the smallest backbone and every choice."""
        InputSpec(self.input_size, self.input_size)
        for width in self.stem.width.values:
            StemSpec(self.stem.kind, width, self.stem.kernel)
        smallest = self.spec_of(self.smallest)
        for number, (stage, space) in enumerate(zip(smallest.stages, self.stages, strict=True), start=1):
            choices = {
                "out_channels": space.width.values,
                "bottleneck": space.bottleneck.values,
                "kernel": space.kernels,
            }
            for name, values in choices.items():
                for value in values:
                    try:
                        replace(stage, **{name: value})
                    except MaenasError as error:
                        raise MaenasError(f"stage {number}: {error}") from error

    @cached_property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """Values that each gene indexes, `1 + 4 S` tuples in genome order."""
        rows: list[tuple[int, ...]] = [tuple(self.stem.width.values)]
        for stage in self.stages:
            depths = tuple(range(stage.min_depth, stage.max_depth + 1))
            rows += [tuple(stage.width.values), stage.kernels, tuple(stage.bottleneck.values), depths]
        return tuple(rows)

    def width_fits(self, in_width: NDArray, out_width: NDArray) -> NDArray[np.bool_]:
        """Whether a stage may go from one width to the other; arrays broadcast."""
        return (
            (out_width >= in_width)
            if self.widths_never_shrink
            else np.ones(np.broadcast_shapes(in_width.shape, out_width.shape), bool)
        )

    def bottleneck_fits(self, out_width: NDArray, bottleneck: NDArray) -> NDArray[np.bool_]:
        """Whether the ratio bottleneck / out_width is allowed; arrays broadcast."""
        low, high = self.bottleneck_ratio
        return (bottleneck >= low * out_width - 1e-9) & (bottleneck <= high * out_width + 1e-9)

    @cached_property
    def smallest(self) -> Genome:
        """The narrowest and shallowest architecture; raises `MaenasError` where no architecture is valid."""
        genome, width = [0], self.stem.width.min
        for number, stage in enumerate(self.stages, start=1):
            out = np.array([w for w in stage.width.values if w >= width or not self.widths_never_shrink])
            btn = np.array(stage.bottleneck.values)
            fits = self.bottleneck_fits(out[:, None], btn[None, :])
            require(
                bool(fits.any()),
                f"stage {number} has no valid choice: "
                f"no width >= {width} with a bottleneck within {list(self.bottleneck_ratio)} of it",
            )
            first = int(fits.any(axis=1).argmax())
            width = int(out[first])
            genome += [stage.width.values.index(width), 0, int(fits[first].argmax()), 0]
        return np.array(genome, dtype=np.int64)

    def spec_of(self, genome: Genome) -> BackboneSpec:
        """The backbone that a genome names."""
        values = [row[int(index)] for row, index in zip(self.choices, genome, strict=True)]
        stages, width = [], values[0]
        for number, stage in enumerate(self.stages):
            out, kernel, bottleneck, depth = values[stage_genes(number)]
            stages.append(StageSpec(self.block, width, out, bottleneck, kernel, stage.stride, depth))
            width = out
        stem = StemSpec(self.stem.kind, values[0], self.stem.kernel)
        return BackboneSpec(stem, tuple(stages), self.act, self.taps, self.spp)

    def genome_of(self, backbone: BackboneSpec) -> Genome:
        """Inverse of `spec_of`; raises `MaenasError` naming what lies outside the space."""
        reasons = self.why_not(backbone)
        if reasons:
            raise MaenasError(f"not in the space {self.name}: " + "; ".join(reasons))
        values = [backbone.stem.out_channels]
        for stage in backbone.stages:
            values += [stage.out_channels, stage.kernel, stage.bottleneck, stage.depth]
        return np.array([row.index(value) for row, value in zip(self.choices, values, strict=True)], dtype=np.int64)

    def contains(self, backbone: BackboneSpec) -> bool:
        """Whether some genome names `backbone` (its depth bound aside)."""
        return not self.why_not(backbone)

    def why_not(self, backbone: BackboneSpec) -> list[str]:
        """What keeps `backbone` out of this space, in words; empty if nothing does."""
        fixed = (
            ("stem", (backbone.stem.kind, backbone.stem.kernel), (self.stem.kind, self.stem.kernel)),
            ("act", backbone.act, self.act),
            ("spp", backbone.spp, self.spp),
            ("taps", backbone.taps, self.taps),
            ("number of stages", len(backbone.stages), len(self.stages)),
        )
        reasons = [f"{name} is {have}, not {want}" for name, have, want in fixed if have != want]
        if reasons:
            return reasons
        if backbone.stem.out_channels not in self.choices[0]:
            reasons.append(f"stem width {backbone.stem.out_channels} is not a choice")
        for number, (stage, space) in enumerate(zip(backbone.stages, self.stages, strict=True), start=1):
            for name, have, want in (("block", stage.block, self.block), ("stride", stage.stride, space.stride)):
                if have != want:
                    reasons.append(f"stage {number}: {name} is {have}, not {want}")
            values = (stage.out_channels, stage.kernel, stage.bottleneck, stage.depth)
            for name, value, row in zip(GENES, values, self.choices[stage_genes(number - 1)], strict=True):
                if value not in row:
                    reasons.append(f"stage {number}: {name} {value} is not a choice ({row[0]} to {row[-1]})")
            out, btn = np.array(stage.out_channels), np.array(stage.bottleneck)
            if not self.width_fits(np.array(stage.in_channels), out):
                reasons.append(f"stage {number}: width shrinks from {stage.in_channels} to {stage.out_channels}")
            if not self.bottleneck_fits(out, btn):
                reasons.append(
                    f"stage {number}: bottleneck {stage.bottleneck} is not within "
                    f"{list(self.bottleneck_ratio)} of {stage.out_channels}"
                )
        return reasons

    @cached_property
    def size(self) -> int:
        """Number of architectures within the stages' own limits (the layer and effectiveness bounds aside)."""
        ways = {width: 1 for width in self.stem.width.values}
        for stage in self.stages:
            outs, btns = np.array(stage.width.values), np.array(stage.bottleneck.values)
            inner = self.bottleneck_fits(outs[:, None], btns[None, :]).sum(axis=1)
            per_width = [int(n) * len(stage.kernels) * (stage.max_depth - stage.min_depth + 1) for n in inner]
            ways = {
                int(out): sum(count for width, count in ways.items() if self.width_fits(np.array(width), out)) * own
                for out, own in zip(outs, per_width, strict=True)
            }
        return sum(ways.values())


def space_id(space: SearchSpace) -> str:
    """First 12 hex digits of the SHA-256 of the space's canonical JSON."""
    return hashlib.sha256(json.dumps(asdict(space), sort_keys=True).encode()).hexdigest()[:12]


def space_names() -> list[str]:
    """Names of the shipped spaces."""
    return shipped_names("search_spaces", ".yaml")


def space_from_yaml(text: str, where: str = "space") -> SearchSpace:
    """Strict reader; raises `MaenasError` naming `where`, line, key and the valid choice."""
    return parse_yaml(text, SearchSpace, where=where)


def load_space(name_or_path: str) -> SearchSpace:
    """A shipped space by name, or one from a YAML file; raises `MaenasError`."""
    names = space_names()
    if name_or_path in names:
        path = shipped_file("search_spaces", f"{name_or_path}.yaml")
    elif name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        path = Path(name_or_path)
    else:
        raise MaenasError(
            f"unknown space {name_or_path!r}; the shipped ones are {', '.join(names)}, or give a YAML file's path"
        )
    return space_from_yaml(read_text(path, what="search space"), str(path))
