"""What NVML says becomes text; where it says nothing, there is nothing."""

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from maenas.deploy.gpu_state import gpu_limits, gpu_name, gpu_state, visible_gpu
from maenas.deploy.session import import_onnxruntime


class NVMLError(Exception):
    pass


def nvml(**overrides: Any) -> SimpleNamespace:
    def mine(value: Any) -> Any:
        return lambda gpu, *kind: value

    def by_uuid(uuid: str) -> str:
        if uuid != "GPU-1":
            raise NVMLError
        return "gpu"

    functions = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: "gpu",
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetName": mine("NVIDIA Made-up"),
        "nvmlDeviceGetUUID": lambda gpu: f"GPU-of-{gpu}",
        "nvmlSystemGetDriverVersion": lambda: b"580.1",
        "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: {1: 1590, 2: 5001}[kind],
        "nvmlDeviceGetClockInfo": lambda gpu, kind: {1: 585, 2: 5000}[kind],
        "nvmlDeviceGetEnforcedPowerLimit": mine(70_000),
        "nvmlDeviceGetPowerUsage": mine(31_400),
        "nvmlDeviceGetTemperature": mine(48),
        "nvmlDeviceGetCurrentClocksThrottleReasons": mine(4),
    }
    return SimpleNamespace(**functions | overrides)


def refuse(*arguments: Any) -> Any:
    raise NVMLError


def test_limits_and_state_are_texts_with_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    limits = {"driver": "580.1", "max_sm_clock": "1590 MHz", "max_memory_clock": "5001 MHz", "power_limit": "70 W"}
    assert gpu_limits() == gpu_limits("1") == gpu_limits("GPU-1") == limits
    state = {"sm_clock": "585 MHz", "memory_clock": "5000 MHz", "temperature": "48 C", "power": "31 W"}
    assert gpu_state("1") == state | {"throttle_reasons": "0x4"}


def test_what_the_board_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetPowerUsage=refuse))
    assert "power" not in gpu_state()
    assert gpu_state()["temperature"] == "48 C"


@pytest.mark.parametrize("module", [None, nvml(nvmlInit=refuse), nvml(nvmlDeviceGetHandleByIndex=refuse)])
def test_without_nvml_or_a_gpu_there_is_nothing_to_say(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert (gpu_limits(), gpu_state()) == ({}, {})


def test_an_unknown_gpu_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert gpu_state("2") == {}


def driver(devices: int) -> SimpleNamespace:
    """libcuda with so many devices."""

    def get(device: Any, ordinal: int) -> int:
        device._obj.value = 7 + ordinal
        return 0

    def tell(uuid: Any, device: Any) -> int:
        uuid[:] = [device.value, *range(1, 16)]
        return 0

    return SimpleNamespace(cuInit=lambda flags: 0 if devices else 100, cuDeviceGet=get, cuDeviceGetUuid=tell)


def test_the_gpu_that_is_used_is_the_first_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its order and CUDA_VISIBLE_DEVICES: NVML's numbers know nothing of either."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(1))
    assert visible_gpu() == "07010203-0405-0607-0809-0a0b0c0d0e0f"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(0))
    assert visible_gpu() is None
    monkeypatch.setattr(ctypes, "CDLL", refuse_library)
    assert visible_gpu() is None


def refuse_library(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def test_a_board_has_a_name_where_nvml_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert gpu_name("GPU-1") == "NVIDIA Made-up"
    assert gpu_name("GPU-2") is None


def test_cuda_libraries_are_loaded_before_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    loaded = []
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(preload_dlls=lambda: loaded.append("cuda")))
    import_onnxruntime("cpu")
    assert loaded == []
    import_onnxruntime("cuda")
    assert loaded == ["cuda"]
