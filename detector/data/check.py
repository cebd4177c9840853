"""What is wrong with a data set: every split read, every image decoded, splits compared; and a sheet to look at.

Nothing is changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from detector.data.dataset import Dataset, Problem, Sample, are_specks, class_counts, read_dataset
from detector.data.pictures import load_image
from detector.data.sample import BROKEN_IMAGE, FATAL, ODD_IMAGE, UNUSED_CLASS, places_by_kind
from detector.draw import Tile, encoded, sheet
from detector.images import read_image
from maenas.errors import MaenasError, NoSplitError

SPLITS: Final = ("train", "val", "test")
NEEDED: Final = ("train", "val")  # by a training
NO_BOXES: Final = "split without a box"
SPECKS: Final = "split whose boxes are all smaller than a pixel"
SAME_IMAGE: Final = "same image twice in a split"
LEAK: Final = "image in two splits"
RARE_CLASS: Final = "class with less than a hundredth of the boxes of the largest"
NEW_CLASS: Final = "class that the training split does not have"
_COLUMNS: Final = 4
_EXAMPLES: Final = 5  # of a kind of problem


@dataclass(frozen=True)
class Kind:
    """The problems of one kind: how many there are, and where some of them are."""

    count: int
    examples: list[str]


@dataclass(frozen=True)
class Summary:
    """A split in numbers; `problems` by kind."""

    source: str
    images: int
    images_without_boxes: int
    boxes: int
    classes: dict[str, int]
    problems: dict[str, Kind]


@dataclass(frozen=True)
class Report:
    """What was found: for each split its sizes and problems; `leaks` are between splits.

    `absent` says of each split that a folder does not have, or of a test split that is broken, what is the matter.
    """

    path: str
    splits: Mapping[str, Dataset]
    absent: Mapping[str, str]
    problems: Mapping[str, tuple[Problem, ...]]
    leaks: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """Whether a training could start: images and boxes to learn from and to be rated by, whose labels are right.

        Of a file that is one split, whether it could be one of these.
        """
        return not self.missing and all(self._is_fit(name) for name in NEEDED if name in self.splits)

    @property
    def missing(self) -> tuple[str, ...]:
        """Splits that a training needs and a folder does not have."""
        return tuple(name for name in NEEDED if name in self.absent)

    def _is_fit(self, name: str) -> bool:
        kinds, split = [problem.kind for problem in self.problems[name]], self.splits[name]
        left_out = sum(problem.kind == BROKEN_IMAGE for problem in split.problems)  # already when it was read
        whole = len(split) - (kinds.count(BROKEN_IMAGE) - left_out)
        return whole > 0 and not {*kinds} & {*FATAL, NO_BOXES, SPECKS, NEW_CLASS}

    def summaries(self) -> dict[str, Summary]:
        """Each split in numbers, with some examples of every kind of problem."""
        return {name: _summary(data, self.problems[name]) for name, data in self.splits.items()}

    def reads(self, path: Path) -> bool:
        """Whether a file is one of the images."""
        real = os.path.realpath(path)
        return any(os.path.realpath(sample.path) == real for data in self.splits.values() for sample in data.samples)

    def leak_kinds(self) -> dict[str, Kind]:
        """The leaks between splits by kind."""
        return _kinds(self.leaks)

    def document(self) -> dict[str, Any]:
        """Everything but the samples as plain data for JSON."""
        return {
            "path": self.path,
            "usable": self.usable,
            "splits": {name: asdict(summary) for name, summary in self.summaries().items()},
            "absent": dict(self.absent),
            "leaks": {kind: asdict(entry) for kind, entry in self.leak_kinds().items()},
        }


def check(path: str | Path, *, on_image: Callable[[], None] = lambda: None) -> Report:
    """Reads all splits at `path` and decodes every image; `on_image` is called after each.

    Raises MaenasError where there is no training split, and where it or the validation split cannot be read.
    """
    splits, absent = {"train": read_dataset(path, "train")}, {}
    for name in () if Path(path).suffix.lower() == ".json" else SPLITS[1:]:
        try:
            dataset = read_dataset(path, name)
        except NoSplitError:
            absent[name] = "none"
            continue
        except MaenasError as error:  # a training asks for no test split, which a description may name in vain
            if name in NEEDED:
                raise
            absent[name] = f"cannot be read: {error}"
            continue
        if dataset.source in [known.source for known in splits.values()]:  # shapes have no test split
            absent[name] = "none"
        else:
            splits[name] = dataset
    problems: dict[str, tuple[Problem, ...]] = {}
    digests: dict[str, dict[str, Path]] = {}
    for name, dataset in splits.items():
        found, digests[name] = _images(dataset, on_image)
        problems[name] = (*dataset.problems, *found, *_classes(dataset, splits["train"].names))
    return Report(str(path), splits, absent, problems, _leaks(digests))


def _images(dataset: Dataset, on_image: Callable[[], None]) -> tuple[list[Problem], dict[str, Path]]:
    """Problems of the image files, and the files by the hash of their bytes."""
    problems: list[Problem] = []
    digests: dict[str, Path] = {}
    for sample in dataset.samples:
        told: list[str] = []
        try:
            load_image(sample, warn=lambda _: None)
            read_image(sample.path, warn=told.append)  # the stricter of the two decoders
            digest = hashlib.sha256(sample.path.read_bytes()).hexdigest()
        except (MaenasError, OSError) as error:
            problems.append(Problem(BROKEN_IMAGE, str(error)))
        else:
            if digest in digests:
                problems.append(Problem(SAME_IMAGE, f"{sample.path} and {digests[digest]}"))
            digests.setdefault(digest, sample.path)
            problems += [Problem(ODD_IMAGE, text) for text in told]
        on_image()
    return problems, digests


def _classes(dataset: Dataset, known: Sequence[str]) -> list[Problem]:
    counts = class_counts(dataset)
    if not counts.any():
        return [Problem(NO_BOXES, dataset.source)]
    problems = [Problem(SPECKS, dataset.source)] if are_specks(dataset) else []
    for name, count in zip(dataset.names, counts.tolist(), strict=True):
        if count and name not in known:
            problems.append(Problem(NEW_CLASS, name))
        if count == 0:
            problems.append(Problem(UNUSED_CLASS, name))
        elif count * 100 < counts.max():
            problems.append(Problem(RARE_CLASS, f"{name} ({count} of {counts.sum()})"))
    return problems


def _leaks(digests: Mapping[str, Mapping[str, Path]]) -> tuple[Problem, ...]:
    leaks = []
    names = list(digests)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            shared = digests[first].keys() & digests[second].keys()
            pairs = sorted((digests[first][digest], digests[second][digest]) for digest in shared)
            leaks += [Problem(LEAK, f"{first} {one}, {second} {two}") for one, two in pairs]
    return tuple(leaks)


def _summary(dataset: Dataset, problems: Sequence[Problem]) -> Summary:
    counts = class_counts(dataset)
    return Summary(
        source=dataset.source,
        images=len(dataset),
        images_without_boxes=sum(len(sample.labels) == 0 for sample in dataset.samples),
        boxes=int(counts.sum()),
        classes=dict(zip(dataset.names, counts.tolist(), strict=True)),
        problems=_kinds(problems),
    )


def _kinds(problems: Sequence[Problem]) -> dict[str, Kind]:
    return {kind: Kind(len(wheres), wheres[:_EXAMPLES]) for kind, wheres in places_by_kind(problems).items()}


# Contact sheet ------------------------------------------------------------------------------------------------------


def contact_sheet(dataset: Dataset, *, images: int = 16) -> bytes:
    """A PNG of evenly chosen images with their boxes, class names and file names; unreadable ones are left out."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(images, len(dataset))).astype(int))
    tiles = []
    for index in chosen:
        with suppress(MaenasError):  # reported by the check
            tiles.append(truth_tile(dataset.samples[index], dataset.names))
    return encoded(sheet(tiles, columns=_COLUMNS), "PNG")


def truth_tile(sample: Sample, names: Sequence[str]) -> Tile:
    """An image with its boxes, for a sheet; raises MaenasError if it cannot be read."""
    labels: list[int] = sample.labels.tolist()
    caption = f"{sample.path.name}  {sample.width}x{sample.height}"
    return Tile(load_image(sample), sample.boxes, labels, [names[label] for label in labels], caption)
