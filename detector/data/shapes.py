"""The built-in data set: coloured shapes on soft textures, drawn from a seed, written as a COCO folder.

It is easy on purpose: a small detector learns it from nothing in minutes on a CPU. Colour tells nothing about the
class; size, rotation and overlap vary, and some images are empty.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from detector.data.annotation_cache import cache_folder
from maenas.errors import MaenasError
from maenas.files import ensure_folder, new_folder, write_atomic

NAMES: Final = ("circle", "square", "triangle", "cross")
IMAGES: Final = 1500
SHAPES: Final = "shapes"  # what to give for a path
SIZE: Final = 192
_VERSION: Final = 1  # to be raised with every change of what is drawn
_VAL_SHARE: Final = 0.2
_EMPTY_SHARE: Final = 0.05
_MOST_OBJECTS: Final = 6
_SIDES: Final = (0.12, 0.45)  # side of an object in sides of the image
_MOST_OVERLAP: Final = 0.35  # of the smaller of two boxes
_SHIFT: Final = 4  # OpenCV draws with coordinates in 1/16 pixel


def are_built_in(data: str | Path) -> bool:
    """Whether `data` names the built-in shapes: the word, where no folder of that name is here."""
    return str(data) == SHAPES and not Path(SHAPES).is_dir()


def cached_shapes() -> Path:
    """The folder of the default shapes in the user's cache, written there first where it is missing.

    Raises MaenasError if the cache cannot be written.
    """
    root = cache_folder()
    folder = root / f"shapes-{_VERSION}"
    if not folder.is_dir():
        try:
            ensure_folder(root)
            write_shapes(folder, images=IMAGES, size=SIZE, seed=0)
        except MaenasError as error:
            if not (folder / "annotations").is_dir():  # another process that wrote them meanwhile is as good
                raise MaenasError(f"{error}; or set XDG_CACHE_HOME to a folder that can be written") from error
    return folder


def write_shapes(folder: Path, *, images: int, size: int, seed: int) -> None:
    """Writes `images` PNG files of side `size` and their COCO annotations, every fifth image for validation.

    The same arguments give the same pixels and boxes. The folder appears when it is complete.

    Raises MaenasError if the folder exists and is not empty, or cannot be written.
    """
    if not (2 <= images <= 1_000_000 and 32 <= size <= 4096):
        raise MaenasError(f"shapes: {images} images of side {size}; 2 to 1000000 of side 32 to 4096 can be made")
    with new_folder(folder) as work:
        _write_all(work, images, size, seed)


def _write_all(folder: Path, images: int, size: int, seed: int) -> None:
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    every = round(1 / _VAL_SHARE)
    documents: dict[str, dict[str, list[Any]]] = {}
    for split in ("train", "val"):
        categories = [{"id": index, "name": name} for index, name in enumerate(NAMES, start=1)]
        documents[split] = {"images": [], "annotations": [], "categories": categories}
    for number in range(1, images + 1):
        pixels, boxes, labels = draw_image(np.random.default_rng((seed, number)), size)
        name = f"{number:06d}.png"
        _, data = cv2.imencode(".png", pixels[:, :, ::-1])
        (folder / "images" / name).write_bytes(data.tobytes())
        document = documents["val" if number % every == 0 else "train"]
        document["images"].append({"id": number, "file_name": name, "width": size, "height": size})
        for (x1, y1, x2, y2), label in zip(boxes.round(2).tolist(), labels.tolist(), strict=True):
            bbox = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": bbox,
                    "area": round(bbox[2] * bbox[3], 2),
                    "iscrowd": 0,
                }
            )
    for split, document in documents.items():
        write_atomic(folder / "annotations" / f"instances_{split}.json", json.dumps(document))


def draw_image(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, uint8 RGB `[size, size, 3]`, with the boxes float32 `[N, 4]` and labels int64 `[N]` of its shapes."""
    image = _background(rng, size)
    boxes: list[np.ndarray] = []
    labels: list[int] = []
    wanted = 0 if rng.random() < _EMPTY_SHARE else int(rng.integers(1, _MOST_OBJECTS + 1))
    for _ in range(4 * wanted):
        if len(boxes) == wanted:
            break
        label = int(rng.integers(len(NAMES)))
        points = _outline(rng, NAMES[label], size)
        box = np.concatenate([points.min(axis=0), points.max(axis=0)])
        if box.min() < 0 or box.max() > size or any(_overlap(box, other) > _MOST_OVERLAP for other in boxes):
            continue
        _paint(rng, image, points)
        boxes.append(box)
        labels.append(label)
    return image, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two muted colours that flow into each other along soft noise."""
    cells = int(rng.integers(2, 7))
    noise = rng.random((cells, cells)).astype(np.float32)
    mix = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)[:, :, None]
    first, second = rng.uniform(50, 205, (2, 3))
    grey = (first.mean() + second.mean()) / 2
    first, second = grey + 0.4 * (first - grey), grey + 0.4 * (second - grey)
    return np.clip(first + (second - first) * mix, 0, 255).astype(np.uint8)


def _outline(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """Corner points float64 `[K, 2]` of a shape, anywhere in the image and turned by any angle."""
    low, high = _SIDES
    radius = size * low * (high / low) ** rng.random() / 2  # sizes spread evenly over their logarithm
    if name == "circle":
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif name == "square":
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.85
    elif name == "triangle":
        angles = np.array([0, 2, 4]) * np.pi / 3
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 1.1
    else:
        a = 0.33
        quarter = np.array([[a, -a], [1, -a], [1, a]])
        turns = [np.array([[0, -1], [1, 0]]), np.array([[-1, 0], [0, -1]]), np.array([[0, 1], [-1, 0]])]
        points = np.concatenate([quarter, *(quarter @ turn.T for turn in turns)])
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return radius * points @ turn.T + rng.uniform(radius, size - radius, 2)


def _paint(rng: np.random.Generator, image: np.ndarray, points: np.ndarray) -> None:
    """Fills an outline with a colour that stands out from what is under it."""
    low, high = points.min(axis=0).astype(int), np.ceil(points.max(axis=0)).astype(int)
    under = image[low[1] : high[1] + 1, low[0] : high[0] + 1].reshape(-1, 3).mean(axis=0)
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - under).max() < 80:
        colour = rng.uniform(0, 255, 3)
    corners = np.round((points - 0.5) * 2**_SHIFT).astype(np.int32)  # pixel centres lie at half pixels
    cv2.fillPoly(image, [corners], colour.tolist(), cv2.LINE_AA, _SHIFT)


def _overlap(one: np.ndarray, two: np.ndarray) -> float:
    """Shared area of two boxes over that of the smaller one."""
    sides = np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2])
    areas = (np.prod(one[2:] - one[:2]), np.prod(two[2:] - two[:2]))
    return float(np.prod(sides.clip(0)) / min(areas))
