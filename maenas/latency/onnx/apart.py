"""What ONNX Runtime computes apart on a CPU, of what `lower` has joined to one kernel.

It fuses less there than other runtimes do. A convolution takes constants for each channel, a residual sum and one
activation of a few kinds; SiLU and GELU follow it as one operator, which measured kernels have in them. Everything
else is a pass over the tensor for each operator, and two passes more where one of them cannot read the layout of
convolutions (NCHWc): a hard swish of `Add`, `Clip`, `Mul` and `Div` is six. The rules are those of ONNX Runtime 1.32;
tests/latency/onnx/test_apart.py compares them with the graphs that it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypeGuard

from maenas.kernels import Kernel
from maenas.latency.measured_predictor import MeasuredPredictor
from maenas.latency.onnx.elements import OUTPUT
from maenas.latency.onnx.fuser import FREE, known, planes
from maenas.latency.onnx.lower import Lowered
from maenas.latency.onnx.node_graph import Node, Shape
from maenas.latency.predictor import AnyPredictor

FUSED = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish")  # in a convolution
NOT_AFTER_A_SUM = ("LeakyRelu", "Clip")
GATE = "gate"  # SiLU or GELU, whichever operators it came in: one operator there
GATES = (["Gelu"], ["Swish"], ["Mul", "Sigmoid"], ["Mul", "Mul", "Sigmoid"])
BLOCKED = ("Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", GATE)
IN_PLACE = 0.75  # of a kernel with tensors of its own: a pass writes over what it reads, which was just written
MOVED: Final = 0.08  # nanoseconds an element that a pass reads or writes, on the Zen 4 of `ONE_BY_ONE`

# Nanoseconds an element, of what it computes one after the other: measured on one core of a Zen 4, docs/lab/latency.md
ONE_BY_ONE: Final = {
    **{"Softplus": 11.5, "Mish": 12.2, "PRelu": 2.0, "Elu": 2.1, "Selu": 2.1, "Celu": 2.1},
    **{"Log": 1.8, "Sin": 2.0, "Cos": 2.0, "DepthToSpace": 2.0, "LRN": 25.0, "GridSample": 1.8},
    **{"linear Resize": 0.2, "linear Resize of rows": 1.2, "cubic Resize": 65.0, "ConvTranspose": 0.5},
}
ONNXRUNTIME, OPENVINO = "onnxruntime-cpu", "openvino-cpu"
NANOSECONDS: Final = {ONNXRUNTIME: ONE_BY_ONE, OPENVINO: {OUTPUT: 3.7}}


class Step(NamedTuple):
    """An operator there, how many tensors of its result's size it reads, and whether in the layout of convolutions."""

    op: str
    reads: int
    blocked: bool


def as_run(lowered: Lowered, predictor: AnyPredictor) -> Lowered:
    """The network as the predictor's runtime runs it: what ONNX Runtime computes apart on a CPU are kernels more.

    A table that measured no arithmetic has none of them; see `guessed`.
    """
    if not runs_in(predictor, ONNXRUNTIME) or not _measured_arithmetic(predictor):
        return lowered
    apart = []
    for index, step, shape in _all_passes(lowered):
        channels, height, width = planes(shape)
        channels = max(1, round(IN_PLACE * channels))
        sizes = (step.reads * channels, channels, height, width, height, width)
        apart.append(Kernel("pointwise", f"{lowered.kernels[index].name}: {step.op}", (index,), *sizes))
    return replace(lowered, kernels=(*lowered.kernels, *apart))


def guessed(lowered: Lowered, predictor: AnyPredictor) -> dict[str, list[float]]:
    """Seconds of what a runtime computes by itself on a CPU and no row of the table is like: the nodes of each
    operator of `NANOSECONDS`, and in ONNX Runtime all other passes, where the table measured none."""
    nanoseconds = next((table for runtime, table in NANOSECONDS.items() if runs_in(predictor, runtime)), None)
    if nanoseconds is None:
        return {}
    per_element = 1e-9 * predictor.batch / int(predictor.conditions.get("measured_threads", 1))
    found = {op: sizes for op, sizes in lowered.elements.items() if op in nanoseconds}
    seconds = {op: [size * nanoseconds[op] * per_element for size in sizes] for op, sizes in found.items()}
    if runs_in(predictor, ONNXRUNTIME) and not _measured_arithmetic(predictor):
        moved = [(step.reads + 1) * math.prod(shape) for _, step, shape in _all_passes(lowered)]
        seconds |= {"arithmetic": [elements * MOVED * per_element for elements in moved]} if moved else {}
    return seconds


