"""Darknet, which CVAT calls YOLO 1.1: `obj.data` names the classes and, for each split, a list of images."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from detector.data.coco import ALIASES
from detector.data.places import find_images, local_name
from detector.data.sample import Dataset, path_inside
from detector.data.yolo import read_labelled
from detector.images import images_below
from maenas.errors import MaenasError, NoSplitError
from maenas.files import filled_lines, read_text


def find_darknet(root: Path) -> Path | None:
    """The file that describes a folder in this form, None where there is none or more than one."""
    found = [path for path in root.glob("*.data") if path.is_file()]
    with suppress(MaenasError):  # other files are called so, too
        return found[0] if len(found) == 1 and "names" in _fields(found[0]) else None
    return None


def read_darknet(path: Path, split: str) -> Dataset:
    """The data set of a split; the label file of an image lies beside it.

    What the file and its lists name may begin with a folder that is not there (`data/`), where the folder stood in
    Darknet's own, or with all those of another machine. Where no image is there, they are looked for by their names.

    Raises MaenasError for a split that it does not have, for missing files and for paths out of the folder.
    """
    fields = _fields(path)
    known = [key for names in ALIASES.values() for key in names if key in fields]
    key = next((key for key in ALIASES[split] if key in known), None)
    if key is None:
        raise NoSplitError(f"{path}: no {split} split (it has {', '.join(known) or 'none'})")
    names = _lines(path, fields["names"], "list of classes")
    root = path.parent
    lines = [local_name(root, line) for line in _lines(path, fields[key], "list of images")]
    _, images = find_images(path, lines, [root], lambda: images_below(root))
    files = [(image, image.with_suffix(".txt")) for image in dict.fromkeys(images)]
    return replace(read_labelled(root, files, names), source=f"{path} ({split})")


def _fields(path: Path) -> dict[str, str]:
    lines = read_text(path, what="data set description", max_bytes=2**20).splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _lines(path: Path, name: str, what: str) -> list[str]:
    place = path_inside(path.parent, local_name(path.parent, name), where=str(path))
    if not place.is_file():
        raise MaenasError(f"{path}: {name} is not there")
    return filled_lines(read_text(place, what=what, max_bytes=2**30))
