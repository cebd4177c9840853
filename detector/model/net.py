"""The detector as a trainable module."""

from __future__ import annotations

from torch import Tensor, nn

from detector.model.backbone import Backbone
from detector.model.head import Features, Head, RawPredictions
from detector.model.neck import Neck
from maenas.errors import MaenasError
from maenas.spec import OUTPUT_STRIDES, DetectorSpec


class DetectorNet(nn.Module):
    """Backbone, neck and head of `spec`, in training form; `spec.input` is only the size it was designed for.

    Images are float `[B, 3, H, W]`, H and W any multiples of 32, in the spec's channel order and value range (as
    released: RGB, 0..255; there is no normalisation).
    """

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = Backbone(spec.backbone)
        self.neck = Neck(spec.neck, spec.backbone.tap_channels)
        self.head = Head(spec.head, spec.neck.out_channels)

    def features(self, images: Tensor) -> Features:
        """Neck outputs at strides 8, 16 and 32. Raises `MaenasError` as `check_images` does."""
        check_images(images)
        return self.neck(*self.backbone(images))

    def predict_from(self, features: Features) -> RawPredictions:
        """The head on neck outputs."""
        return self.head(features)

    def forward(self, images: Tensor) -> RawPredictions:
        """Raw predictions of every prior. Raises `MaenasError` as `check_images` does."""
        return self.predict_from(self.features(images))


def check_images(images: Tensor) -> None:
    """Raise `MaenasError` unless `images` is float `[B, 3, H, W]` with sides that are multiples of 32."""
    step = OUTPUT_STRIDES[-1]
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise MaenasError(
            f"images are {images.dtype} {list(images.shape)}; the network takes floats [batch, 3, height, width]"
        )
    height, width = images.shape[2:]
    if height % step or width % step or not height or not width:
        raise MaenasError(
            f"images are {height} x {width} pixels; both sides must be positive multiples of {step}: resize or pad them"
        )
