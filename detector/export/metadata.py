"""What an exported model says about itself: enough to feed it and to read its outputs.

An ONNX file holds it in its metadata, an engine in the file beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from maenas import __version__
from maenas.errors import MaenasError
from maenas.spec import DetectorSpec
from maenas.strict import STRICT, dump_json, parse_json

SCHEMA = "maenas/export@1"
KEY = "maenas"  # of the entry that maenas itself reads
MAX_CANDIDATES = 3839  # TensorRT's limit on a TopK

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class NmsSettings:
    """Candidates score more than `conf`; of those only the best `candidates` compete. See `postprocess`."""

    __pydantic_config__: ClassVar = STRICT
    conf: float
    iou: float
    max_det: int
    candidates: int

    def __post_init__(self) -> None:
        for name, value in (("conf", self.conf), ("iou", self.iou)):
            if not 0 <= value <= 1:
                raise MaenasError(f"{name} is {value}; it must be 0 to 1")
        if not 1 <= self.max_det <= self.candidates <= MAX_CANDIDATES:
            raise MaenasError(
                f"{self.max_det} detections of {self.candidates} candidates; "
                f"there must be 1 <= detections <= candidates <= {MAX_CANDIDATES}"
            )


@dataclass(frozen=True)
class Exported:
    """The detector in a file, with the input size that it was exported for; `precision` is that of its convolutions.

    `nms` is None where the outputs are all scores and boxes.
    """

    __pydantic_config__: ClassVar = STRICT
    schema: str
    names: tuple[str, ...]
    precision: Precision
    nms: NmsSettings | None
    detector: DetectorSpec

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise MaenasError(f"schema is {self.schema!r}; this version reads {SCHEMA!r}")
        if len(self.names) != self.detector.head.num_classes:
            raise MaenasError(
                f"{len(self.names)} class names for a detector of {self.detector.head.num_classes} classes"
            )


def exported(spec: DetectorSpec, names: tuple[str, ...], *, precision: Precision, nms: NmsSettings | None) -> Exported:
    """What an export of this detector says; raises `MaenasError` if names are missing."""
    return Exported(SCHEMA, names, precision, nms, spec)


def to_properties(export: Exported) -> dict[str, str]:
    """As the metadata of an ONNX file: one entry for maenas, and what other programs need in entries of their own."""
    size = export.detector.input
    return {
        KEY: dump_json(export),
        "version": __version__,
        "names": json.dumps(export.names),
        "height": str(size.height),
        "width": str(size.width),
        "resize": size.resize,
        "channel_order": size.channel_order,
        "value_range": json.dumps(size.value_range),
        "precision": export.precision,
        "nms": "none" if export.nms is None else json.dumps(asdict(export.nms)),
        "spec_id": export.detector.id,
    }


def from_properties(properties: Mapping[str, str], *, where: str) -> Exported:
    """Strict inverse of `to_properties`; raises `MaenasError`, naming the file `where`."""
    if KEY not in properties:
        raise MaenasError(
            f"{where}: nothing in it says which detector it is, so that its input and outputs are unknown; "
            "write it with `maenas export`"
        )
    return parse_json(properties[KEY], Exported, where=where)
