"""What weights files and exported models say about themselves, declared once: writers, readers and reports share it.

A weights file holds it in the metadata of its safetensors header, an ONNX file in its properties, an engine in the file
beside it. No tensor is needed to read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from maenas.choices import FilePrecision
from maenas.choices import Int8Form as Int8Form  # for the exporters
from maenas.errors import MaenasError
from maenas.spec import DetectorSpec, SpecFile
from maenas.strict import STRICT

KEY: Final = "maenas"  # of the entry that maenas itself reads
WEIGHTS_SCHEMA: Final = "maenas/weights@1"
EXPORT_SCHEMA: Final = "maenas/export@1"
MAX_CANDIDATES: Final = 3839  # TensorRT's limit on a TopK


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

    `nms` is None where the outputs are all scores and boxes. `spec_file` is what the weights were trained from.
    """

    __pydantic_config__: ClassVar = STRICT
    schema: str
    names: tuple[str, ...]
    precision: FilePrecision
    nms: NmsSettings | None
    detector: DetectorSpec
    spec_file: SpecFile | None = None

    def __post_init__(self) -> None:
        if self.schema != EXPORT_SCHEMA:
            raise MaenasError(f"schema is {self.schema!r}; this version reads {EXPORT_SCHEMA!r}")
        if len(self.names) != self.detector.head.num_classes:
            raise MaenasError(
                f"{len(self.names)} class names for a detector of {self.detector.head.num_classes} classes"
            )


@dataclass(frozen=True)
class WeightsHeader:
    """The detector of a weights file, its class names, and notes of the writer.

    `spec_file` is what it was trained from, with its provenance: classes and input may be others.
    """

    __pydantic_config__: ClassVar = STRICT
    schema: str
    names: tuple[str, ...]
    metadata: Mapping[str, str]
    detector: DetectorSpec
    spec_file: SpecFile | None = None

    def __post_init__(self) -> None:
        if self.schema != WEIGHTS_SCHEMA:
            raise MaenasError(f"schema is {self.schema!r}; this version reads {WEIGHTS_SCHEMA!r}")
