"""A loaded engine of TensorRT with tensors of torch as inputs and outputs.

Legend: B batch, H/W height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detector.runtime.interface import in_batches
from maenas.deploy.engine import EngineBuilder
from maenas.errors import MaenasError


class EngineSession:
    """A loaded engine with one input `image` `[B, 3, H, W]`; calling it gives its outputs by name.

    It runs on a stream of its own, between what the current one did before and does after. Raises `MaenasError` where
    the GPU has no memory for it.
    """

    def __init__(self, builder: EngineBuilder, engine: Any, device: torch.device) -> None:
        trt = builder.trt
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
        self._context: Any = builder.context(engine)
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
