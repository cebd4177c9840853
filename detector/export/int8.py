"""INT8 from end to end: images to calibrate on, AP by ONNX Runtime, and the report beside the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import onnx
from torch import Tensor

from detector.choices import Method, Rest, Sensitive
from detector.data.dataset import Dataset, align_names, open_dataset
from detector.data.loader import eval_batches
from detector.distributed import World
from detector.evaluate import evaluate
from detector.export.onnx import ExportSettings, to_onnx
from detector.export.quantize import MeasureAp, Quantization, conv_names, quantize_all, quantize_within
from detector.images import normalise, read_image
from detector.model.deploy import DeployedNet
from detector.pipeline import preprocess
from detector.predict import Detector
from detector.runtime.onnx import onnx_runtime
from detector.sources import find_images
from detector.validate import detect_dataset, lowest_thresholds
from maenas.errors import MaenasError
from maenas.headers import Int8Form
from maenas.spec import InputSpec, resized

Item = TypeVar("Item")


@dataclass(frozen=True)
class Int8Settings:
    """How a model becomes int8: `method` finds the ranges on `count` images of `images`, or of the data set `data`.

    With `data`, AP is measured before and after. `max_drop` (AP, 0 to 1) leaves the most sensitive convolutions in the
    precision `rest`; sensitive is what changes the outputs or, with `ap`, the AP on the calibration images, too. `form`
    says who is to compute it.
    """

    images: str | None = None
    data: str | None = None
    method: Method = "percentile"
    count: int = 32
    max_drop: float | None = None
    sensitivity: Sensitive = "output"
    rest: Rest = "fp16"
    form: Int8Form = "tensorrt"

    def __post_init__(self) -> None:
        if self.images is None and self.data is None:
            raise MaenasError("int8 is calibrated on images as the detector will see: give --data or --images")
        if self.max_drop is not None and self.data is None:
            raise MaenasError("--max-drop compares average precision: give --data")
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise MaenasError(f"--max-drop is {self.max_drop:g}; AP is 0 to 1")
        if self.sensitivity == "ap" and self.max_drop is None:
            raise MaenasError("--sensitivity chooses layers for --max-drop; give --max-drop as well")
        if self.count < 1:
            raise MaenasError(f"--calibration-images is {self.count}; it must be at least 1")


@dataclass(frozen=True)
class Int8Result:
    """The quantisation, the number of convolutions, and the AP in fp32 and of the file, where it was measured."""

    settings: Int8Settings
    found: Quantization
    layers: int
    ap_before: float | None
    ap_after: float | None

    def document(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            **self.found.document(),
            "ap_before": self.ap_before,
            "ap_of_the_file": self.ap_after,
            "rest": self.settings.rest,
            "data": self.settings.data,
        }


def report_path(model: Path) -> Path:
    """Where the report of a quantised model stands."""
    return Path(f"{model}.quantization.json")


def quantize_model(
    model: onnx.ModelProto,
    deployed: DeployedNet,
    names: tuple[str, ...],
    size: int | None,
    settings: Int8Settings,
    on_layer: Callable[[int], object] = lambda layers: None,
) -> tuple[onnx.ModelProto, Int8Result]:
    """`model` in int8. Ranges and layers are found on the fp32 model without suppression, one image at a time.

    `on_layer` is told the number of convolutions as the sensitivity of each is known. Raises `MaenasError`.
    """
    plain = to_onnx(deployed, names, ExportSettings(size=size))
    images = _calibration_images(settings, names, resized(deployed.spec, size).input)
    layers = len(conv_names(plain))
    measure = None if settings.data is None else ap_meter(align_names(open_dataset(settings.data, "val"), names))
    if measure is not None and settings.max_drop is not None:
        found = quantize_within(
            plain,
            model,
            images,
            settings.method,
            form=settings.form,
            max_drop=settings.max_drop,
            measure_ap=measure,
            layer_ap=ap_meter(_calibration_set(settings, names)) if settings.sensitivity == "ap" else None,
            on_layer=lambda: on_layer(layers),
        )
    else:
        found = quantize_all(plain, images, settings.method, settings.form)
    result = found.apply(model)
    before = after = None
    if measure is not None:
        before = measure(plain) if found.ap_before is None else found.ap_before
        after = measure(result)
    return result, Int8Result(settings, found, layers, before, after)


def ap_meter(dataset: Dataset) -> MeasureAp:
    """A function from an exported model to its AP on a data set, in ONNX Runtime on the CPU."""

    def measure(model: onnx.ModelProto) -> float:
        detector = Detector.of(onnx_runtime(model.SerializeToString(), "cpu", where="the quantised model"))
        conf, iou = lowest_thresholds(detector)
        found = detect_dataset(detector, dataset, World(0, 1, detector.device), conf=conf, iou=iou)
        return evaluate(dataset, found).summary["AP"] or 0.0

    return measure


def _calibration_images(settings: Int8Settings, names: tuple[str, ...], size: InputSpec) -> list[Tensor]:
    """Batches of one image, evenly spread over the source."""
    if settings.data is None:
        assert settings.images is not None
        files = _spread(find_images(settings.images), settings.count)
        return [preprocess([read_image(file)], size)[0] for file in files]
    batches = eval_batches(_calibration_set(settings, names), size, batch_size=1)
    return [normalise(batch.images, size) for batch in batches]


def _calibration_set(settings: Int8Settings, names: tuple[str, ...]) -> Dataset:
    """Training images to calibrate on."""
    assert settings.data is not None
    dataset = align_names(open_dataset(settings.data, "train"), names)
    return replace(dataset, samples=tuple(_spread(dataset.samples, settings.count)))


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, or all where there are fewer, evenly spaced."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
