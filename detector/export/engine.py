"""TensorRT engines of exported models, each with a file beside it that says what it is.

The precision lies in the ONNX model (typed strongly, as TensorRT 11 does everything), so there is one way to build for
TensorRT 10.12 and later and 11. What the engine made of it is read back from the engine where there is a GPU to load
it, else from the network as TensorRT parsed it; the file beside the engine says which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnx
import torch

from detector.export.metadata import Exported, from_properties
from detector.export.parity import require_same
from detector.runtime.engine_session import EngineSession
from maenas.deploy.engine import EngineBuilder
from maenas.deploy.engine_types import check_precision, convolution_names
from maenas.deploy.gpu_state import gpu_limits
from maenas.errors import MaenasError
from maenas.files import read_text, refuse_pipe, write_atomic
from maenas.strict import STRICT, dump_json, parse_json

SCHEMA = "maenas/engine@1"


@dataclass(frozen=True)
class EngineCard:
    """What an engine is: the detector in it, the batch it takes, what built it for which GPU, and its SHA-256.

    `gpu` is None where it was built without one. `precision_read_from` says what the precision was asserted on.
    """

    __pydantic_config__: ClassVar = STRICT
    schema: str
    runtime: str
    gpu: str | None
    precision_read_from: Literal["engine", "network"]
    batch: int
    sha256: str
    conditions: Mapping[str, str]
    export: Exported

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise MaenasError(f"schema is {self.schema!r}; this version reads {SCHEMA!r}")


def build_engine(
    model: onnx.ModelProto, builder: EngineBuilder, pictures: Sequence[np.ndarray]
) -> tuple[bytes, EngineCard]:
    """The serialised engine of a model that `to_onnx` or `Quantization.apply` made, for this machine's GPU.

    Raises `MaenasError` for an open batch, where TensorRT cannot build it, where the precision is another, and where it
    finds something else than the model in `pictures`, uint8 RGB.
    """
    properties = {entry.key: entry.value for entry in model.metadata_props}
    export = from_properties(properties, where="the model to build")
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if not batch:
        raise MaenasError("an engine is built for one batch size; give a number as --batch")
    data = model.SerializeToString()
    builder.check_model(data, export.precision)
    plan = builder.build_model(data)
    gpu, source = None, "network"
    conditions = dict(builder.conditions)
    if torch.cuda.is_available():
        engine, names = builder.load(plan), convolution_names(model)
        check_precision(builder.describe(engine), export.precision, runtime=builder.runtime, convolutions=names)
        session = EngineSession(builder, engine, torch.device("cuda", torch.cuda.current_device()))
        require_same(model, session, pictures, export.detector.input, precision=export.precision)
        gpu, source = torch.cuda.get_device_name(), "engine"
        conditions |= {"cuda": str(torch.version.cuda), **gpu_limits(str(torch.cuda.get_device_properties().uuid))}
    digest = hashlib.sha256(plan).hexdigest()
    return plan, EngineCard(SCHEMA, builder.runtime, gpu, source, batch, digest, conditions, export)


def card_path(engine: str | Path) -> Path:
    """The file beside an engine."""
    return Path(f"{engine}.json")


def write_engine(path: str | Path, plan: bytes, card: EngineCard) -> None:
    """Write an engine and the file beside it; raises `MaenasError` where that cannot be."""
    write_atomic(path, plan)
    write_atomic(card_path(path), dump_json(card))


def read_engine(path: str | Path) -> tuple[bytes, EngineCard]:
    """Inverse of `write_engine`; raises `MaenasError` where either file is missing or they are not a pair."""
    where = f"engine {path}"
    refuse_pipe(path, what="engine")
    try:
        plan = Path(path).read_bytes()
    except OSError as error:
        raise MaenasError(f"{where}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    beside = card_path(path)
    if not beside.exists():
        raise MaenasError(f"{where}: {beside.name}, which says what it is, is not beside it; copy both files")
    card = parse_json(read_text(beside, what="engine description"), EngineCard, where=str(beside))
    if hashlib.sha256(plan).hexdigest() != card.sha256:
        raise MaenasError(f"{where}: is not the file that {beside.name} describes (another SHA-256); export it again")
    return plan, card