def runs_in(predictor: AnyPredictor, runtime: str) -> TypeGuard[MeasuredPredictor]:
    """Whether `predictor` has a table that was measured in a runtime."""
    return isinstance(predictor, MeasuredPredictor) and predictor.conditions["runtime"].startswith(runtime)


def _measured_arithmetic(predictor: MeasuredPredictor) -> bool:
    return "pointwise" in predictor.interpolator.constants


def _all_passes(lowered: Lowered) -> Iterator[tuple[int, Step, Shape]]:
    """Every pass with the kernel that it follows and the shape of its result."""
    for index, ways in sorted(lowered.absorbed.items()):
        shape = known(ways[0][-1].outputs[0][1])
        yield from ((index, step, shape) for step in _passes(lowered.kernels[index], ways, shape))
    for index, nodes in sorted(lowered.joined.items()):
        shape = known(nodes[-1].outputs[0][1])
        yield from ((index, step, shape) for step in _steps([node for node in nodes if node.op not in FREE], shape))


def _passes(kernel: Kernel, ways: Sequence[Sequence[Node]], shape: Shape) -> Iterator[Step]:
    """What follows a convolution or product and is not in it, in order."""
    folding = fusing = True  # it still takes constants; an activation
    summed, blocked = False, kernel.op == "conv"
    gelu = False
    for way in ways:
        nodes = [node for node in way if node.op not in FREE]
        if gelu and [node.op for node in nodes] == ["Mul"]:  # its half
            gelu = False
            continue
        gelu = any(node.op == "Erf" for node in nodes)
        if not nodes or (folding and len(nodes) == 1 and _folds(nodes[0], shape)):
            continue
        folding, steps = False, list(_steps(nodes, shape))
        if [(step.op, step.reads) for step in steps] == [("Add", 2)] and (fusing or blocked):
            summed = True  # in this convolution, or in the one that made the other term
        elif fusing and len(steps) == 1 and _fuses(steps[0].op, summed=summed):
            fusing = False
        else:
            fusing = False
            if blocked and not all(step.blocked for step in steps):
                blocked = False
                yield from (Step("ReorderOutput", 1, True), Step("ReorderInput", 1, False))
            for step in steps:
                yield from (Step("HardSigmoid", 1, True), Step("Mul", 2, True)) if step.op == "HardSwish" else (step,)


def _fuses(op: str, *, summed: bool) -> bool:
    """Whether a convolution takes the operator, or is measured with it."""
    return op == GATE or (op in FUSED and not (summed and op in NOT_AFTER_A_SUM))


def _steps(nodes: Sequence[Node], shape: Shape) -> Iterator[Step]:
    """The operators that ONNX Runtime has in place of `nodes`, but for those of `ONE_BY_ONE`."""
    ops = sorted(node.op for node in nodes)
    if "Erf" in ops or ops in GATES:
        yield Step(GATE, 1, True)
    elif ops == ["HardSigmoid", "Mul"] and _is_sixth(nodes[0].attributes.get("alpha")):
        yield Step("HardSwish", 1, True)
    else:
        for node in nodes:
            reads = max(1, sum(size == shape for _, size in node.inputs))
            if node.op in ("Mul", "BatchNormalization") and _is_of_channels(node, shape):
                yield Step("Conv", 1, True)  # of 1x1, each channel alone
            elif node.op not in ONE_BY_ONE:
                yield Step(node.op, reads, node.op in BLOCKED or reads > 1)


def _is_sixth(alpha: object) -> bool:
    return isinstance(alpha, float) and math.isclose(alpha, 1 / 6, rel_tol=1e-5)


def _folds(node: Node, shape: Shape) -> bool:
    """Whether weights take it up: a constant for each channel, or a factor without axes."""
    scalar = node.op == "Mul" and any(size == () for _, size in node.inputs)
    return scalar or (node.op in ("Mul", "Add", "BatchNormalization") and _is_of_channels(node, shape))


def _is_of_channels(node: Node, shape: Shape) -> bool:
    """Whether its constants are one for each channel."""
    if node.op == "BatchNormalization":
        return True
    each = (shape[1], *(1 for _ in shape[2:])) if len(shape) > 2 else shape[-1:]
    return any(size in (each, (1, *each)) for _, size in node.inputs)
