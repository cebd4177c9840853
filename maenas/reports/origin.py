"""The provenance of a searched spec, read back: the search that it came from."""

from __future__ import annotations

import json
from dataclasses import replace

from maenas.errors import MaenasError
from maenas.nas.necks import neck_grid
from maenas.nas.provenance import Provenance
from maenas.nas.request import Request, Setup, prepare
from maenas.nas.space import SearchSpace, load_space, space_id, space_names
from maenas.presets import NECK_PRESETS, get_neck_preset, make_head, make_neck, reaching
from maenas.spec import DetectorSpec, SpecFile
from maenas.strict import parse_json


def read_origin(stored: SpecFile, where: str) -> Provenance | None:
    """The search that a spec came from; None for a spec that was not searched.

    Raises `MaenasError` naming `where` and the key if the provenance is not what a search writes.
    """
    if stored.provenance is None or "space" not in stored.provenance:
        return None
    return parse_json(json.dumps(dict(stored.provenance)), Provenance, where=f"{where}, provenance")


def neck_of(spec: DetectorSpec) -> str | None:
    """The preset, or the neck of a preset's grid, that gives this neck and head, if one does."""
    taps, classes, side = spec.backbone.tap_channels, spec.head.num_classes, max(spec.input.height, spec.input.width)
    for name in (*NECK_PRESETS, *(row[0] for base in NECK_PRESETS for row in neck_grid(base))):
        preset = get_neck_preset(name)
        heads = make_head(preset, classes), make_head(reaching(preset, side), classes)
        if make_neck(preset, taps) == spec.neck and spec.head in heads:
            return name
    return None


def space_of(origin: Provenance, given: str | None) -> SearchSpace:
    """The space that was searched; raises `MaenasError` where it is not shipped, or `given` is another one."""
    if given is None and origin.space not in space_names():  # nor may a file name a path to be read
        raise MaenasError(
            f"the space {origin.space} is not a shipped one: give its YAML file with --space to see its front"
        )
    space = load_space(given or origin.space)
    if space_id(space) != origin.space_id:
        raise MaenasError(
            f"the space {space.name} (id {space_id(space)}) is not the one that was searched "
            f"({origin.space}, id {origin.space_id}): give the YAML file of that one with --space"
        )
    return space


def setup_of(origin: Provenance, spec: DetectorSpec, given: str | None) -> Setup:
    """The search that `spec` came from, ready to run; raises `MaenasError` where it cannot be set up again."""
    space_of(origin, given)
    limits = origin.budgets
    first, *_ = origin.latency
    timed = [row for row in origin.latency if f"latency on {row.device}" in limits]
    request = Request(
        space=given or origin.space,
        devices=tuple(row.device for row in timed or [first]),
        latency_s=tuple(limits[f"latency on {row.device}"] for row in timed),
        max_params=_whole(limits.get("params")),
        max_flops=_whole(limits.get("flops")),
        max_activation_bytes=_whole(limits.get("activation memory")),
        max_effectiveness=origin.depth_bound.max_effectiveness,
        scope=origin.scope,
        solver=origin.solver,
        score=origin.score.name,
        precision=first.precision,
        batch=first.batch,
        input_size=_side(spec),
        num_classes=spec.head.num_classes,
        neck=_neck(spec) if origin.neck is None else origin.neck.name,
        population=origin.population,
        generations=origin.generations,
        seed=origin.seed,
    )
    return prepare_bounded(request, origin.depth_bound.max_layers)


def prepare_bounded(request: Request, max_layers: int | None) -> Setup:
    """`request` with the bound on layers that was in force: its space's own, or else `max_layers`."""
    if request.latency_s or request.max_params or request.max_flops or request.max_activation_bytes:
        setup = prepare(request)
        if max_layers is None or setup.depths.max_layers == max_layers:
            return setup
    return prepare(replace(request, max_layers=max_layers))


def _whole(limit: float | None) -> int | None:
    return None if limit is None else int(limit)


def _side(spec: DetectorSpec) -> int:
    if spec.input.height != spec.input.width:
        raise MaenasError(f"the input is {spec.input.height}x{spec.input.width}; only square ones are searched")
    return spec.input.height


def _neck(spec: DetectorSpec) -> str:
    name = neck_of(spec)
    if name is None:
        raise MaenasError("its neck or head is none of the presets that a search knows")
    return name
