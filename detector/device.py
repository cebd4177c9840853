"""Which device a command runs on."""

from __future__ import annotations

import torch

from maenas.errors import MaenasError


def choose_device(name: str) -> torch.device:
    """The device called `name`, "auto" being CUDA where there is one; raises `MaenasError` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MaenasError(f"unknown device {name!r}; choose auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise MaenasError(f"device {name!r} is not supported; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MaenasError(f"device {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return device
