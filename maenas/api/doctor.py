"""`maenas doctor`: this machine and what is installed on it, for bug reports."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Final

from maenas import __version__
from maenas.deploy.gpu_state import gpu_limits
from maenas.latency.find import processor, table_files

# Packages by extra of pyproject.toml, with what each gives.
PARTS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "base": {"numpy": "searching", "pydantic": "strict files", "pyyaml": "spaces, recipes", "typer": "the command"},
        "detector": {
            "torch": "training, evaluating and running detectors",
            "torchvision": "suppression",
            "safetensors": "weights files",
            "opencv-python-headless": "images, videos and cameras",
            "pillow": "images",
            "faster-coco-eval": "average precision",
            "matplotlib": "plots",
            "tensorboard": "curves of a run with --log tensorboard",
        },
        "export": {
            "onnx": "exports, profiles, predicting any ONNX file",
            "onnxruntime": "running exports and measuring this CPU",
        },
        "openvino": {"openvino": "running exports and measuring CPUs, int8 in int8 arithmetic"},
        "report": {"jinja2": "the report page", "plotly": "its plots"},
        "cluster": {"ray": "races on several machines"},
        "gpu": {
            "onnxruntime-gpu": "running exports on an NVIDIA GPU",
            "tensorrt-cu13": "engines for an NVIDIA GPU",
            "nvidia-ml-py": "clocks and power of the GPU in tables",
        },
    }
)


@dataclass(frozen=True)
class Package:
    """One package: its installed version, None where it is missing, and what it gives."""

    name: str
    version: str | None
    gives: str


@dataclass(frozen=True)
class Diagnosis:
    """This machine as maenas sees it."""

    maenas: str
    python: str
    system: str
    processor: str
    cores: int
    gpu: str | None  # driver and limits of the first GPU that NVML finds
    tables: tuple[str, ...]  # measured latency tables within reach
    packages: Mapping[str, tuple[Package, ...]]  # by extra


def diagnose() -> Diagnosis:
    """Look at this machine; imports none of the packages that it names."""
    gpu = gpu_limits()
    return Diagnosis(
        maenas=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        system=platform.platform(),
        processor=processor(),
        cores=os.cpu_count() or 1,
        gpu=", ".join(f"{name} {value}" for name, value in gpu.items()) or None,
        tables=tuple(path.stem for path in table_files()),
        packages={
            extra: tuple(Package(name, _version(name), gives) for name, gives in parts.items())
            for extra, parts in PARTS.items()
        },
    )


def format_diagnosis(found: Diagnosis) -> str:
    """The diagnosis for people: what is there, and what each missing part would give."""
    lines = [
        f"maenas     {found.maenas}",
        f"python     {found.python}",
        f"system     {found.system}",
        f"processor  {found.processor}, {found.cores} cores",
        f"GPU        {found.gpu or 'none that NVML finds'}",
        f"tables     {', '.join(found.tables)}",
    ]
    for extra, packages in found.packages.items():
        lines.append("")
        missing = any(package.version is None for package in packages)
        place = ", on a machine with an NVIDIA GPU in place of export" if extra == "gpu" else ""
        hint = f": pip install 'maenas[{extra}]' for what is missing{place}" if missing else ""
        lines.append(f"{extra}{hint}")
        lines += [f"  {p.name:<24}{p.version or 'missing':<14}{p.gives}" for p in packages]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
