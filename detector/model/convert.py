"""A released checkpoint to a weights file of ours."""

from __future__ import annotations

from pathlib import Path

from detector.model.weights import Weights, read_published, write_weights
from maenas.errors import MaenasError
from maenas.files import filled_lines, read_text
from maenas.outputs import check_other
from maenas.spec import load_spec


def convert_published(
    old: str | Path, new: str | Path, *, spec: str | Path, names: str | Path | None = None
) -> Weights:
    """Write the checkpoint `old` of the network `spec` (a file or a shipped name) as the weights file `new`.

    `names` is a text file with a class name a line, COCO's for 80 classes unless given. Raises `MaenasError` as
    `read_published` does, for a `.safetensors` file, whose class names would be lost, and where `new` is an input.
    """
    if Path(old).suffix.lower() == ".safetensors":
        raise MaenasError(
            f"{old}: a published checkpoint (.pth) is wanted here; a weights file of maenas is used as it is"
        )
    check_other(new, old, spec, *([] if names is None else [names]))
    given = None if names is None else tuple(filled_lines(read_text(names, what="class names")))
    weights = read_published(old, load_spec(str(spec)).detector, given)
    write_weights(new, weights.state, weights.spec, weights.names, {"source": Path(old).name})
    return weights
