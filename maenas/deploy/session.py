"""What everything that runs ONNX files with ONNX Runtime shares."""

from __future__ import annotations

from typing import Any, Literal

from maenas.errors import MaenasError

Target = Literal["cpu", "cuda"]
PROVIDERS: dict[Target, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
TF32 = True  # in convolutions of fp32 on GPUs that have it: what PyTorch, TensorRT and ONNX Runtime do by default


def import_onnxruntime(target: Target = "cpu") -> Any:
    """The module onnxruntime, for CUDA with its libraries loaded; raises `MaenasError` where it is missing.

    The extras `cuda` and `cudnn` of onnxruntime-gpu are pip packages, which the system's loader does not find.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MaenasError(
            f"running ONNX models needs the package {error.name}: pip install onnx onnxruntime "
            "(or onnxruntime-gpu for CUDA; never both)"
        ) from None
    if target == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    return onnxruntime


def session_options(ort: Any, threads: int) -> Any:
    """Options of a session whose operators run one after another on `threads` threads each; 0: one for each core."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what it raises is told in our words
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Several sessions may live at once: their idle threads must not burn the cores of the one that runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


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
