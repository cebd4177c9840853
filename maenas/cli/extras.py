"""What a command needs besides the base installation."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final, Literal

from detector.choices import RuntimeName
from maenas.errors import MaenasError

Extra = Literal["detector", "export", "openvino", "plot", "report"]

# The modules of each extra of pyproject.toml that commands import.
MODULES: Final[Mapping[Extra, tuple[str, ...]]] = MappingProxyType(
    {
        "detector": ("torch", "torchvision", "safetensors", "cv2", "PIL", "faster_coco_eval", "matplotlib"),
        "export": ("onnx", "onnxruntime"),
        "openvino": ("onnx", "openvino"),
        "plot": ("matplotlib",),
        "report": ("jinja2", "matplotlib", "plotly"),
    }
)
PACKAGES: Final = MappingProxyType({"cv2": "opencv-python-headless", "PIL": "pillow"})  # where the names differ


def require_extra(*extras: Extra) -> None:
    """Raise `MaenasError` that names what is missing and the extras to install, unless all of them are there."""
    missing = {extra: [name for name in MODULES[extra] if find_spec(name) is None] for extra in extras}
    lacking = [extra for extra, names in missing.items() if names]
    if not lacking:
        return
    packages = list(dict.fromkeys(PACKAGES.get(name, name) for extra in lacking for name in missing[extra]))
    gpu = " (on a machine with an NVIDIA GPU `gpu` instead of `export`)" if "export" in lacking else ""
    raise MaenasError(
        f"this command needs {', '.join(packages)}: pip install 'maenas[{','.join(lacking)}]'{gpu}, or in a checkout "
        f"pip install '.[{','.join(lacking)}]'"
    )


def require_runtime(runtime: RuntimeName | None) -> None:
    """As `require_extra`, for a detector in this runtime."""
    needed: Final[dict[RuntimeName | None, tuple[Extra, ...]]] = {
        "onnxruntime": ("export",),
        "openvino": ("openvino",),
        "openvino-bf16": ("openvino",),
    }
    require_extra("detector", *needed.get(runtime, ()))
