"""Exported ONNX models in ONNX Runtime, on the CPU or on CUDA, with tensors of torch as inputs and outputs.

Legend: B batch, H/W height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detector.device import choose_device
from detector.runtime.exported import runtime_of
from detector.runtime.interface import Runtime, in_batches
from maenas.deploy.session import PROVIDERS, TF32, Target, import_onnxruntime, session_errors, session_options
from maenas.errors import MaenasError

TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
}


class OnnxSession:
    """A model with one input `image` `[B, 3, H, W]`; calling it gives its outputs by name, on `device`.

    `batch` is None where the model leaves it open. Raises `MaenasError`, naming `where`, for a model that ONNX Runtime
    does not take, and where it has no provider for the device.
    """

    def __init__(self, model: bytes, device: torch.device, *, threads: int | None = None, where: str) -> None:
        target: Target = "cuda" if device.type == "cuda" else "cpu"
        ort = import_onnxruntime(target)
        provider = PROVIDERS[target]
        if provider not in ort.get_available_providers():
            raise MaenasError(
                f"this onnxruntime has no {provider}: pip uninstall onnxruntime and pip install onnxruntime-gpu, "
                "or choose --device cpu"
            )
        options = session_options(ort, threads or 0)
        settings = {}
        if target == "cuda":  # the search for algorithms would be repeated for every new batch
            settings = {"device_id": str(device.index or 0), "use_tf32": str(int(TF32))}
            settings["cudnn_conv_algo_search"] = "HEURISTIC"
        try:
            session: Any = ort.InferenceSession(model, options, providers=[(provider, settings)], enable_fallback=0)
            self.properties: dict[str, str] = session.get_modelmeta().custom_metadata_map
            self.inputs = {value.name: value for value in session.get_inputs()}
            self.outputs = {value.name: value for value in session.get_outputs()}
        except (*session_errors(ort), RuntimeError) as error:  # its CUDA provider raises nothing better
            raise MaenasError(f"{where}: ONNX Runtime cannot load it: {str(error).splitlines()[0]:.300}") from None
        self._session = session
        if session.get_providers()[0] != provider:
            raise MaenasError(f"{where}: ONNX Runtime fell back to the CPU: check driver, CUDA and cuDNN")
        self._device, self._failures = device, session_errors(ort)
        self.library = f"onnxruntime-{target} {ort.__version__}"
        for value in (*self.inputs.values(), *self.outputs.values()):
            if value.type not in TYPES or not all(isinstance(side, int) for side in value.shape[1:]):
                raise MaenasError(f"{where}: {value.name} is {value.type} {value.shape}; `maenas export` writes others")
        if list(self.inputs) != ["image"] or len(self.inputs["image"].shape) != 4:
            raise MaenasError(f"{where}: its inputs are {', '.join(self.inputs)}; `maenas export` writes one, image")
        first = self.inputs["image"].shape[0]
        self.batch: int | None = first if isinstance(first, int) else None
        self.ends = {name: value.shape[1:] for name, value in (self.inputs | self.outputs).items()}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs for images `[B, 3, H, W]` of any floating type, for any B."""
        return in_batches(self._run, images, self.batch)

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        binding = self._session.io_binding()
        image = images.to(self._device, TYPES[self.inputs["image"].type]).contiguous()
        tensors = {
            name: torch.empty(len(image), *value.shape[1:], dtype=TYPES[value.type], device=self._device)
            for name, value in self.outputs.items()
        }
        try:
            self._bind(binding.bind_input, "image", image)
            for name, tensor in tensors.items():
                self._bind(binding.bind_output, name, tensor)
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()  # ONNX Runtime has a stream of its own
            self._session.run_with_iobinding(binding)
        except (*self._failures, RuntimeError) as error:
            raise MaenasError(f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]:.300}") from None
        return tensors

    def _bind(self, bind: Any, name: str, tensor: Tensor) -> None:
        dtype = str(tensor.dtype).removeprefix("torch.")
        bind(name, self._device.type, self._device.index or 0, dtype, tuple(tensor.shape), tensor.data_ptr())


def onnx_runtime(model: bytes, device: str, *, threads: int | None = None, where: str) -> Runtime:
    """A model that `maenas export` wrote; arguments and errors as for `load_runtime`."""
    place = choose_device(device)
    if device == "auto" and (place.type != "cuda" or PROVIDERS["cuda"] not in _providers()):
        place = torch.device("cpu")
    if place.type == "mps":
        raise MaenasError(f"{where}: ONNX Runtime runs on cpu and cuda here, not on mps; choose --device cpu")
    return runtime_of(OnnxSession(model, place, threads=threads, where=where), place, where=where)


def _providers() -> list[str]:
    return import_onnxruntime().get_available_providers()
