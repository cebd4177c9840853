"""Does an exported model compute what torch computes?

Legend: B batch, C classes, A anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detector.export.metadata import NmsSettings
from detector.model.deploy import DeployedNet
from detector.pipeline import preprocess
from detector.postprocess import Detections
from detector.runtime.onnx import OnnxSession
from maenas.errors import MaenasError
from maenas.headers import FilePrecision
from maenas.spec import InputSpec

# Largest difference of a box side as a share of the input's side, and of a score. For fp16 at least ten times what
# rounding to 11 bits does to the published detectors.
TOLERANCES = {"fp32": (1e-3, 1e-3), "fp16": (5e-3, 1e-2)}
# Likewise for an engine and the model that it was built from: each rounds in an order of its own, and tries to be fast.
ENGINE_TOLERANCES: Mapping[FilePrecision, tuple[float, float]] = {
    "fp32": (2e-2, 4e-2),
    "fp16": (2e-2, 4e-2),
    "int8": (1e-1, 2.5e-1),
}
RATED = 100  # anchors of an image whose boxes are compared: those of the highest scores
INNER = ("all_scores", "all_boxes", "scores", "labels", "boxes", "anchor")  # tensors of `add_nms`


@dataclass(frozen=True)
class Parity:
    """Largest differences over `images` images, and detections compared where suppression is in the graph.

    `precision` is that of the model that was checked, before it is quantised.
    """

    precision: Literal["fp32", "fp16"]
    images: int
    boxes: float
    scores: float
    detections: int | None


def check_parity(
    model: onnx.ModelProto,
    net: DeployedNet,
    images: Sequence[np.ndarray],
    size: InputSpec,
    *,
    precision: Literal["fp32", "fp16"],
    nms: NmsSettings | None,
) -> Parity:
    """Run `model` in ONNX Runtime and `net` in torch, both on the CPU, on uint8 RGB images, and compare.

    Images are repeated where they do not fill the model's batch.
    Raises `MaenasError` where boxes or scores differ by more than `TOLERANCES` or are not finite, and where suppression
    in the graph does not take the best candidates or keeps others of them than torchvision's does.
    """
    checked = _with_inner_outputs(model) if nms is not None else model
    run = OnnxSession(checked.SerializeToString(), torch.device("cpu"), where="the exported model")
    count = run.batch or len(images)
    total = -(-len(images) // count) * count
    batch = preprocess([images[n % len(images)] for n in range(total)], size)[0]
    boxes_off, scores_off, detections = 0.0, 0.0, 0
    for part in batch.split(count):
        outputs = run(part)
        scores, boxes = raw_outputs(outputs)
        _require_finite(scores, boxes)
        with torch.no_grad():
            wanted_scores, wanted_boxes = net(part)
        boxes_off = max(boxes_off, float((boxes - wanted_boxes).abs().max()) / max(size.height, size.width))
        scores_off = max(scores_off, float((scores - wanted_scores).abs().max()))
        if nms is not None:
            detections += _compare_suppression(outputs, scores, boxes, nms)
    _require_close(boxes_off, scores_off, precision)
    return Parity(precision, total, boxes_off, scores_off, None if nms is None else detections)


def require_same(
    model: onnx.ModelProto,
    engine: Callable[[Tensor], dict[str, Tensor]],
    images: Sequence[np.ndarray],
    size: InputSpec,
    *,
    precision: FilePrecision,
) -> None:
    """Run `model` in ONNX Runtime on the CPU, and the `engine` that was built from it, on uint8 RGB images.

    Raises MaenasError where scores, or the boxes of the highest ones, differ by more than `ENGINE_TOLERANCES`; where
    suppression is in the graph, where the highest score does.
    """
    run = OnnxSession(model.SerializeToString(), torch.device("cpu"), where="the exported model")
    most_boxes, most_scores = ENGINE_TOLERANCES[precision]
    boxes_off = scores_off = 0.0
    for part in preprocess(list(images), size)[0].split(1):
        wanted, found = run(part), {name: tensor.float().cpu() for name, tensor in engine(part).items()}
        if "num" in wanted:
            one, two = (outputs["scores"].float().amax() for outputs in (wanted, found))
        else:
            (one, boxes), (two, others) = raw_outputs(wanted), raw_outputs(found)
            best = one[0].amax(-1).topk(min(RATED, one.shape[1])).indices
            boxes_off = max(boxes_off, _most(boxes[0, best] - others[0, best]) / max(size.height, size.width))
        scores_off = max(scores_off, _most(one - two))
    if boxes_off > most_boxes or scores_off > most_scores:
        raise MaenasError(
            f"the engine computes something else than the model it was built from: boxes differ by {boxes_off:.2g} "
            f"of the input's side (at most {most_boxes:g}), scores by {scores_off:.2g} (at most {most_scores:g}); "
            "nothing was written. Another version of TensorRT, or another --opt-level, may build a correct one"
        )


def _most(difference: Tensor) -> float:
    """The largest absolute value, infinity where one is not a number."""
    return float(difference.abs().nan_to_num(nan=torch.inf).max())


def raw_outputs(outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Scores `[B, A, C]` and boxes `[B, A, 4]`, float32, whether or not suppression follows them."""
    prefix = "nms.all_" if "num" in outputs else ""
    scores, boxes = (outputs[f"{prefix}{name}"].float() for name in ("scores", "boxes"))
    return scores.transpose(1, 2), boxes.transpose(1, 2)


