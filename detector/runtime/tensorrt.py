"""Engine files in TensorRT, on a CUDA device."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from detector.device import choose_device
from detector.export.engine import read_engine
from detector.runtime.engine_session import EngineSession
from detector.runtime.interface import Runtime, scores_and_boxes
from maenas.deploy.engine import EngineBuilder
from maenas.errors import MaenasError


def load_engine(path: str | Path, device: str) -> Runtime:
    """An engine that `maenas export` wrote; arguments and errors as for `load_runtime`.

    Also raises `MaenasError` where the engine was built by another version of TensorRT or for another GPU.
    """
    plan, card = read_engine(path)
    place = choose_device(device)
    if place.type != "cuda":
        raise MaenasError(f"engine {path}: runs on NVIDIA GPUs only, and --device {device} is {place} here")
    builder = EngineBuilder()
    gpu = torch.cuda.get_device_name(place)
    for what, built, here in (("by", card.runtime, builder.runtime), ("for", card.gpu or gpu, gpu)):
        if built != here:
            raise MaenasError(f"engine {path}: was built {what} {built}, this is {here}; export it again")
    with torch.cuda.device(place):
        session = EngineSession(builder, builder.load(plan), place)
    classes = card.export.detector.head.num_classes

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        return scores_and_boxes(session(images), classes)

    export = card.export
    return Runtime(
        network, export.detector, export.names, place, card.runtime, export.precision, export.nms, session.batch
    )
