"""Exported ONNX models in OpenVINO on the CPU, with tensors of torch as inputs and outputs.

Legend: B batch, H/W height and width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.device import choose_device
from detector.runtime.exported import runtime_of
from detector.runtime.interface import Runtime, in_batches
from maenas.deploy.openvino import (
    CpuArithmetic,
    compile_model,
    has_signed_activations,
    import_openvino,
    library,
    read_model,
    reason,
    require_arithmetic,
)
from maenas.errors import MaenasError

MOST_BATCHES = 4  # compiled at once, of a file with an open batch


class OpenVinoSession:
    """A model with one input `image` `[B, 3, H, W]`; calling it gives its outputs by name, on the CPU.

    A file with an open batch is compiled for each batch it meets: OpenVINO plans static shapes only.
    `arithmetic` is that of what the file does not have in int8. Raises `MaenasError`, naming `where`, for a model that
    OpenVINO does not take.
    """

    def __init__(
        self, model: bytes, *, threads: int | None = None, where: str, arithmetic: CpuArithmetic = "fp32"
    ) -> None:
        self._ov = import_openvino()
        require_arithmetic(self._ov, arithmetic, where=where)  # now, not at the first image
        self._arithmetic: CpuArithmetic = arithmetic
        self._model, self._threads, self._where = read_model(self._ov, model, where=where), threads, where
        if has_signed_activations(model):
            raise MaenasError(
                f"{where}: its int8 is of TensorRT's form, which OpenVINO computes wrongly; export it with --target cpu"
            )
        entries = dict(self._model.get_rt_info().items()).get("framework", {})  # metadata of an ONNX file
        self.properties = {name: str(entry.value) for name, entry in entries.items()}
        ports = [*self._model.inputs, *self._model.outputs]
        shapes = {port.get_any_name(): port.get_partial_shape() for port in ports}
        if [port.get_any_name() for port in self._model.inputs] != ["image"] or not all(
            shape.rank.is_static and all(side.is_static for side in list(shape)[1:]) for shape in shapes.values()
        ):
            raise MaenasError(f"{where}: inputs and outputs are {shapes}; `maenas export` writes others")
        self.ends = {name: [side.get_length() for side in list(shape)[1:]] for name, shape in shapes.items()}
        first = shapes["image"][0]
        self.batch: int | None = first.get_length() if first.is_static else None
        self.library = library(self._ov)
        self._compiled: dict[int, Any] = {}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs for images `[B, 3, H, W]` of any floating type, for any B."""
        return in_batches(self._run, images, self.batch)

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        compiled = self._of_batch(len(images))
        wanted = compiled.inputs[0].get_element_type().to_dtype()
        image = np.ascontiguousarray(images.cpu().numpy().astype(wanted, copy=False))
        try:
            results = compiled({0: image}, share_inputs=True)
        except RuntimeError as error:
            raise MaenasError(f"OpenVINO cannot run the model: {reason(error)}") from None
        return {port.get_any_name(): torch.from_numpy(results[port]) for port in compiled.outputs}

    def _of_batch(self, batch: int) -> Any:
        """The compiled model for this many images; of the open ones the oldest makes room."""
        if batch not in self._compiled:
            model = self._model
            if self.batch is None:
                model = model.clone()
                model.reshape({"image": [batch, *self.ends["image"]]})
            if len(self._compiled) == MOST_BATCHES:
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[batch] = compile_model(
                self._ov, model, threads=self._threads, where=self._where, arithmetic=self._arithmetic
            )
        return self._compiled[batch]


def openvino_runtime(
    model: bytes, device: str, *, threads: int | None = None, where: str, arithmetic: CpuArithmetic = "fp32"
) -> Runtime:
    """A model that `maenas export` wrote; arguments and errors as for `load_runtime`."""
    place = torch.device("cpu") if device == "auto" else choose_device(device)
    if place.type != "cpu":
        raise MaenasError(f"{where}: OpenVINO runs on the CPU here, not on {place}; choose --device cpu")
    session = OpenVinoSession(model, threads=threads, where=where, arithmetic=arithmetic)
    found = runtime_of(session, place, where=where)
    # It converts a file in fp16: that is not what it computes in.
    return found if found.precision == "int8" else replace(found, precision=arithmetic)
