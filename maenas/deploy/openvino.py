"""What everything that runs ONNX files with OpenVINO shares: it reads them as they are."""

from __future__ import annotations

from functools import cache
from typing import Any

from maenas.choices import CpuArithmetic
from maenas.errors import MaenasError

HINTS: dict[CpuArithmetic, str] = {"fp32": "f32", "bf16": "bf16"}


def import_openvino() -> Any:
    """The module openvino; raises `MaenasError` where it is missing."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MaenasError(
            f"OpenVINO needs the package {error.name}: pip install 'maenas[openvino]', or in a checkout "
            "pip install '.[openvino]'"
        ) from None
    return openvino


@cache
def _core(ov: Any) -> Any:
    """One for the process. Each core brings a stack for signal handlers and gives the one before it back when it ends,
    even where that is gone: with several, the next signal would end the process (2026.4)."""
    return ov.Core()


def has_bf16(ov: Any) -> bool:
    """Whether this CPU has instructions for bf16."""
    return "BF16" in _core(ov).get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def require_arithmetic(ov: Any, arithmetic: CpuArithmetic, *, where: str) -> None:
    """Raises `MaenasError`, naming `where`, for bf16 on a CPU that has no instructions for it."""
    if arithmetic == "bf16" and not has_bf16(ov):
        raise MaenasError(f"{where}: this CPU has no bf16 instructions (AVX512_BF16 or AMX); choose fp32 or int8")


def read_model(ov: Any, model: bytes, *, where: str) -> Any:
    """OpenVINO's form of an ONNX model; raises `MaenasError`, naming `where`, for one that it does not take."""
    try:
        return _core(ov).read_model(model)
    except (RuntimeError, UnicodeDecodeError) as error:
        raise MaenasError(f"{where}: OpenVINO cannot load it: {reason(error)}") from None


def compile_model(ov: Any, model: Any, *, threads: int | None, where: str, arithmetic: CpuArithmetic = "fp32") -> Any:
    """`model` for the CPU: one image or batch after another, `threads` at work, None for as many as there are cores.

    `arithmetic` is that of what the file does not have in int8. Raises `MaenasError`, naming `where`, also as
    `require_arithmetic` does.
    """
    require_arithmetic(ov, arithmetic, where=where)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or 0,
        "INFERENCE_PRECISION_HINT": HINTS[arithmetic],
        "ENABLE_CPU_PINNING": False,  # where the process may run is the user's to say
    }
    try:
        return _core(ov).compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise MaenasError(f"{where}: OpenVINO cannot compile it: {reason(error)}") from None


def has_signed_activations(model: bytes) -> bool:
    """Whether an ONNX model quantises anything to int8, which OpenVINO 2026.4 computes wrongly before a concat."""
    import onnx

    graph = onnx.load_model_from_string(model).graph
    signed = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    return any(node.op_type == "QuantizeLinear" and node.input[2] in signed for node in graph.node)


def library(ov: Any) -> str:
    """Name and version, for example "openvino-cpu 2026.4.1"."""
    return f"openvino-cpu {ov.__version__.partition('-')[0]}"


def reason(error: Exception) -> str:
    """The line of an OpenVINO message that says what is wrong; the others say where in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [
        line for line in lines if line and not line.startswith(("Exception from", "Check '", "FrontEnd API failed"))
    ]
    return f"{(told or lines or ['no reason given'])[0]:.300}"
