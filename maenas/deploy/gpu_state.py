"""What a GPU says about itself through NVML: limits that hold for a run, and the state of the moment.

The package nvidia-ml-py is optional: without it, or without a GPU, there is nothing to say.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def visible_gpu() -> str | None:
    """UUID of what a process of one GPU calls device 0, by CUDA_VISIBLE_DEVICES; None where NVML cannot tell.

    Numbers there are NVML's only in the order of the bus, which `CUDA_DEVICE_ORDER=PCI_BUS_ID` asks for.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return first
    if not first.isdecimal():
        return None
    return _read(None, lambda nvml, gpu: {"uuid": lambda: _text(nvml.nvmlDeviceGetUUID(gpu))}, int(first)).get("uuid")


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


def _read(uuid: str | None, read: Callable[[Any, Any], dict[str, Callable[[], str]]], index: int = 0) -> dict[str, str]:
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
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
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
