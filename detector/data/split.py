"""Cutting a data set into training, validation and test images."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detector.choices import Split
from detector.data.dataset import open_unsplit
from detector.data.flat import flat
from detector.data.geometry import box_areas
from detector.data.sample import Dataset, Problem, Sample
from maenas.errors import MaenasError
from maenas.files import new_folder, reason, write_atomic

IMAGES, ANNOTATIONS = "images", "annotations"


class Cut(NamedTuple):
    """The splits, and what was wrong with the source and is therefore in none of them."""

    splits: dict[Split, Dataset]
    problems: tuple[Problem, ...]


def split_data(
    source: str | Path,
    out: str | Path,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    group: str = "",
    on_image: Callable[[], object] = lambda: None,
) -> Cut:
    """Cut the data set at `source` into splits, and write them to the new folder `out` as COCO.

    `val` and `test` are shares of the images, 0 to 0.9 together; what is left is for training. Every class is shared
    out in these proportions as well as can be (iterative stratification, Sechidis et al., ECML 2011). Images of one
    group stay together: those with equal bytes, and those in whose path below the images' common folder the regular
    expression `group` finds the same text (that of its first bracket, if it has one). `seed` draws among equals.

    `out` gets hard links to the images, where the file system has them, else copies. `on_image` hears of each.
    Raises MaenasError for a source that cannot be read or has splits already, shares without sense, groups too few
    for the splits, and where `out` exists or cannot be written. The source is not changed.
    """
    if not (val > 0 and test >= 0 and val + test <= 0.9):
        raise MaenasError(f"val is {val:g} and test {test:g}; each is a share of the images, at most 0.9 together")
    dataset = open_unsplit(source)
    top = Path(os.path.commonpath([sample.path.parent for sample in dataset.samples]))
    names = [sample.path.relative_to(top).as_posix() for sample in dataset.samples]
    groups = _groups(dataset.samples, names, group, on_image)
    shares: dict[Split, float] = {"train": 1 - val - test, "val": val, "test": test}
    shares = {split: share for split, share in shares.items() if share > 0}
    if len(groups) < len(shares):
        raise MaenasError(f"{dataset.source}: {len(groups)} groups of images cannot make {len(shares)} splits")
    counts = _counts(dataset)
    owners = stratified([counts[rows].sum(axis=0) for rows in groups], list(shares.values()), seed=seed)
    splits: dict[Split, Dataset] = {}
    with new_folder(Path(out)) as work:
        for number, split in enumerate(shares):
            rows = np.sort(np.concatenate([groups[i] for i in np.flatnonzero(owners == number)]))
            samples = [dataset.samples[row] for row in rows]
            files = [names[row] for row in rows]
            document = _document(dataset.names, samples, files)
            write_atomic(work / ANNOTATIONS / f"instances_{split}.json", json.dumps(document))
            for sample, file in zip(samples, files, strict=True):
                _link(sample.path, work / IMAGES / file)
            splits[split] = replace(dataset, samples=flat(samples), problems=())
    return Cut(splits, dataset.problems)


def stratified(counts: Sequence[np.ndarray], shares: Sequence[float], *, seed: int) -> np.ndarray:
    """The split of every group, int `[G]`, given how many images and boxes of each class it has, `[1 + C]`.

    The rarest class is shared out first. A group goes to the split that lacks most of the class, then of images. The
    last groups go where there is none yet, of that class and at all.
    """
    have = np.array(counts, float)  # [G, 1 + C]
    wanted = np.outer(shares, have.sum(axis=0))  # [S, 1 + C]
    given = np.zeros_like(wanted)
    owners = np.full(len(have), -1)
    left = np.random.default_rng(seed).permutation(len(have))
    while left.size:
        totals = have[left, 1:].sum(axis=0)
        column = 1 + int(np.where(totals > 0, totals, np.inf).argmin()) if totals.any() else 0
        chosen = left[have[left, column] > 0]
        for done, index in enumerate(chosen):
            free = np.full(len(shares), True)
            for groups, kind in ((left, 0), (chosen, column)):
                without = given[:, kind] == 0
                if len(groups) - done <= without.sum():
                    free = without
                    break
            best = max(np.flatnonzero(free), key=lambda split: (wanted[split, column], wanted[split, 0]))
            owners[index] = best
            given[best] += have[index]
            wanted[best] -= have[index]
        left = left[owners[left] < 0]
    return owners


def _counts(dataset: Dataset) -> np.ndarray:
    """1 and the boxes of each class, for every image: int `[N, 1 + C]`."""
    counts = np.ones((len(dataset), 1 + len(dataset.names)), int)
    for row, sample in enumerate(dataset.samples):
        counts[row, 1:] = np.bincount(sample.labels, minlength=len(dataset.names))
    return counts


def _groups(
    samples: Sequence[Sample], names: Sequence[str], pattern: str, on_image: Callable[[], object]
) -> list[np.ndarray]:
    """Rows of the images that must stay together."""
    try:
        found = [re.search(pattern, name) if pattern else None for name in names]
    except re.error as error:
        raise MaenasError(f"group {pattern!r}: no regular expression: {error}") from error
    leader: dict[object, int] = {}
    owner = list(range(len(samples)))
    for row, (sample, match) in enumerate(zip(samples, found, strict=True)):
        try:
            keys: list[object] = [hashlib.sha256(sample.path.read_bytes()).digest()]
        except OSError as error:
            raise MaenasError(f"image {sample.path}: {reason(error)}") from error
        if match is not None:
            keys.append(match[1] if match.re.groups else match[0])
        for key in keys:
            _join(owner, row, leader.setdefault(key, row))
        on_image()
    rows = defaultdict(list)
    for row in range(len(samples)):
        rows[_root(owner, row)].append(row)
    return [np.array(group) for group in rows.values()]


def _root(owner: list[int], row: int) -> int:
    while owner[row] != row:
        row = owner[row]
    return row


def _join(owner: list[int], one: int, other: int) -> None:
    """Make one group of two."""
    low, high = sorted((_root(owner, one), _root(owner, other)))
    owner[high] = low


def _document(names: Sequence[str], samples: Sequence[Sample], files: Sequence[str]) -> Mapping[str, Any]:
    """COCO annotations; ids count from 1."""
    images = [
        {"id": number, "file_name": file, "width": sample.width, "height": sample.height}
        for number, (sample, file) in enumerate(zip(samples, files, strict=True), start=1)
    ]
    annotations = []
    for number, sample in enumerate(samples, start=1):
        areas = [*sample.areas.tolist(), *box_areas(sample.crowd_boxes).tolist()]
        boxes = np.concatenate([sample.boxes, sample.crowd_boxes]).astype(float).tolist()
        labels = [*sample.labels.tolist(), *sample.crowd_labels.tolist()]
        for place, ((x1, y1, x2, y2), label, area) in enumerate(zip(boxes, labels, areas, strict=True)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(place >= len(sample.labels)),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
