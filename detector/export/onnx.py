"""Trained weights -> ONNX file, checked against torch before it is written.

The graph is written from `maenas.lowering.lower(spec)`, the list that is also scored, budgeted and timed, with the
weights of the deployed module: nothing is traced and no exporter's leftovers have to be cleaned away.

Legend: B batch, C classes, A anchors, H/W height and width.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import onnx

from detector.export.metadata import NmsSettings, exported, to_properties
from detector.export.nms import add_nms
from detector.model.deploy import DeployedNet
from maenas.deploy.onnx_writer import write_onnx
from maenas.deploy.program import network
from maenas.kernels import Kernel
from maenas.lowering import lower
from maenas.spec import SpecFile, resized

OUTPUT_NAMES = {"head.scores": "scores", "head.boxes": "boxes"}


@dataclass(frozen=True)
class ExportSettings:
    """`size` is the side of the square input, or None for the spec's own; `batch` None leaves the batch open."""

    size: int | None = None
    batch: int | None = 1
    precision: Literal["fp32", "fp16"] = "fp32"
    nms: NmsSettings | None = None


def to_onnx(
    net: DeployedNet, names: tuple[str, ...], settings: ExportSettings, spec_file: SpecFile | None = None
) -> onnx.ModelProto:
    """The deployed network, with `names` of its classes, as an ONNX model; `spec_file` is what it was trained from.

    Input `image` `[B, 3, H, W]` as `spec.input` says, in the precision of the model. Outputs `scores` `[B, C, A]` in
    that precision and `boxes` float32 `[B, 4, A]`, or with suppression those of `add_nms`.
    """
    spec = resized(net.spec, settings.size)
    weights = {name: value.detach().float().cpu().numpy() for name, value in net.state_dict().items()}
    program = network(named_for_export(lower(spec)))
    model = write_onnx(program, precision=settings.precision, batch=settings.batch, weights=weights)
    if settings.nms is not None:
        add_nms(model, settings.nms)
    export = exported(spec, names, precision=settings.precision, nms=settings.nms, spec_file=spec_file)
    onnx.helper.set_model_props(model, to_properties(export))
    onnx.checker.check_model(model, full_check=True)
    return model


def named_for_export(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """The kernels with the network's outputs called `scores` and `boxes`."""
    return tuple(replace(kernel, name=OUTPUT_NAMES.get(kernel.name, kernel.name)) for kernel in kernels)


def count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """Nodes of each operator, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def describe_ends(model: onnx.ModelProto) -> str:
    """Inputs and outputs with types and shapes, on one line."""
    ends = []
    for values in (model.graph.input, model.graph.output):
        types = [value.type.tensor_type for value in values]
        names = [onnx.TensorProto.DataType.Name(tensor.elem_type).lower() for tensor in types]
        shapes = ["x".join(d.dim_param or str(d.dim_value) for d in tensor.shape.dim) for tensor in types]
        ends.append(", ".join(f"{v.name} {n} {s}" for v, n, s in zip(values, names, shapes, strict=True)))
    return " -> ".join(ends)
