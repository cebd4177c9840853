"""Objects that a detector cannot box well at its input size: longer than its bins reach, or smaller than a cell."""

from __future__ import annotations

import numpy as np

from detector.data.flat import FlatSamples, flat
from detector.data.sample import Dataset
from detector.images import place
from maenas.spec import OUTPUT_STRIDES, DetectorSpec, InputSpec

CELL = OUTPUT_STRIDES[0]  # pixels of the finest level
MANY_SMALL = 0.2  # of the boxes


def longest_box(spec: DetectorSpec) -> int:
    """Pixels from one side of a box to the other, as far as both are in reach of a prior of the last level."""
    return 2 * spec.head.reg_max * OUTPUT_STRIDES[-1]


def reach_texts(spec: DetectorSpec, dataset: Dataset) -> list[str]:
    """What to tell of the boxes of `dataset` at the input of `spec`; empty where nothing is the matter."""
    sides = input_sides(flat(dataset.samples), spec.input)
    size = f"{spec.input.height}x{spec.input.width}"
    limit = longest_box(spec)
    texts = []
    if far := int((sides.max(axis=1) > limit).sum()):
        texts.append(
            f"{far} of {len(sides)} boxes are longer than {limit} pixels at {size}, and the head reaches no farther "
            f"(reg_max {spec.head.reg_max}): search for this input, or train at a smaller --input"
        )
    small = float((sides.max(axis=1) < CELL).mean())
    if small > MANY_SMALL:
        texts.append(
            f"{small:.0%} of the boxes are smaller than {CELL} pixels at {size}, a cell of the finest level: a larger "
            "--input shows more of them"
        )
    return texts


def input_sides(samples: FlatSamples, size: InputSpec) -> np.ndarray:
    """Width and height of every box as the network sees it, float `[N, 2]`, in pixels of the input."""
    sizes, which = np.unique(samples.sizes, axis=0, return_inverse=True)
    scales = np.array([place(width, height, size)[2:] for width, height in sizes.tolist()]).reshape(-1, 2)
    boxes = samples.boxes
    return (boxes[:, 2:] - boxes[:, :2]) * np.repeat(scales[which.ravel()], samples.counts, axis=0)
