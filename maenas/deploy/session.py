"""What everything that runs ONNX files with ONNX Runtime shares."""

from __future__ import annotations

from typing import Any, Literal

from maenas.errors import MaenasError

Target = Literal["cpu", "cuda"]
PROVIDERS: dict[Target, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def import_onnxruntime() -> Any:
    """The module onnxruntime; raises `MaenasError` where it is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MaenasError(
            f"running ONNX models needs the package {error.name}: pip install onnx onnxruntime "
            "(or onnxruntime-gpu for CUDA; never both)"
        ) from None
    return onnxruntime


def session_errors(ort: Any) -> tuple[type[Exception], ...]:
    """What a session raises for a model it does not take; the classes live in a private module."""
    state = ort.capi.onnxruntime_pybind11_state
    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
        "EPFail",
    )
    # UnicodeDecodeError: of a damaged name in the model, or in the message about one.
    return (UnicodeDecodeError, *(getattr(state, name) for name in names if hasattr(state, name)))