def detections_of(outputs: dict[str, Tensor], image: int) -> Detections:
    """What a model with suppression found in one image of the batch, in pixels of the input."""
    count = int(outputs["num"][image])
    boxes, scores, labels = (outputs[name][image][:count] for name in ("boxes", "scores", "labels"))
    return Detections(boxes, scores, labels)


def natural_images(count: int, size: InputSpec) -> list[np.ndarray]:
    """Random uint8 RGB images with the 1/f amplitudes of photographs (Field, J. Opt. Soc. Am. A 4, 1987)."""
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(size.height)[:, None], np.fft.rfftfreq(size.width)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(size.height, size.width))
    images = []
    for _ in range(count):
        phases = rng.uniform(0, 2 * np.pi, (4, *amplitude.shape))
        grey, *colours = np.fft.irfft2(amplitude * np.exp(1j * phases), s=(size.height, size.width))
        planes = np.stack([grey + 0.4 * colour for colour in colours], axis=-1)
        images.append(np.clip(127 + 60 * planes / planes.std(), 0, 255).astype(np.uint8))
    return images


def _with_inner_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that also returns what suppression reads and which candidates it takes."""
    copy = onnx.shape_inference.infer_shapes(model)
    values = {value.name: value for value in copy.graph.value_info}
    copy.graph.output.extend(values[f"nms.{name}"] for name in INNER)
    return copy


def _compare_suppression(outputs: dict[str, Tensor], scores: Tensor, boxes: Tensor, nms: NmsSettings) -> int:
    """Number of detections; raises `MaenasError` if the graph's are not those that torchvision keeps."""
    inner = {name: outputs[f"nms.{name}"] for name in INNER}
    count = 0
    for image in range(len(scores)):
        found = detections_of(outputs, image)
        values, labels, corners = (inner[name][image] for name in ("scores", "labels", "boxes"))
        best = scores[image].flatten().topk(len(values)).values
        anchors = inner["anchor"][image]
        kept = batched_nms(corners.double(), values.double(), labels, nms.iou).sort().values  # best first, ties too
        kept = kept[values[kept] > nms.conf][: nms.max_det]
        pairs = (
            (values, best),
            (scores[image][anchors, labels], values),
            (boxes[image][anchors], corners),
            (found.scores, values[kept]),
            (found.labels, labels[kept]),
            (found.boxes, corners[kept]),
        )
        if not all(torch.equal(one, two) for one, two in pairs):
            raise MaenasError(
                f"the export is wrong: suppression in the graph finds {len(found.scores)} objects, "
                f"torchvision's {len(kept)}, or others; nothing was written. Please report it with the weights"
            )
        count += len(kept)
    return count


def _require_finite(scores: Tensor, boxes: Tensor) -> None:
    if not (scores.isfinite().all() and boxes.isfinite().all()):
        raise MaenasError(
            "the exported model gives NaN or infinity; check the weights, or export with --precision fp32"
        )


def _require_close(boxes: float, scores: float, precision: str) -> None:
    most_boxes, most_scores = TOLERANCES[precision]
    if boxes > most_boxes or scores > most_scores:
        raise MaenasError(
            f"the {precision} export differs from torch: boxes by {boxes:.2g} of the input's side (at most "
            f"{most_boxes:g}), scores by {scores:.2g} (at most {most_scores:g}); nothing was written"
        )
