"""Networks of torchvision, exported by torch: nothing is left out, and the operations are those that torch counts."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from maenas.cost import total_cost
from maenas.latency.onnx.lower import lower_onnx
from maenas.latency.onnx.predict import predict_graph
from maenas.latency.predictor import load_predictor

pytestmark = pytest.mark.slow

NETWORKS = {"resnet18": 224, "mobilenet_v3_small": 224, "inception_v3": 299, "swin_t": 224, "vit_b_16": 224}
OPTIONS = {"inception_v3": {"init_weights": False}}


def exported(model: Any, size: int, path: Path) -> int:
    """Write the ONNX file; returns the operations that torch counts in a forward pass."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.zeros(1, 3, size, size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own dependencies
        torch.backends.mha.set_fastpath_enabled(False)  # what it runs is not counted
        with sdpa_kernel(SDPBackend.MATH), counter:
            model(image)
        torch.onnx.export(model, (image,), path, opset_version=20, dynamo=True, external_data=False, verbose=False)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_are_those_that_torch_counts_and_nothing_is_left_out(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    models = pytest.importorskip("torchvision.models")
    model = models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    flops = exported(model, NETWORKS[name], tmp_path / "net.onnx")
    lowered = lower_onnx(tmp_path / "net.onnx")
    assert total_cost(lowered.kernels).flops == flops
    assert lowered.untimed == ()
    result = predict_graph(lowered, load_predictor("t4"))
    assert result.unmodelled_share < 0.02
