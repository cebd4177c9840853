"""Shapes of all tensors of an ONNX graph, also where the graph computes them itself (Shape, Gather, Concat, Reshape).

The onnx package infers one node at a time here, in order, and small tensors that follow from constants and from known
shapes are computed on the way. Its own propagation of data over a whole model is not used: it expands `Range` and
repeated `Concat` to as many elements as a file asks for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maenas.errors import MaenasError

Shape = tuple[int, ...]

MAX_VALUES = 4096  # elements of a tensor that is computed; a shape has a handful, a grid of anchors some thousands
DEFAULT_DOMAINS = ("", "ai.onnx")
COMPUTED = frozenset(
    (
        *("Identity", "Cast", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Reshape", "Flatten", "Transpose"),
        *("Expand", "Split", "ConstantOfShape", "Range", "ScatterND", "Where", "CumSum"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Sign", "Floor", "Ceil", "Round", "Sqrt", "Reciprocal"),
        *("Min", "Max", "Clip", "Sum", "ReduceProd", "ReduceSum", "ReduceMin", "ReduceMax", "Equal", "Less"),
        *("Greater", "Pow", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not", "Xor"),
    )
)
# Not among them: Tile, whose size overflows unnoticed.
SAME_SHAPE = ("GroupNormalization", "MeanVarianceNormalization")  # the onnx package infers nothing for them

# What the reference operators raise for inputs that a damaged file gives them.
REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def tensor_shapes(onnx: Any, model: Any, path: Path) -> dict[str, Shape | None]:
    """Shape by name; None where the rank or an axis is not known. Raises `MaenasError` for contradictions."""
    graph = model.graph
    shapes: dict[str, Shape | None] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    declared = _declared(model)
    model = _inferred(onnx, model, path)
    types = {v.name: v.type for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    for name, type_ in types.items():
        shapes.setdefault(name, static_shape(type_))
    names = {name for node in graph.node for name in node.output if name}
    if all(shapes.get(name) is not None for name in names):
        return shapes
    opsets = {"" if entry.domain in DEFAULT_DOMAINS else entry.domain: entry.version for entry in model.opset_import}
    known = _Known(onnx, types, shapes, opsets, declared)
    for tensor in graph.initializer:
        known.types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        known.store(tensor.name, tensor)
    for node in graph.node:
        known.visit(node)
    return known.shapes


def _declared(model: Any) -> dict[str, Any]:
    """Types with static shapes that the file states for what its nodes write, by name; the model loses these shapes.

    What follows from the inputs counts first: a file whose inputs were changed later still states its former sizes.
    """
    written = {name for node in model.graph.node if node.domain in DEFAULT_DOMAINS for name in node.output}
    found: dict[str, Any] = {}
    for values in (model.graph.value_info, model.graph.output):
        for value in values:
            if value.name not in written:
                continue
            if static_shape(value.type) is not None:
                found[value.name] = type(value.type)()
                found[value.name].CopyFrom(value.type)
            value.type.tensor_type.ClearField("shape")
    return found


def static_shape(type_: Any) -> Shape | None:
    """None where the rank or an axis is not known."""
    tensor = type_.tensor_type
    if not tensor.HasField("shape"):
        return None
    if not all(axis.HasField("dim_value") and axis.dim_value >= 0 for axis in tensor.shape.dim):
        return None
    return tuple(axis.dim_value for axis in tensor.shape.dim)


def _inferred(onnx: Any, model: Any, path: Path) -> Any:
    """The model with the shapes that follow without data."""
    for values in (model.graph.value_info, model.graph.output):
        for value in values:  # stale symbols would stand beside the sizes that are known now
            for axis in value.type.tensor_type.shape.dim:
                axis.ClearField("dim_param")
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise MaenasError(f"{path} is not a valid ONNX file: {reason:.300}") from None


def _is_small(shape: Shape | None) -> bool:
    """Whether a tensor of this shape is computed; one long side is too much even where another is 0."""
    return shape is None or max(math.prod(shape), *shape, 0) <= MAX_VALUES


@dataclass
class _Known:
    """What is known of the tensors written so far: types, shapes, and the values of small ones."""

    onnx: Any
    types: dict[str, Any]
    shapes: dict[str, Shape | None]
    opsets: dict[str, int]
    declared: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)

    def store(self, name: str, tensor: Any) -> None:
        """Keep a constant if it is small and of numbers, and lies in the file."""
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL or not _is_small(tuple(tensor.dims)):
            return
        try:
            self._keep(name, self.onnx.numpy_helper.to_array(tensor))
        except REFUSALS:
            return

    def visit(self, node: Any) -> None:
        """Shapes and values of what `node` writes."""
        if node.domain not in DEFAULT_DOMAINS:
            return
        if any(name and self.shapes.get(name) is None for name in node.output):
            self._infer(node)
            for name in node.output:
                if self.shapes.get(name) is None and name in self.declared:
                    self.types[name], self.shapes[name] = self.declared[name], static_shape(self.declared[name])
        if not all(_is_small(self.shapes.get(name)) for name in node.output if name):
            return
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    self.store(node.output[0], attribute.t)
                elif attribute.name.startswith("value_") and "string" not in attribute.name:
                    self._keep(node.output[0], np.asarray(self.onnx.helper.get_attribute_value(attribute)))
        elif node.op_type in ("Shape", "Size"):
            self._measure(node)
        elif node.op_type in COMPUTED and all(name in self.values for name in node.input if name):
            self._compute(node)

    def _infer(self, node: Any) -> None:
        """Shapes that follow from the inputs' shapes and values; a node that contradicts them keeps what it had."""
        inputs = [name for name in node.input if name]
        if any(name not in self.types for name in inputs) or any(a.HasField("g") or a.graphs for a in node.attribute):
            return
        if node.op_type in SAME_SHAPE and inputs:
            self._take({node.output[0]: self.types[inputs[0]]})
            return
        onnx = self.onnx
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets.get("", 1), "")
            found = onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                {name: self.types[name] for name in inputs},
                {name: onnx.numpy_helper.from_array(self.values[name]) for name in inputs if name in self.values},
                opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in self.opsets.items()],
            )
        except (
            *(onnx.defs.SchemaError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError),
            *REFUSALS,
        ):
            return
        self._take(found)

    def _take(self, found: dict[str, Any]) -> None:
        for name, type_ in found.items():
            shape = static_shape(type_)
            if shape is not None and self.shapes.get(name) is None:
                self.types[name], self.shapes[name] = type_, shape

    def _measure(self, node: Any) -> None:
        shape = self.shapes.get(node.input[0]) if node.input else None
        if shape is None or not node.output:
            return
        if node.op_type == "Size":
            self._keep(node.output[0], np.array(math.prod(shape), dtype=np.int64))
            return
        ends = {a.name: int(a.i) for a in node.attribute}
        self._keep(node.output[0], np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], dtype=np.int64))

    def _compute(self, node: Any) -> None:
        """Run the reference operator: all its inputs are small, and so is what it writes."""
        if any(name and self.shapes.get(name) is None for name in node.output):
            return
        from onnx.reference import ReferenceEvaluator

        feeds = {name: self.values[name] for name in node.input if name}
        written = [name for name in node.output if name]
        ends = [[self.onnx.ValueInfoProto(name=name) for name in names] for names in (feeds, written)]
        graph = self.onnx.helper.make_graph([node], "one node", *ends)  # a bare node would be one of the newest opset
        try:
            with np.errstate(all="ignore"):
                results = ReferenceEvaluator(graph, opsets=self.opsets).run(None, feeds)
        except REFUSALS:
            return
        for name, result in zip(written, results, strict=True):
            self._keep(name, np.asarray(result))

    def _keep(self, name: str, array: np.ndarray) -> None:
        if array.dtype.kind in "iufb" and array.size <= MAX_VALUES:
            self.values[name] = array
            self.shapes[name] = array.shape
            dtype = self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            self.types[name] = self.onnx.helper.make_tensor_type_proto(dtype, list(array.shape))
