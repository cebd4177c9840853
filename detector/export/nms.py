"""Non-maximum suppression as plain ONNX operators of static shape.

ONNX's own NonMaxSuppression has outputs whose size depends on the data: some runtimes refuse it, and no CUDA graph can
hold it. Here the best K pairs of an anchor and a class compare each other in one K x K matrix, and which of them
survive is found by fixed-point iteration (Cluster-NMS, arXiv 2005.03572, section 3.3): whoever overlaps a surviving
better one of its class falls. After t steps this equals greedy class-wise suppression for every candidate that ends a
chain of at most t candidates each of which could suppress the next.

Legend: B batch, C classes, A anchors, K candidates, M most detections.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from detector.export.metadata import NmsSettings
from maenas.deploy.onnx_graph import add_constant, add_node

STEPS = 16  # chains in clustered boxes need 3 to 6


def add_nms(model: onnx.ModelProto, settings: NmsSettings) -> None:
    """Put suppression behind the outputs `scores` `[B, C, A]` and `boxes` `[B, 4, A]` of `model`, in place.

    The outputs become `num` int32 `[B]`, `boxes` float32 `[B, M, 4]`, `scores` float32 `[B, M]` best first, and
    `labels` int64 `[B, M]`. Rows from `num` on have score 0 and mean nothing. K and M are smaller where the network
    has fewer pairs.
    """
    graph = model.graph
    batch, classes, anchors = next(v for v in graph.output if v.name == "scores").type.tensor_type.shape.dim
    candidates = min(settings.candidates, classes.dim_value * anchors.dim_value)
    most = min(settings.max_det, candidates)
    _rename_outputs(graph, {"scores": "nms.all_scores", "boxes": "nms.all_boxes"})
    _add_constants(graph, settings, candidates=candidates, most=most, anchors=anchors.dim_value)
    _add_candidates(graph)
    _add_suppressions(graph)
    _add_survivors(graph)
    _add_outputs(graph)
    del graph.output[:]
    for name, element, shape in (
        ("num", TensorProto.INT32, []),
        ("boxes", TensorProto.FLOAT, [most, 4]),
        ("scores", TensorProto.FLOAT, [most]),
        ("labels", TensorProto.INT64, [most]),
    ):
        graph.output.append(helper.make_tensor_value_info(name, element, [batch.dim_param or batch.dim_value, *shape]))


def _rename_outputs(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        if node.output[0] in names:
            node.output[0] = node.name = names[node.output[0]]


def _add_constants(graph: onnx.GraphProto, settings: NmsSettings, *, candidates: int, most: int, anchors: int) -> None:
    integers = {
        "flat": [0, -1],  # in a shape, 0 keeps the batch
        "K": [candidates],
        "M": [most],
        "A": [anchors],
        "axis1": [1],
        "axis2": [2],
        "four_rows": [1, 4, 1],
        "four_columns": [1, 1, 4],
    }
    for name, values in integers.items():
        add_constant(graph, f"nms.{name}", np.array(values, np.int64))
    for name, value in {"conf": settings.conf, "iou": settings.iou, "half": 0.5, "zero": 0.0}.items():
        add_constant(graph, f"nms.{name}", np.array(value, np.float32))
    rank = np.arange(candidates, dtype=np.int32)
    add_constant(graph, "nms.rank_column", rank[:, None])
    add_constant(graph, "nms.rank_row", rank[None])


def _node(graph: onnx.GraphProto, op: str, inputs: str, output: str, **attributes: Any) -> str:
    """A node of suppression: names, separated by blanks, without the prefix."""
    return add_node(graph, op, [f"nms.{name}" for name in inputs.split()], f"nms.{output}", **attributes)


def _top(graph: onnx.GraphProto, values: str, count: str, best: str, places: str) -> None:
    """The largest along the last axis, sorted, and where they were; the first of equal ones comes first."""
    graph.node.append(helper.make_node("TopK", [f"nms.{values}", f"nms.{count}"], [best, places], best, axis=-1))


def _add_candidates(graph: onnx.GraphProto) -> None:
    """The best pairs: `scores` float32 `[B, K]`, best first, `labels` `[B, K]` and `boxes` `[B, K, 4]`."""
    _node(graph, "Reshape", "all_scores flat", "pairs")  # [B, C A]
    _top(graph, "pairs", "K", "nms.best", "nms.pair")
    _node(graph, "Cast", "best", "scores", to=TensorProto.FLOAT)
    _node(graph, "Div", "pair A", "labels")
    _node(graph, "Mul", "labels A", "before")
    _node(graph, "Sub", "pair before", "anchor")
    _node(graph, "Unsqueeze", "anchor axis1", "anchor_row")
    _node(graph, "Expand", "anchor_row four_rows", "anchor_rows")
    _node(graph, "GatherElements", "all_boxes anchor_rows", "chosen", axis=2)  # [B, 4, K]
    _node(graph, "Transpose", "chosen", "boxes", perm=[0, 2, 1])


def _add_suppressions(graph: onnx.GraphProto) -> None:
    """`suppressions` `[B, K, K]`: 1 where the candidate of the row would suppress that of the column, else 0."""
    sides = ("x1", "y1", "x2", "y2")
    graph.node.append(
        helper.make_node("Split", ["nms.boxes"], [f"nms.{side}" for side in sides], "nms.split", axis=2, num_outputs=4)
    )
    for side in sides:
        _node(graph, "Transpose", side, f"{side}_row", perm=[0, 2, 1])  # [B, K, 1] to [B, 1, K]
    for name, low, high in (("width", "x1", "x2"), ("height", "y1", "y2")):
        _node(graph, "Sub", f"{high} {low}", name)
        _node(graph, "Max", f"{low} {low}_row", f"{name}_start")  # [B, K, K]
        _node(graph, "Min", f"{high} {high}_row", f"{name}_end")
        _node(graph, "Sub", f"{name}_end {name}_start", f"{name}_signed")
        _node(graph, "Relu", f"{name}_signed", f"{name}_shared")
    _node(graph, "Mul", "width height", "area")
    _node(graph, "Transpose", "area", "area_row", perm=[0, 2, 1])
    _node(graph, "Mul", "width_shared height_shared", "intersection")
    _node(graph, "Add", "area area_row", "areas")
    _node(graph, "Sub", "areas intersection", "union")
    _node(graph, "Mul", "union iou", "allowed")
    _node(graph, "Greater", "intersection allowed", "overlapping")
    _node(graph, "Unsqueeze", "labels axis2", "label_column")
    _node(graph, "Unsqueeze", "labels axis1", "label_row")
    _node(graph, "Equal", "label_column label_row", "alike")
    _node(graph, "Less", "rank_column rank_row", "better")
    _node(graph, "And", "overlapping alike", "rivals")
    _node(graph, "And", "rivals better", "suppressing")
    _node(graph, "Cast", "suppressing", "suppressions", to=TensorProto.FLOAT)


def _add_survivors(graph: onnx.GraphProto) -> None:
    """`kept` `[B, K]`: scores of the candidates that survive, 0 for the others."""
    _node(graph, "Greater", "scores conf", "valid")
    _node(graph, "Cast", "valid", "valid_float", to=TensorProto.FLOAT)
    _node(graph, "Unsqueeze", "valid_float axis1", "alive0")  # [B, 1, K]
    for step in range(STEPS):
        _node(graph, "MatMul", f"alive{step} suppressions", f"hits{step}")
        _node(graph, "Less", f"hits{step} half", f"free{step}")
        _node(graph, "Cast", f"free{step}", f"alive{step + 1}", to=TensorProto.FLOAT)
    _node(graph, "Squeeze", f"alive{STEPS} axis1", "alive")
    _node(graph, "Mul", "scores valid_float", "valid_scores")
    _node(graph, "Mul", "valid_scores alive", "kept")


def _add_outputs(graph: onnx.GraphProto) -> None:
    _top(graph, "kept", "M", "scores", "nms.order")
    add_node(graph, "Greater", ["scores", "nms.zero"], "nms.found")
    _node(graph, "Cast", "found", "counted", to=TensorProto.INT32)
    add_node(graph, "ReduceSum", ["nms.counted", "nms.axis1"], "num", keepdims=0)
    add_node(graph, "GatherElements", ["nms.labels", "nms.order"], "labels", axis=1)
    _node(graph, "Unsqueeze", "order axis2", "order_column")
    _node(graph, "Expand", "order_column four_columns", "order_columns")
    add_node(graph, "GatherElements", ["nms.boxes", "nms.order_columns"], "boxes", axis=1)
