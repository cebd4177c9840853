"""Measured tables by name: the shipped ones, and those that `maenas profile` left in this folder."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from maenas.errors import MaenasError
from maenas.files import read_text, shipped_file, shipped_names
from maenas.latency.measured import MAX_TABLE_BYTES, SCHEMA, MeasuredTable, read_measured

FOLDER = Path("latency_tables")  # where `maenas profile` writes, beside the user's other files
THIS_MACHINE = "cpu"
IDENTITY = ("cpu family", "model", "CPU implementer", "CPU part")  # in /proc/cpuinfo: x86, then ARM
BRAND = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
VECTORS = ("amx_tile", "avx512f", "avx2", "avx")  # the widest first
SCHEMA_WITHIN = 1000  # characters of a file within which its schema stands


def is_measured(path: str | Path) -> bool:
    """Whether a JSON file says that it is a measured table; calibrated ones stand in the same folders."""
    return f'"{SCHEMA}"' in _text(path)[:SCHEMA_WITHIN]


def _text(path: str | Path) -> str:
    return read_text(path, what="latency table", max_bytes=MAX_TABLE_BYTES)


def candidates() -> Iterator[Path]:
    """JSON files that may be measured tables: those of this folder, then the shipped ones with no namesake there."""
    own = sorted(FOLDER.glob("*.json"))
    yield from own
    names = {path.name for path in own}
    for stem in shipped_names("latency_tables", ".json"):
        if f"{stem}.json" not in names:
            yield shipped_file("latency_tables", f"{stem}.json")


def table_files(folder: Path | None = None) -> Iterator[Path]:
    """Measured tables of `folder`; if not given, of this folder, then the shipped ones that have no namesake there.

    A file that cannot be read may be one, and is among them.
    """
    for path in candidates() if folder is None else sorted(folder.glob("*.json")):
        try:
            if is_measured(path):
                yield path
        except MaenasError:
            yield path


def hardware_of(path: Path) -> str:
    """What a table's file says it was measured on, also where it is damaged; empty where it says nothing."""
    try:
        found = re.search(r'"hardware":\s*("(?:[^"\\]|\\.)*")', _text(path))
        return json.loads(found[1]) if found else ""
    except (MaenasError, ValueError):
        return ""


def tables_here() -> list[tuple[Path, MeasuredTable]]:
    """The tables measured on this machine's processor; raises `MaenasError` where one of these is damaged."""
    here = processor()
    return [(path, read_measured(path)) for path in table_files() if hardware_of(path) == here]


def find_measured(device: str, *, precision: str | None, batch: int) -> Path | None:
    """File of the measured table called `device`, or None. "cpu" is the table of this machine's processor.

    Of several such tables: that of the precision (else fp32) and batch asked for, then that of the most threads that
    this machine has cores for, then the latest, then one of ONNX Runtime. Raises `MaenasError` where there is none, or
    one of them is damaged.
    """
    if device != THIS_MACHINE:
        return next((path for path in candidates() if path.stem == device and is_measured(path)), None)
    fits = tables_here()
    if not fits:
        name = cpu_name()
        alike = [path.stem for path in table_files() if hardware_of(path).startswith(name)]
        other = f". Tables of another or an unstated model of {name}: {', '.join(alike)}" if alike else ""
        advice = f"run `maenas profile --device cpu` first{other}"
        raise MaenasError(f"no table was measured on this machine's processor ({processor()}): {advice}")

    def preference(entry: tuple[Path, MeasuredTable]) -> tuple:
        table = entry[1]
        threads = int(table.conditions.get("threads", "1"))
        asked = ((precision or "fp32") == table.precision) + (batch == table.batch)
        latest = table.conditions.get("date", ""), table.runtime.startswith("onnxruntime")
        return asked, threads <= (os.cpu_count() or 1), threads, *latest

    return max(fits, key=preference)[0]


def load_measured(name: str) -> MeasuredTable:
    """The measured table in the file `name` (.json), or called so; raises `MaenasError`."""
    path = Path(name) if name.lower().endswith(".json") else find_measured(name, precision=None, batch=1)
    if path is None:
        known = ", ".join(path.stem for path in table_files()) or "none"
        raise MaenasError(f"there is no measured table {name!r}; there are: {known}. Or name a .json file")
    return read_measured(path)


def cpu_name() -> str:
    """Model name of the processor."""
    return _cpuinfo().get("model name") or _apple_name() or platform.processor() or platform.machine()


def processor() -> str:
    """What a measured table is bound to: the processor's name, family and model, and its widest vectors.

    A virtual machine may hide the model behind a name ("AMD EPYC") that generations share which differ by a factor.
    An ARM processor has no name but "aarch64" on Linux, only a part number for each kind of its cores.
    """
    facts = _cpuinfo()
    about = [f"{key.lower().removeprefix('cpu ')} {facts[key]}" for key in IDENTITY if key in facts]
    flags = facts.get("flags", "").split()
    about += [next((flag for flag in VECTORS if flag in flags), "")]
    stated = " ".join(word for word in about if word)
    return f"{cpu_name()} ({stated})" if stated else cpu_name()


def _apple_name() -> str:
    """ "Apple M2 Pro", for example, on macOS, whose `platform` says "arm" of all of them; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    try:
        asked = subprocess.run(BRAND, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()


def _cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What Linux says about the first processor, and the parts of all; empty elsewhere."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines if line.strip())]
    facts: dict[str, str] = {}
    for key, value in pairs:
        facts.setdefault(key, value)
    parts = dict.fromkeys(value for key, value in pairs if key == "CPU part")
    return facts | ({"CPU part": " ".join(parts)} if parts else {})
