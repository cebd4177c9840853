"""Samples of a data set as a few flat arrays: little memory for a hundred thousand images, and none twice.

Objects of Python, each with its counter of references, are copied into every process that looks at them; arrays, or
a file mapped into memory, stay shared. Legend: S samples, N boxes of all, K crowds of all, P bytes of all paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from detector.data.sample import Sample


@dataclass(frozen=True, eq=False)
class Columns:
    """The fields of samples, one after the other; those of sample i end at `*_ends[i + 1]`."""

    paths: np.ndarray  # uint8 [P]
    path_ends: np.ndarray  # int64 [S + 1]
    ids: np.ndarray  # int64 [S]
    sizes: np.ndarray  # int64 [S, 2], width and height
    box_ends: np.ndarray  # int64 [S + 1]
    boxes: np.ndarray  # float32 [N, 4]
    labels: np.ndarray  # int64 [N]
    areas: np.ndarray  # float32 [N]
    crowd_ends: np.ndarray  # int64 [S + 1]
    crowd_boxes: np.ndarray  # float32 [K, 4]
    crowd_labels: np.ndarray  # int64 [K]


class FlatSamples(Sequence[Sample]):
    """The rows `rows` of columns, each made into a sample when it is asked for; a slice shares the columns."""

    def __init__(self, columns: Columns, rows: np.ndarray | None = None) -> None:
        self.columns = columns
        self.rows = np.arange(len(columns.ids)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> FlatSamples: ...
    def __getitem__(self, index: int | slice) -> Sample | FlatSamples:
        rows = self.rows[index]
        return FlatSamples(self.columns, rows) if isinstance(index, slice) else self._sample(int(rows))

    def __iter__(self) -> Iterator[Sample]:
        return map(self._sample, self.rows.tolist())

    def _sample(self, row: int) -> Sample:
        its = self.columns
        boxes = slice(its.box_ends[row], its.box_ends[row + 1])
        crowds = slice(its.crowd_ends[row], its.crowd_ends[row + 1])
        width, height = its.sizes[row].tolist()
        return Sample(
            Path(os.fsdecode(self._path(row))),
            int(its.ids[row]),
            width,
            height,
            its.boxes[boxes],
            its.labels[boxes],
            its.areas[boxes],
            its.crowd_boxes[crowds],
            its.crowd_labels[crowds],
        )

    def _path(self, row: int) -> bytes:
        its = self.columns
        return its.paths[its.path_ends[row] : its.path_ends[row + 1]].tobytes()

    @property
    def ids(self) -> np.ndarray:
        """int64 `[len]`."""
        return self.columns.ids[self.rows]

    @property
    def sizes(self) -> np.ndarray:
        """Width and height, int64 `[len, 2]`."""
        return self.columns.sizes[self.rows]

    @property
    def counts(self) -> np.ndarray:
        """Boxes of each sample, int64 `[len]`."""
        return np.diff(self.columns.box_ends)[self.rows]

    @property
    def boxes(self) -> np.ndarray:
        """Boxes of all samples, one sample after the other, float32 `[N, 4]`."""
        counts = self.counts
        first = self.columns.box_ends[self.rows] - (np.cumsum(counts) - counts)  # less the boxes of those before
        return self.columns.boxes[np.repeat(first, counts) + np.arange(counts.sum())]

    def class_counts(self, classes: int) -> np.ndarray:
        """Boxes of each class, int64 `[classes]`."""
        kept = np.zeros(len(self.columns.ids), bool)
        kept[self.rows] = True
        labels = self.columns.labels[np.repeat(kept, np.diff(self.columns.box_ends))]
        return np.bincount(labels, minlength=classes)

    def first_of_path(self) -> np.ndarray:
        """For each sample the first one with the same file, int64 `[len]`."""
        keys = np.fromiter((hash(self._path(row)) for row in self.rows.tolist()), np.int64, len(self))
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        return first[inverse]


def flat(samples: Sequence[Sample]) -> FlatSamples:
    """`samples` as flat arrays; what is flat already stays as it is."""
    if isinstance(samples, FlatSamples):
        return samples
    paths = [os.fsencode(sample.path) for sample in samples]
    columns = Columns(
        paths=np.frombuffer(b"".join(paths), np.uint8),
        path_ends=_ends([len(path) for path in paths]),
        ids=np.array([sample.id for sample in samples], np.int64),
        sizes=np.array([(sample.width, sample.height) for sample in samples], np.int64).reshape(-1, 2),
        box_ends=_ends([len(sample.labels) for sample in samples]),
        boxes=_joined([sample.boxes for sample in samples], np.float32, (0, 4)),
        labels=_joined([sample.labels for sample in samples], np.int64, (0,)),
        areas=_joined([sample.areas for sample in samples], np.float32, (0,)),
        crowd_ends=_ends([len(sample.crowd_labels) for sample in samples]),
        crowd_boxes=_joined([sample.crowd_boxes for sample in samples], np.float32, (0, 4)),
        crowd_labels=_joined([sample.crowd_labels for sample in samples], np.int64, (0,)),
    )
    return FlatSamples(columns)


def _ends(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _joined(parts: list[np.ndarray], dtype: type, empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros(empty, dtype), *parts]).astype(dtype, copy=False)
