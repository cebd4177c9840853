"""Engines in TensorRT, on a CUDA device, with tensors of torch as inputs and outputs.

Legend: B batch, H/W height and width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.device import choose_device
from detector.export.engine import read_engine
from detector.runtime.interface import Runtime, in_batches, scores_and_boxes
from maenas.deploy.engine import EngineBuilder
from maenas.errors import MaenasError


class EngineSession:
    """A loaded engine with one input `image` `[B, 3, H, W]`; calling it gives its outputs by name.

    It runs on a stream of its own, between what the current one did before and does after.
    """

    def __init__(self, trt: Any, engine: Any, device: torch.device) -> None:
        types = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.INT32: torch.int32,
            trt.DataType.INT64: torch.int64,
        }
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._ends = {
            name: (tuple(engine.get_tensor_shape(name)), types[engine.get_tensor_dtype(name)]) for name in names
        }
        self._engine, self._device = engine, device
        self._context: Any = engine.create_execution_context()
        self._stream = torch.cuda.Stream(device)
        self.batch = self._ends["image"][0][0]
        self._tensors = {  # where the engine reads and writes
            name: torch.empty(shape, dtype=dtype, device=device) for name, (shape, dtype) in self._ends.items()
        }
        for name, tensor in self._tensors.items():
            self._context.set_tensor_address(name, tensor.data_ptr())

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs for images `[B, 3, H, W]` on the device, of any floating type, for any B."""
        return in_batches(self._run, images, self.batch)

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        with torch.cuda.device(self._device), torch.inference_mode():  # the engine runs on the current GPU
            self._tensors["image"].copy_(images)
            current = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(current)
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise MaenasError("TensorRT refused to run the engine")
            current.wait_stream(self._stream)
            return {name: tensor.clone() for name, tensor in self._tensors.items() if name != "image"}


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
        session = EngineSession(builder.trt, builder.load(plan), place)
    classes = card.export.detector.head.num_classes

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        return scores_and_boxes(session(images), classes)

    export = card.export
    return Runtime(
        network, export.detector, export.names, place, card.runtime, export.precision, export.nms, session.batch
    )
