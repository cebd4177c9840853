"""Suppression in the graph finds what torchvision's does."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from detector.export.metadata import NmsSettings
from detector.export.nms import add_nms
from detector.export.parity import detections_of
from detector.postprocess import Detections, postprocess
from maenas.deploy.onnx_writer import IR_VERSION, OPSET
from maenas.errors import MaenasError

ort = pytest.importorskip("onnxruntime")


def suppression(classes: int, anchors: int, settings: NmsSettings, batch: int | str = "batch") -> onnx.ModelProto:
    """A model that does nothing but suppress."""
    graph = onnx.GraphProto(name="nms")
    for name, rows in (("scores", classes), ("boxes", 4)):
        shape = [batch, rows, anchors]
        graph.input.append(helper.make_tensor_value_info(f"in_{name}", TensorProto.FLOAT, shape))
        graph.node.append(helper.make_node("Relu", [f"in_{name}"], [name], name))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    add_nms(model, settings)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, scores: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """Outputs for scores `[B, A, C]` and boxes `[B, A, 4]`."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"in_scores": scores.transpose(1, 2).numpy(), "in_boxes": boxes.transpose(1, 2).numpy()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, feeds)), strict=True))


def crowd(rng: np.random.Generator, batch: int, anchors: int, classes: int) -> tuple[Tensor, Tensor]:
    """Boxes that crowd around a few centres, most scores low, as a detector's are."""
    centres = rng.uniform(50, 600, (8, 2))[rng.integers(8, size=(batch, anchors))]
    centres = centres + rng.normal(0, rng.choice([2, 8, 30]), (batch, anchors, 2))
    half = rng.uniform(20, 60, (batch, anchors, 2))
    boxes = np.concatenate([centres - half, centres + half], axis=2).clip(0)
    return torch.tensor(rng.random((batch, anchors, classes)) ** 3).float(), torch.tensor(boxes).float()


def same_detections(one: Detections, two: Detections) -> bool:
    """The same rows, those of equal scores in any order."""
    rows = [np.column_stack([d.scores.numpy(), d.labels.numpy(), d.boxes.numpy()]) for d in (one, two)]
    first, second = (row[np.lexsort(row.T[::-1])] for row in rows)
    return np.array_equal(first, second)


@pytest.mark.parametrize("seed", range(12))
def test_random_crowds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, anchors = int(rng.integers(1, 6)), int(rng.integers(10, 300))
    settings = NmsSettings(float(rng.uniform(0.05, 0.6)), float(rng.uniform(0.3, 0.8)), 100, 1500)
    scores, boxes = crowd(rng, 3, anchors, classes)
    outputs = run(suppression(classes, anchors, settings), scores, boxes)
    expected = postprocess(scores, boxes, conf=settings.conf, iou=settings.iou, max_det=settings.max_det)
    for number, wanted in enumerate(expected):
        assert same_detections(detections_of(outputs, number), wanted)
        assert (outputs["scores"][number][len(wanted.scores) :] == 0).all()


@pytest.mark.parametrize(("case", "conf", "iou"), [("nms_caseA", 0.05, 0.7), ("nms_caseB", 0.03, 0.65)])
def test_published_suppression(golden_arrays, case: str, conf: float, iou: float) -> None:
    arrays = golden_arrays(case)
    scores, boxes = torch.from_numpy(arrays["cls_scores"]), torch.from_numpy(arrays["boxes"])
    model = suppression(scores.shape[2], scores.shape[1], NmsSettings(conf, iou, 500, 1500))
    offset = boxes.amin()  # the test's model cannot pass negative coordinates
    outputs = run(model, scores, boxes - offset)
    for number in range(len(scores)):
        found = detections_of(outputs, number)
        np.testing.assert_array_equal(np.sort(found.scores.numpy()), np.sort(arrays[f"det_scores_{number}"]))
        np.testing.assert_allclose(found.boxes.numpy() + offset.item(), arrays[f"det_boxes_{number}"], atol=1e-3)


def test_fewer_pairs_than_candidates() -> None:
    settings = NmsSettings(0.1, 0.5, 100, 1000)
    model = suppression(2, 5, settings, batch=1)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    assert shapes == {"num": [1], "boxes": [1, 10, 4], "scores": [1, 10], "labels": [1, 10]}
    outputs = run(model, torch.zeros(1, 5, 2), torch.zeros(1, 5, 4))
    assert outputs["num"].tolist() == [0]


def test_every_node_is_needed_and_none_is_data_dependent() -> None:
    model = suppression(3, 50, NmsSettings(0.1, 0.5, 20, 40))
    read = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    assert all(set(node.output) & read for node in model.graph.node)
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert not {node.op_type for node in model.graph.node} & {"NonMaxSuppression", "NonZero", "Loop", "If"}


@pytest.mark.parametrize(
    "wrong", [(1.5, 0.5, 10, 20), (0.5, -0.1, 10, 20), (0.5, 0.5, 30, 20), (0.5, 0.5, 0, 20), (0.5, 0.5, 10, 4000)]
)
def test_settings_are_checked(wrong: tuple[float, float, int, int]) -> None:
    with pytest.raises(MaenasError):
        NmsSettings(*wrong)
