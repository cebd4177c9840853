"""Tensors out of a pickled checkpoint (`.pth`), without running any code in it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maenas.errors import MaenasError

STATE_ENTRIES = ("model", "state_dict")
PARALLEL_PREFIX = "module."  # put before every name by torch's parallel wrappers


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without the prefix "module.".

    They are the entry "model" or "state_dict" of the file, or all of it. Raises `MaenasError` for a file that is
    missing, cut off, holds objects other than tensors and plain data, or has no tensors in these places.
    """
    checkpoint = _unpickle(path)
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
    return {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in checkpoint.items()}


def _unpickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it is about to refuse
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MaenasError(f"checkpoint {path}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        if "unsupported global" in str(error).lower():
            raise MaenasError(
                f"checkpoint {path}: refused, because it holds code or objects other than tensors; "
                "save its state dict alone with a program that you trust"
            ) from error
        raise MaenasError(f"checkpoint {path}: not a whole checkpoint: it is cut off or of another format") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # What torch's readers of the zip and of the old format raise on damaged files.
        raise MaenasError(f"checkpoint {path}: not a whole checkpoint: it is cut off or of another format") from error
