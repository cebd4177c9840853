"""Tensors out of a pickled checkpoint (`.pth`, `.pt`), without running any code in it."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maenas.errors import MaenasError
from maenas.files import refuse_pipe

STATE_ENTRIES = ("model", "state_dict")
PARALLEL_PREFIX = "module."  # put before every name by torch's parallel wrappers

# What torch's readers of the zip and of the old format raise on damaged files, besides UnpicklingError.
BROKEN = (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)
BROKEN += (struct.error, zipfile.BadZipFile, zlib.error, MemoryError)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without the prefix "module.".

    They are the entry "model" or "state_dict" of the file, or all of it. Raises `MaenasError` for a file that is
    missing, cut off, holds objects other than tensors and plain data, or has no tensors in these places.
    """
    checkpoint = unpickle(path)
    for entry in STATE_ENTRIES:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(entry), Mapping):
            checkpoint = checkpoint[entry]
            break
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise MaenasError(f"checkpoint {path}: there are no named tensors in it")
    for name, value in checkpoint.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            entries = " or ".join(map(repr, STATE_ENTRIES))
            raise MaenasError(
                f"checkpoint {path}: entry {name!r:.80} is a {type(value).__name__}, not a tensor; "
                f"the tensors must be the entry {entries}, or the whole file"
            )
        if not _is_plain(value):
            raise MaenasError(f"checkpoint {path}: the tensor {name!r:.80} is not dense, or larger than its data")
    return {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in checkpoint.items()}


def unpickle(path: Path, data: bytes | None = None) -> Any:
    """Tensors (on the CPU) and plain data; raises `MaenasError` for any other file, and for one whose checksums are
    wrong. `data` is what the file holds, where it was read already."""
    refuse_pipe(path, what="checkpoint")
    try:
        source = path if data is None else io.BytesIO(data)
        if zipfile.is_zipfile(source):
            _check_archive(path, source, path.stat().st_size if data is None else len(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it is about to refuse
            return torch.load(_rewound(source), map_location="cpu", weights_only=True)
    except MaenasError:
        raise
    except OSError as error:
        raise MaenasError(f"checkpoint {path}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        if "unsupported global" in str(error).lower():
            raise MaenasError(
                f"checkpoint {path}: refused, because it holds code or objects other than tensors; "
                "save its state dict alone with a program that you trust"
            ) from error
        raise MaenasError(f"checkpoint {path}: not a whole checkpoint: it is cut off or of another format") from error
    except BROKEN as error:
        raise MaenasError(f"checkpoint {path}: not a whole checkpoint: it is cut off or of another format") from error


def _rewound(source: Path | io.BytesIO) -> Path | io.BytesIO:
    if isinstance(source, io.BytesIO):
        source.seek(0)
    return source


def _check_archive(path: Path, source: Path | io.BytesIO, size: int) -> None:
    """torch neither compresses nor shares the entries of its archives, and does not look at their checksums."""
    with zipfile.ZipFile(_rewound(source)) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > size:
            raise MaenasError(f"checkpoint {path}: refused, because it would unpack to more than the file has")
        damaged = archive.testzip()
    if damaged is not None:
        raise MaenasError(f"checkpoint {path}: not a whole checkpoint: the checksum of {damaged!r:.80} is wrong")


def _is_plain(tensor: Tensor) -> bool:
    """Whether the values lie in memory one by one: a file of bytes can claim a tensor of any size by a stride of 0."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
