"""Which device a command runs on."""

from __future__ import annotations

import torch

from maenas.errors import MaenasError

CHOICES = "auto, cpu, cuda, cuda:N or mps"


def choose_device(name: str, *, local_rank: int = 0) -> torch.device:
    """The device called `name`. A number N means cuda:N; plain cuda is GPU `local_rank`.

    `auto` takes CUDA, else Apple's MPS, else the CPU. Raises `MaenasError` for an unknown name, and for a device that
    is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = (f"cuda:{name}" if name.isdecimal() else name).partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise MaenasError(f"unknown device {name!r}; choose {CHOICES}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise MaenasError("the device is mps, but PyTorch finds no Apple GPU here; choose cpu")
    if kind != "cuda":
        return torch.device(kind)
    number, there = int(index or local_rank), torch.cuda.device_count()
    if number >= there:
        advice = "choose cpu, or start fewer processes" if there == 0 or not index else f"choose cuda:0 to {there - 1}"
        raise MaenasError(f"device {name!r} is GPU {number}, but PyTorch finds {there} CUDA devices; {advice}")
    return torch.device("cuda", number)


def training_devices(text: str) -> tuple[str, ...]:
    """The devices that `text` names with commas between them; `auto` is every GPU, else as for `choose_device`."""
    if text == "auto" and torch.cuda.is_available():
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return tuple(str(choose_device(name.strip())) for name in text.split(","))
