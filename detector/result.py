"""What a detector finds in one image, and what it takes for an image.

Legend: N detections, H/W height and width of the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image
from torch import Tensor

from detector.draw import draw_detections
from detector.images import pillow_pixels, read_image
from detector.postprocess import Detections
from maenas.errors import MaenasError

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
KINDS = "give a path, a Pillow image, an array or a tensor"
MOST_SHOWN = 8  # detections in a repr


class ResultDict(TypedDict):
    """A result as plain data; position i of each list is one detection."""

    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]
    names: list[str]


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Detections of one image, best first; boxes are xyxy in its pixels and lie within it.

    `boxes` float32 `[N, 4]`, `scores` float32 `[N]`, `labels` int64 `[N]`, all on the CPU; `names` of the N classes.
    `source` is the image itself, or its file, which `plot` reads again.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...]
    source: str | Path | np.ndarray | None = field(default=None)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        rows = zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True)
        lines = [f"  {name} {score:.2f} [{', '.join(f'{x:.1f}' for x in box)}]" for name, score, box in rows]
        more = [f"  ... {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
        counts = Counter(self.names)
        found = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
        return "\n".join([f"Result: {found}", *lines[:MOST_SHOWN], *more])

    @property
    def detections(self) -> Detections:
        """Without the names."""
        return Detections(self.boxes, self.scores, self.labels)

    def to_dict(self) -> ResultDict:
        """As plain lists, ready for JSON."""
        return {
            "boxes": self.boxes.tolist(),
            "scores": self.scores.tolist(),
            "labels": self.labels.tolist(),
            "names": list(self.names),
        }

    def plot(self) -> Image.Image:
        """The image with its detections drawn on it, as an image of Pillow: `result.plot().save("out.jpg")`.

        Raises `MaenasError` where the file of the image is gone, or the result was made without its image.
        """
        if self.source is None:
            raise MaenasError("this result does not know its image; draw it with detector.draw.draw_detections")
        names = dict(zip(self.labels.tolist(), self.names, strict=True))
        return Image.fromarray(draw_detections(to_pixels(self.source), self.detections, names))


def image_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """One image or several as a list; an array or tensor with a fourth dimension is a batch."""
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if not isinstance(images, Iterable):
        raise MaenasError(f"an image is a {type(images).__name__}; {KINDS}")
    return list(images)


def to_pixels(image: ImageLike) -> np.ndarray:
    """An image as uint8 RGB `[H, W, 3]`.

    A file and an image of Pillow are turned upright as `read_image` says; an array is uint8 RGB `[H, W, 3]`, a tensor
    uint8 RGB `[3, H, W]`. Raises `MaenasError` for anything else.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return pillow_pixels(image, "the given image")
    if not isinstance(image, np.ndarray | Tensor):
        raise MaenasError(f"an image is a {type(image).__name__}; {KINDS}")
    kind, shape = str(image.dtype).removeprefix("torch."), tuple(image.shape)
    wanted = "an array must be uint8 RGB of height x width x 3, a tensor uint8 RGB of 3 x height x width"
    channels = shape[0 if isinstance(image, Tensor) else -1] if len(shape) == 3 else 0
    if kind != "uint8" or channels != 3 or 0 in shape:
        advice = "; for values of 0 to 1 it is (255 * image).astype or .to(uint8)" if "float" in kind else ""
        raise MaenasError(f"an image is {kind} of {'x'.join(map(str, shape))}; {wanted}{advice}")
    return image.permute(1, 2, 0).cpu().contiguous().numpy() if isinstance(image, Tensor) else image
