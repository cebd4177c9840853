"""What a GPU says about itself through NVML: limits that hold for a run, and the state of the moment.

The package nvidia-ml-py is optional: without it, or without a GPU, there is nothing to say.
"""

from __future__ import annotations

import ctypes
import sys
import uuid
from collections.abc import Callable
from typing import Any


def visible_gpu() -> str | None:
    """UUID of what this process calls CUDA device 0; None where there is no driver to tell."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetUuid(found, device):
        return None
    return str(uuid.UUID(bytes=bytes(found)))


def gpu_name(uuid: str | None = None) -> str | None:
    """What the board calls itself, None where NVML cannot tell."""
    return _read(uuid, lambda nvml, gpu: {"name": lambda: _text(nvml.nvmlDeviceGetName(gpu))}).get("name")


def gpu_limits(uuid: str | None = None) -> dict[str, str]:
    """Driver, highest clocks and power limit of a GPU; the first one where no `uuid` is given."""

    def read(nvml: Any, gpu: Any) -> dict[str, Callable[[], str]]:
        return {
            "driver": lambda: _text(nvml.nvmlSystemGetDriverVersion()),
            "max_sm_clock": lambda: f"{nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)} MHz",
            "max_memory_clock": lambda: f"{nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_MEM)} MHz",
            "power_limit": lambda: f"{nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3:.0f} W",
        }

    return _read(uuid, read)


def gpu_state(uuid: str | None = None) -> dict[str, str]:
    """Clocks, temperature, power and reasons for lower clocks (NVML's bit mask) of a GPU, now."""

    def read(nvml: Any, gpu: Any) -> dict[str, Callable[[], str]]:
        return {
            "sm_clock": lambda: f"{nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)} MHz",
            "memory_clock": lambda: f"{nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)} MHz",
            "temperature": lambda: f"{nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)} C",
            "power": lambda: f"{nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3:.0f} W",
            "throttle_reasons": lambda: f"{nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu):#x}",
        }

    return _read(uuid, read)


def _read(uuid: str | None, read: Callable[[Any, Any], dict[str, Callable[[], str]]]) -> dict[str, str]:
    """Whatever of it this GPU and driver can tell."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    values: dict[str, str] = {}
    try:
        if uuid is None:
            gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        else:
            gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        for name, value in read(pynvml, gpu).items():
            try:
                values[name] = value()
            except pynvml.NVMLError:  # not every board tells everything
                continue
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()
    return values


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
