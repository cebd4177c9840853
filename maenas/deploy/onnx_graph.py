"""An ONNX graph being written from a program: names, shapes and weights of its tensors.

Legend: B batch, C channels, H/W height and width, A positions of all levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from maenas.deploy.program import Program, is_flatten
from maenas.errors import MaenasError
from maenas.kernels import OF_ROWS
from maenas.latency.device import Precision

ELEMENT = {"fp32": (TensorProto.FLOAT, np.float32), "fp16": (TensorProto.FLOAT16, np.float16)}
SINK = "sink"  # begins the names of the nodes that read a tensor only for it to be computed


def add_node(graph: onnx.GraphProto, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
    """Append a node called as its only output; returns that name."""
    graph.node.append(helper.make_node(op, inputs, [output], output, **attributes))
    return output


def add_constant(graph: onnx.GraphProto, name: str, values: np.ndarray) -> str:
    """Append an initializer; returns its name."""
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


class GraphWriter:
    """A graph being written; the tensor of kernel n is called by its name."""

    def __init__(
        self,
        program: Program,
        precision: Precision,
        batch: int | None,
        weights: Mapping[str, np.ndarray] | None,
        rng: np.random.Generator,
    ) -> None:
        self.program, self.weights, self.rng = program, weights, rng
        self.batch: int | str = "batch" if batch is None else batch
        self.element, self.dtype = ELEMENT[precision]
        self.graph = onnx.GraphProto(name="maenas")
        of_rows = [(index, kernel) for index, kernel in enumerate(program.kernels) if kernel.op in OF_ROWS]
        self.rows = {n for index, kernel in of_rows for n in (index, *kernel.inputs, kernel.residual)}
        self.rows |= set(program.rows)

    def name(self, index: int) -> str:
        if index >= 0:
            return self.program.kernels[index].name
        return "image" if index == -1 else f"image{-index}"

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        return add_node(self.graph, op, inputs, output, **attributes)

    def constant(self, name: str, values: np.ndarray) -> str:
        return add_constant(self.graph, name, values)

    def parameters(self, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Weight of this shape and bias of a convolution."""
        if self.weights is None:
            scale = math.sqrt(1 / math.prod(shape[1:]))
            weight = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
            return weight.astype(self.dtype), np.zeros(shape[0], self.dtype)
        found = []
        for kind, wanted in (("weight", shape), ("bias", shape[:1])):
            values = self.weights.get(f"{name}.conv.{kind}")
            if values is None or values.shape != wanted:
                has = "there is none" if values is None else f"it has {list(values.shape)}"
                raise MaenasError(f"the weights do not fit the spec: {kind} of {name} must have {list(wanted)}, {has}")
            found.append(values.astype(self.dtype))
        return found[0], found[1]

    def shape(self, index: int) -> list[int]:
        """Shape as written, without the batch: [C, H, W], [C, A] where positions are in one list, or [H W, C]."""
        channels, height, width = self.program.shape(index)
        if index in self.rows:
            return [height * width, channels]
        if index >= 0:
            kernel = self.program.kernels[index]
            if kernel.op in ("integral", "decode") or (kernel.op == "concat" and is_flatten(self.program, kernel)):
                return [channels, height * width]
        return [channels, height, width]

    def is_float(self, index: int) -> bool:
        """Whether a tensor is fp32 whatever the precision: box distances lose pixels in fp16."""
        return index >= 0 and self.program.kernels[index].op in ("integral", "decode")

    def as_float(self, index: int, name: str) -> str:
        if self.is_float(index) or self.dtype == np.float32:
            return self.name(index)
        return self.node("Cast", [self.name(index)], name, to=TensorProto.FLOAT)

    def images(self) -> list[onnx.ValueInfoProto]:
        count = len(self.program.images)
        return [self.value(self.name(-n), self.element, self.shape(-n)) for n in range(1, count + 1)]

    def output(self, index: int) -> onnx.ValueInfoProto:
        element = TensorProto.FLOAT if self.is_float(index) else self.element
        return self.value(self.name(index), element, self.shape(index))

    def value(self, name: str, element: int, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, [self.batch, *shape])

    def sink(self) -> onnx.ValueInfoProto:
        """One position of each sunk tensor: a pool of one element whose stride leaves a single position.

        The strides of repeated sinks differ, so that no runtime takes them for one.
        """
        parts = []
        for number, index in enumerate(self.program.sinks):
            sides = self.shape(index)[1:]
            strides = [sides[0] + number, *sides[1:]]
            name = self.node(
                "MaxPool", [self.name(index)], f"{SINK}{number}", kernel_shape=[1] * len(sides), strides=strides
            )
            if self.is_float(index) and self.dtype != np.float32:
                name = self.node("Cast", [name], f"{SINK}{number}.cast", to=self.element)
            parts.append(name)
        rank = {len(self.shape(index)) for index in self.program.sinks}.pop()
        channels = sum(self.shape(index)[0] for index in self.program.sinks)
        self.node("Concat", parts, "sinks", axis=1)
        return self.value("sinks", self.element, [channels, *[1] * (rank - 1)])

    def activation(self, name: str, x: str, source: str) -> str:
        """`x` through relu, sigmoid or silu, into the tensor `name`."""
        if name == "silu":
            gate = self.node("Sigmoid", [x], f"{source}.gate")
            return self.node("Mul", [x, gate], f"{source}.silu")
        return self.node({"relu": "Relu", "sigmoid": "Sigmoid"}[name], [x], f"{source}.{name}")
