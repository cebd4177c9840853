"""Images in, detections out.

detector = Detector.load("runs/mine")
for result in detector.predict(["street.jpg", "harbour.png"]):
    print(result.names, result.scores, result.boxes)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detector.choices import RuntimeName
from detector.export.metadata import NmsSettings
from detector.pipeline import detections_in_images, preprocess
from detector.postprocess import Detections
from detector.result import ImageLike, Result, image_list, to_pixels
from detector.runtime.interface import Network, Runtime
from detector.runtime.load import load_runtime
from maenas.errors import MaenasError
from maenas.spec import InputSpec

CONF = 0.25
IOU = 0.7
MAX_DET = 300
BATCH = 8


@dataclass(frozen=True)
class Detector:
    """A deployed network with everything around it.

    `network` takes float32 `[B, 3, H, W]` as `input` says, on `device`, and returns scores `[B, A, C]` and boxes
    `[B, A, 4]` in pixels of the input. `names` are the names of the classes. `nms` is the suppression that the network
    does itself, if any.
    """

    network: Network
    input: InputSpec
    names: tuple[str, ...]
    device: torch.device
    nms: NmsSettings | None = None

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", *, runtime: RuntimeName | None = None) -> Detector:
        """From the folder of a training run, weights (.safetensors), an ONNX file that maenas exported, or an engine.

        Raises `MaenasError` as `load_runtime` does, which says what `device` and `runtime` may be.
        """
        return cls.of(load_runtime(path, device, runtime=runtime))

    @classmethod
    def of(cls, runtime: Runtime) -> Detector:
        """Everything around a network that is loaded."""
        return cls(runtime.network, runtime.spec.input, runtime.names, runtime.device, runtime.nms)

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int = MAX_DET,
        classes: Sequence[int | str] | None = None,
        batch: int = BATCH,
    ) -> list[Result]:
        """Detections of each image: files, images of Pillow, uint8 RGB arrays `[H, W, 3]` or tensors `[3, H, W]`.

        `conf` and `iou` as in `postprocess`; None for those of `thresholds`; only `classes`, by name or label, are
        looked for; `batch` images run at once. Raises `MaenasError` for a file that cannot be read, another kind of
        array, an unknown class, and settings out of range or that suppression in the network rules out.
        """
        _require_settings(max_det=max_det, batch=batch)
        conf, iou = self.thresholds(conf, iou)
        labels = None if classes is None else [class_label(f"{given}", self.names) for given in classes]
        chosen = image_list(images)
        parts = [chosen[start : start + batch] for start in range(0, len(chosen), batch)]
        results = []
        for part in parts:
            pixels = [to_pixels(image) for image in part]
            found = self._detect(pixels, conf=conf, iou=iou, max_det=max_det, labels=labels)
            for given, array, row in zip(part, pixels, found, strict=True):
                source = given if isinstance(given, str | Path) else array
                results.append(Result(*row, self.names_of(row.labels), source))
        return results

    def thresholds(self, conf: float | None, iou: float | None) -> tuple[float, float]:
        """`conf` and `iou`, 0.25 and 0.7 in place of None, or what suppression in the network has; raises as below."""
        least, own = (0.0, IOU) if self.nms is None else (self.nms.conf, self.nms.iou)
        conf, iou = max(CONF, least) if conf is None else conf, own if iou is None else iou
        self.require_thresholds(conf=conf, iou=iou)
        return conf, iou

    def require_thresholds(self, *, conf: float, iou: float) -> None:
        """Raise `MaenasError` for thresholds out of range, and where the network has suppressed with others."""
        for name, value in (("conf", conf), ("iou", iou)):
            if not 0 <= value <= 1:
                raise MaenasError(f"{name} is {value}; it must be 0 to 1")
        if self.nms is not None and (conf < self.nms.conf or iou != self.nms.iou):
            raise MaenasError(
                f"conf {conf:g} and iou {iou:g} are not possible: suppression is in the file, with conf "
                f"{self.nms.conf:g} and iou {self.nms.iou:g}. Choose that iou and no lower conf, or export it again"
            )

    def names_of(self, labels: Tensor) -> tuple[str, ...]:
        """Class names of int64 labels `[N]`."""
        return tuple(self.names[label] for label in labels.tolist())

    @torch.no_grad()
    def _detect(
        self, images: list[np.ndarray], *, conf: float, iou: float, max_det: int, labels: list[int] | None
    ) -> list[Detections]:
        """Detections in pixels of each image, on the CPU."""
        tensor, placements = preprocess(images, self.input, self.device)
        scores, boxes = self.network(tensor)
        if labels is not None:
            wanted = torch.zeros(scores.shape[-1], dtype=torch.bool, device=self.device)
            wanted[labels] = True
            scores = scores * wanted
        left = iou if self.nms is None else None  # to suppress
        return detections_in_images(scores, boxes, placements, conf=conf, iou=left, max_det=max_det)


def class_label(text: str, names: tuple[str, ...], where: str = "classes") -> int:
    """The label of a class by its name or number; raises `MaenasError` naming `where` and the nearest class."""
    if text in names:
        return names.index(text)
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) < len(names):
        return int(text)
    nearest = difflib.get_close_matches(text, names, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else f"; the classes are {', '.join(names[:10])} ..."
    raise MaenasError(f"{where}: there is no class {text!r}{hint}")


def _require_settings(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise MaenasError(f"{name} is {value}; it must be at least 1")
