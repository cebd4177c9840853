"""Exported ONNX models in any library that runs them: what such a model must be, and how it becomes a `Runtime`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from detector.export.metadata import Exported, from_properties
from detector.runtime.interface import Runtime, scores_and_boxes
from maenas.errors import MaenasError
from maenas.files import refuse_pipe
from maenas.spec import OUTPUT_STRIDES

MAX_BATCH = 1024
MAX_BYTES = 2 << 30  # of a protocol buffer


class Session(Protocol):
    """A loaded model; calling it with images `[B, 3, H, W]` gives its outputs by name, for any B."""

    @property
    def properties(self) -> Mapping[str, str]:
        """The file's metadata."""
        ...

    @property
    def ends(self) -> Mapping[str, list[int]]:
        """Shapes of inputs and outputs, without the batch."""
        ...

    @property
    def batch(self) -> int | None:
        """The file's own, None where any will do."""
        ...

    @property
    def library(self) -> str:
        """Name and version."""
        ...

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...


def runtime_of(session: Session, place: torch.device, *, where: str) -> Runtime:
    """The detector of a session on `place`; raises `MaenasError`, naming `where`, if `maenas export` did not write it.

    Inputs and outputs must be those that the metadata promise: memory is set aside by these shapes, so that a file may
    not name any.
    """
    export = from_properties(session.properties, where=where)
    promised = _promised(export)
    if session.ends != promised or (session.batch or 1) > MAX_BATCH:
        raise MaenasError(
            f"{where}: inputs and outputs are {session.ends}, batch {session.batch}, but its metadata promise "
            f"{promised} and maenas exports at most {MAX_BATCH} images at once: the file was changed; export it again"
        )
    classes = export.detector.head.num_classes

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        return scores_and_boxes(session(images), classes)

    return Runtime(
        network, export.detector, export.names, place, session.library, export.precision, export.nms, session.batch
    )


def read_file(path: str | Path, where: str) -> bytes:
    """The bytes of a file; raises `MaenasError`."""
    refuse_pipe(path, what="ONNX file")
    try:
        size = os.path.getsize(path)
        if not 0 < size < MAX_BYTES:
            raise MaenasError(f"{where}: has {size} bytes; a model has 1 byte to 2 GiB")
        return Path(path).read_bytes()
    except OSError as error:
        raise MaenasError(f"{where}: cannot be read: {(error.strerror or str(error)).lower()}") from error


def _promised(export: Exported) -> dict[str, list[int]]:
    """Shapes, without the batch, of the input and the outputs."""
    size, classes, nms = export.detector.input, export.detector.head.num_classes, export.nms
    image = {"image": [3, size.height, size.width]}
    anchors = sum((size.height // stride) * (size.width // stride) for stride in OUTPUT_STRIDES)
    if nms is None:
        return {**image, "scores": [classes, anchors], "boxes": [4, anchors]}
    most = min(nms.max_det, classes * anchors)
    return {**image, "num": [], "boxes": [most, 4], "scores": [most], "labels": [most]}
