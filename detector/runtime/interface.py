"""What every runtime of a detector offers, and how its outputs are read.

Images and outputs are the same whatever runs the network, so that everything before and after it is shared
(`detector.predict`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maenas.deploy.openvino import CpuArithmetic
from maenas.headers import FilePrecision, NmsSettings
from maenas.spec import DetectorSpec

Network = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Runtime:
    """A network that is ready to run, and what there is to know about it.

    `network` takes float32 `[B, 3, H, W]` on `device`, as `spec.input` says, for any B, and returns scores `[B, A, C]`
    and boxes `[B, A, 4]`, xyxy in pixels of the input. With suppression in the file (`nms`), A is the most detections
    of an image, each has one score that is not 0, and what was suppressed has none. `batch` is the file's own, None
    where any will do; others are cut into parts or filled up to it.
    """

    network: Network
    spec: DetectorSpec
    names: tuple[str, ...]
    device: torch.device
    library: str  # name and version, for example "onnxruntime-cpu 1.32.0"
    precision: FilePrecision | CpuArithmetic
    nms: NmsSettings | None
    batch: int | None


def in_batches(run: Callable[[Tensor], dict[str, Tensor]], images: Tensor, batch: int | None) -> dict[str, Tensor]:
    """Outputs of `run` for any number of images, where it takes exactly `batch` of them (None: any number)."""
    if batch is None or len(images) == batch:
        return run(images)
    parts = []
    for part in images.split(batch):
        missing = batch - len(part)
        filled = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
        parts.append({name: value[: len(part)] for name, value in run(filled).items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def scores_and_boxes(outputs: dict[str, Tensor], num_classes: int) -> tuple[Tensor, Tensor]:
    """Scores `[B, A, C]` and boxes `[B, A, 4]`, float32, of the outputs of an exported model.

    Where suppression is in it, every detection becomes a row whose score stands under its label.
    """
    scores, boxes = outputs["scores"].float(), outputs["boxes"].float()
    if "num" not in outputs:
        return scores.transpose(1, 2), boxes.transpose(1, 2)
    rows = scores.new_zeros(*scores.shape, num_classes)  # [B, M, C]
    labels = outputs["labels"].long().clamp(0, num_classes - 1)  # of a file that was changed they may be any
    return rows.scatter_(2, labels[:, :, None], scores[:, :, None]), boxes
