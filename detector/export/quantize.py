"""INT8: which convolutions, with which ranges, and what it costs in accuracy.

Quantisation is explicit (QuantizeLinear and DequantizeLinear in the graph), all that TensorRT 11 knows: inputs and
weights of convolutions are int8 (`maenas.deploy.quantize` tells in which forms), the rest keeps the model's precision.

Legend: B batch, A anchors, C classes, H/W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import onnx
import torch
from torch import Tensor

from detector.export.calibrate import Method, calibrate
from detector.export.metadata import from_properties, to_properties
from detector.runtime.interface import scores_and_boxes
from detector.runtime.onnx import OnnxSession
from maenas.deploy.quantize import quantize
from maenas.errors import MaenasError
from maenas.headers import Int8Form

SENSITIVITY_IMAGES = 8  # at most, for output errors; every layer is run on each of them

MeasureAp = Callable[[onnx.ModelProto], float]


class Sensitivity(NamedTuple):
    """What quantising one convolution alone changes: `error`, see `output_error`, and AP, where it was measured."""

    layer: str
    error: float
    ap: float | None = None


class Trade(NamedTuple):
    """AP with the `kept` most sensitive convolutions left in the higher precision."""

    kept: int
    ap: float


@dataclass(frozen=True)
class Quantization:
    """Ranges and the convolutions left in the higher precision, and how they were chosen; apply it with `apply`.

    `error` is that of the outputs with all chosen layers quantised. `sensitivities` (most sensitive first), `trades`
    and `ap_before` are there where a limit on the AP drop was asked for.
    """

    method: Method
    images: int
    largest: Mapping[str, float]
    keep: tuple[str, ...]
    error: float
    form: Int8Form = "tensorrt"
    sensitivities: tuple[Sensitivity, ...] = ()
    trades: tuple[Trade, ...] = ()
    ap_before: float | None = None

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The quantised form of a model with the same convolutions, fp16 or fp32, and its metadata."""
        result = quantize(model, largest=self.largest, keep=self.keep, form=self.form)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        export = replace(from_properties(properties, where="the model to quantise"), precision="int8")
        onnx.helper.set_model_props(result, to_properties(export))
        return result

    def document(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "form": self.form,
            "calibration": self.method,
            "calibration_images": self.images,
            "ranges": dict(self.largest),
            "kept_in_higher_precision": list(self.keep),
            "output_error": self.error,
            "ap_before": self.ap_before,
            "trade": [trade._asdict() for trade in self.trades],
            "sensitivities": [row._asdict() for row in self.sensitivities],
        }


def quantize_all(
    model: onnx.ModelProto, images: Sequence[Tensor], method: Method, form: Int8Form = "tensorrt"
) -> Quantization:
    """Every convolution of the fp32 `model`, calibrated on batches `[B, 3, H, W]`. Raises `MaenasError`."""
    largest = calibrate(model, images, method)
    error = _error(model, images, largest, (), form)
    return Quantization(method, sum(map(len, images)), largest, (), error, form)


