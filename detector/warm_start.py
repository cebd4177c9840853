"""First weights of a searched network, inherited from any trained detector of its style."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from detector.data.dataset import open_dataset
from detector.data.loader import eval_batches
from detector.data.sample import Dataset
from detector.images import normalise
from detector.model.inherit import Inherited, estimate_statistics, inherit
from detector.model.weights import Weights, load_net, write_weights
from maenas.errors import MaenasError
from maenas.outputs import check_other
from maenas.run_files import weights_path
from maenas.spec import DetectorSpec, load_spec
from maenas.units import number_of

IMAGES, BATCH = 128, 16  # that the statistics of batch norm come from


def warm_start(
    source: str | Path, spec: DetectorSpec, images: Dataset | None, *, seed: int = 0
) -> tuple[Weights, list[Inherited]]:
    """Weights of `spec`, with the classes of `images`, from those in `source` (a file, or the folder of a run).

    Classes match by name. Batch norm gets its statistics from up to 128 of the images. Without `images` statistics and
    classes are the source's, of which there must be as many as `spec` has.
    Raises `MaenasError` for a source that cannot be read, or of another style.
    """
    theirs, weights = load_net(source)
    names = weights.names if images is None else images.names
    if len(names) != spec.head.num_classes:
        raise MaenasError(
            f"the source has {number_of(len(names), 'class')}, the spec {spec.head.num_classes}; "
            "name the data to be trained on with --data, whose classes are then taken"
        )
    known = {name: label for label, name in enumerate(weights.names)}
    classes = {label: known[name] for label, name in enumerate(names) if name in known}
    net, rows = inherit(theirs, spec, classes, seed=seed)
    if images is not None:
        estimate_statistics(net, _batches(images, spec))
    notes = {"inherited_from": weights.spec.id}
    if len(classes) < len(names):
        notes["new_classes"] = str(len(names) - len(classes))
    return Weights(spec, names, net.state_dict(), notes), rows


def inherit_weights(
    source: str | Path, spec: str | Path, out: str | Path, *, data: str | Path | None = None, seed: int = 0
) -> tuple[Weights, list[Inherited]]:
    """Write `warm_start` for a spec (a file, or a shipped name) to the weights file `out`.

    With `data` the classes are those of the data set. Raises `MaenasError` as `warm_start` does, and where `out` is an
    input.
    """
    check_other(out, weights_path(source), spec)
    file = load_spec(str(spec))
    detector, images = file.detector, None
    if data is not None:
        images = open_dataset(data, "train")
        detector = replace(detector, head=replace(detector.head, num_classes=len(images.names)))
    weights, rows = warm_start(source, detector, images, seed=seed)
    write_weights(out, weights.state, detector, weights.names, weights.metadata, file)
    return weights, rows


def _batches(images: Dataset, spec: DetectorSpec) -> Iterator[Tensor]:
    """Images spread over the set, as the network takes them."""
    chosen = np.unique(np.linspace(0, len(images) - 1, IMAGES).round().astype(int))
    some = replace(images, samples=tuple(images.samples[index] for index in chosen))
    for batch in eval_batches(some, spec.input, batch_size=BATCH):
        if len(batch.images) > 1 or len(some) == 1:
            yield normalise(batch.images, spec.input)