def quantize_within(
    model: onnx.ModelProto,
    target: onnx.ModelProto,
    images: Sequence[Tensor],
    method: Method,
    *,
    form: Int8Form = "tensorrt",
    max_drop: float,
    measure_ap: MeasureAp,
    layer_ap: MeasureAp | None = None,
    on_layer: Callable[[], object] = lambda: None,
) -> Quantization:
    """The convolutions that can be quantised while AP drops by at most `max_drop`.

    Ranges and sensitivities are those of the fp32 `model` without suppression; AP falls from that of `model` to that of
    `target`, what is to be deployed, quantised. The most sensitive ones are kept: none, 1, 2, 4, ... until the AP
    holds, then as few as halving the last step finds. Sensitive is what changes the outputs most or, where `layer_ap`
    is given, what costs most AP by it: measure that on images that `measure_ap` does not see.
    `on_layer` is called as each layer's sensitivity is known. Raises `MaenasError` as `calibrate` does, and where AP
    drops by more while a single convolution is quantised.
    """
    whole = quantize_all(model, images, method, form)
    sensitivities = layer_sensitivities(model, images, whole.largest, layer_ap, on_layer, form)
    order = [row.layer for row in sensitivities]
    before = measure_ap(model)
    trades: dict[int, float] = {}

    def holds(kept: int) -> bool:
        trades[kept] = measure_ap(replace(whole, keep=tuple(order[:kept])).apply(target))
        return before - trades[kept] <= max_drop

    fails, kept = -1, 0
    while kept < len(order) and not holds(kept):
        fails, kept = kept, min(max(1, 2 * kept), len(order))
    while kept - fails > 1:
        middle = (fails + kept) // 2
        fails, kept = (fails, middle) if holds(middle) else (middle, kept)
    if kept == len(order):
        raise MaenasError(
            f"AP is {before:.4f} in fp32 and {trades[fails]:.4f} with a single convolution in int8: no int8 file keeps "
            f"it within --max-drop {max_drop:g}. Give a larger one; suppression in the file costs AP, too, with a high "
            "--conf above all"
        )
    keep = tuple(order[:kept])
    return replace(
        whole,
        keep=keep,
        error=_error(model, images, whole.largest, keep, form),
        sensitivities=sensitivities,
        trades=tuple(Trade(*item) for item in sorted(trades.items())),
        ap_before=before,
    )


def layer_sensitivities(
    model: onnx.ModelProto,
    images: Sequence[Tensor],
    largest: Mapping[str, float],
    layer_ap: MeasureAp | None = None,
    on_layer: Callable[[], object] = lambda: None,
    form: Int8Form = "tensorrt",
) -> tuple[Sensitivity, ...]:
    """Output error, and AP by `layer_ap`, of each convolution quantised alone; most sensitive first."""
    layers = conv_names(model)
    batch = torch.cat(list(images))[:SENSITIVITY_IMAGES]
    wanted = _outputs(model, batch)
    rows = []
    for layer in layers:
        alone = quantize(model, largest=largest, keep=tuple(name for name in layers if name != layer), form=form)
        ap = None if layer_ap is None else layer_ap(alone)
        rows.append(Sensitivity(layer, output_error(wanted, _outputs(alone, batch)), ap))
        on_layer()
    return tuple(sorted(rows, key=lambda row: (1.0 if row.ap is None else row.ap, -row.error)))


def conv_names(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def output_error(wanted: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> float:
    """How far scores `[B, A, C]` and boxes `[B, A, 4]` are from those wanted, each relative to what it measures.

    Root mean square of the score differences over that of the scores, plus the mean loss of overlap (1 - IoU) of the
    boxes, each weighted by its best score.
    """
    (scores, boxes), (other_scores, other_boxes) = wanted, found
    score_error = (other_scores - scores).square().mean().sqrt() / scores.square().mean().sqrt()
    weights = scores.amax(dim=2)
    box_error = ((1 - aligned_iou(boxes, other_boxes)) * weights).sum() / weights.sum()
    return float(score_error + box_error)


def aligned_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU `[...]` of each box of `first` `[..., 4]` with the same one of `second`; 1 where both are empty."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - shared
    return torch.where(union > 0, shared / union, torch.ones_like(union))


def _error(
    model: onnx.ModelProto,
    images: Sequence[Tensor],
    largest: Mapping[str, float],
    keep: tuple[str, ...],
    form: Int8Form,
) -> float:
    """Output error with all convolutions but `keep` quantised, over the first images."""
    batch = torch.cat(list(images))[:SENSITIVITY_IMAGES]
    small = quantize(model, largest=largest, keep=keep, form=form)
    return output_error(_outputs(model, batch), _outputs(small, batch))


def _outputs(model: onnx.ModelProto, images: Tensor) -> tuple[Tensor, Tensor]:
    session = OnnxSession(model.SerializeToString(), torch.device("cpu"), where="the quantised model")
    return scores_and_boxes(session(images), num_classes=0)  # without suppression, the outputs tell
