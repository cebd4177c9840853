"""Latency of a network read from a file, some of whose operators the predictor may not know."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from maenas.cost import kernel_traffic
from maenas.errors import MaenasError
from maenas.kernels import Kernel, is_depthwise
from maenas.latency.onnx.apart import as_run, guessed
from maenas.latency.onnx.dilated import without_outside
from maenas.latency.onnx.fuser import PRODUCTS
from maenas.latency.onnx.lower import Lowered
from maenas.latency.onnx.node_graph import PRODUCT_NAMES
from maenas.latency.predictor import AnyPredictor, Prediction, estimated_seconds, saved_seconds, widened_interval

UNKNOWN_FACTOR = 2.0  # how much longer than guessed an operator without a rule may take: a judgement
MOST_GUESSED = 0.5  # of a network's time; with more it has none


@dataclass(frozen=True)
class Unmodelled:
    """Operators of one kind that were not modelled: how many, and their time as guessed."""

    op: str
    count: int
    seconds: float


@dataclass(frozen=True)
class GraphPrediction:
    """The whole network's time, `parts` by kind of kernel; the unmodelled operators are in it, the untimed are not.

    `lowered` is the network as the predictor's runtime runs it; the times of kernels are of its kernels. `predictor` is
    the given one with what it is worth for this network.
    """

    lowered: Lowered
    predictor: AnyPredictor
    prediction: Prediction
    unmodelled: tuple[Unmodelled, ...]
    untimed: tuple[tuple[str, int], ...]

    @property
    def unmodelled_share(self) -> float:
        """Of the predicted time."""
        return math.fsum(row.seconds for row in self.unmodelled) / self.prediction.seconds


def predict_graph(lowered: Lowered, predictor: AnyPredictor) -> GraphPrediction:
    """Latency of a lowered graph.

    Raises `MaenasError` if the file computes in another precision, if a convolution or product has no kernel, and
    if most of the time would be guessed.

    A kernel that the predictor cannot take (a kind that its table did not measure) counts as unmodelled, at the time
    per byte of the others together; what `apart.guessed` names does at that of its elements. The interval's ends take
    the unmodelled operators as free and as `UNKNOWN_FACTOR` times as long as guessed; that is a judgement.
    """
    _require_precision(lowered, predictor)
    _require_products(lowered)
    lowered = as_run(without_outside(lowered, predictor), predictor)
    guesses = enumerate(_seconds(kernel, predictor) for kernel in lowered.kernels)
    known = {index: seconds for index, seconds in guesses if seconds is not None}
    if not math.fsum(known.values()):
        raise MaenasError(f"{lowered.where}: no operator of the network can be timed: {', '.join(_names(lowered))}")
    per_element = math.fsum(known.values()) / sum(int(kernel_traffic(lowered.kernels[index])) for index in known)
    counted = guessed(lowered, predictor)
    seconds, modelled = [], 0.0
    unmodelled: dict[str, list[float]] = {}
    parts: dict[str, float] = {}
    for index, kernel in enumerate(lowered.kernels):
        value = known.get(index, per_element * int(kernel_traffic(kernel)))
        kind = lowered.stand_ins.get(index, kernel_kind(kernel))
        if index in lowered.stand_ins and kind in counted:  # by its elements, below
            seconds.append(0.0)
            continue
        seconds.append(value)
        parts[kind] = parts.get(kind, 0.0) + value
        if index in known and index not in lowered.stand_ins:
            modelled += value
        else:
            unmodelled.setdefault(kind, []).append(value)
    moved = math.fsum(value for values in unmodelled.values() for value in values)
    for op, times in counted.items():
        unmodelled.setdefault(op, []).extend(times)
        parts[op] = parts.get(op, 0.0) + math.fsum(times)
    extra = math.fsum(value for times in counted.values() for value in times)
    total = math.fsum(seconds) + predictor.network_seconds + extra
    sure = [i for i in known if i not in lowered.stand_ins]
    timed, times = [lowered.kernels[i] for i in sure], [known[i] for i in sure]
    estimated = estimated_seconds(timed, times, predictor)
    predictor = predictor.for_others(timed, times)
    saved = saved_seconds(predictor, lowered.kernels, seconds)
    low, high = widened_interval(predictor, modelled + predictor.network_seconds, estimated)
    share = saved / math.fsum(seconds) if saved else 0.0
    low, high = low * (1 - share), high + UNKNOWN_FACTOR * (moved + extra)
    found = (Unmodelled(op, len(values), math.fsum(values)) for op, values in unmodelled.items())
    rows = sorted(found, key=lambda row: -row.seconds)
    if moved > MOST_GUESSED * total or not modelled:
        raise MaenasError(
            f"{lowered.where}: the network has no latency: {(moved + extra) / total:.0%} of it would be guessed from "
            f"what operators without a model move: {', '.join(f'{row.count} {row.op}' for row in rows)}"
        )
    prediction = Prediction(total, low, high, tuple(seconds), parts, estimated, saved)
    return GraphPrediction(lowered, predictor, prediction, tuple(rows), tuple(Counter(lowered.untimed).items()))


def kernel_kind(kernel: Kernel) -> str:
    """What a kernel is, for people."""
    if kernel.op == "conv" and kernel.groups > 1:
        return "depthwise conv" if is_depthwise(kernel) else "grouped conv"
    words = {"maxpool": "pool", "integral": "softmax", "decode": "box decoding", "space_to_depth": "space to depth"}
    if kernel.op == "concat" and len(kernel.inputs) == 1:
        return "copy"
    return words.get(kernel.op, kernel.op)


def _seconds(kernel: Kernel, predictor: AnyPredictor) -> float | None:
    """None where the predictor has nothing to go by."""
    try:
        return float(predictor.kernel_seconds(kernel))
    except MaenasError:
        return None


def _require_precision(lowered: Lowered, predictor: AnyPredictor) -> None:
    """A file in fp32 may be run in any precision, and any file in int8 once it is quantised; no other is converted."""
    if lowered.precision != "fp32" and predictor.precision not in (lowered.precision, "int8"):
        other = f"or --precision {lowered.precision} if the device has it"
        if lowered.precision == "bf16":  # which no GPU is modelled in
            other = "or in fp16, which is as fast where a GPU has both; for a CPU, name a table in bf16 as --device"
        raise MaenasError(
            f"{lowered.where}: the file computes in {lowered.precision}, and the latencies are those of "
            f"{predictor.precision}: give the file in fp32, {other}"
        )


def _require_products(lowered: Lowered) -> None:
    """Raises `MaenasError` where a convolution or product is not timed: a latency without it would say nothing."""
    foreign = Counter(op for op in (*lowered.stand_ins.values(), *lowered.untimed) if _hides_products(op))
    if foreign:
        raise MaenasError(
            f"{lowered.where}: the network has no latency: {_counted(foreign)} would be most of the work, and there is "
            f"no model of it. Export with plain operators ({', '.join(PRODUCTS)}), without branches and loops, and "
            "int8 with QuantizeLinear and DequantizeLinear"
        )
    shapeless = Counter(op for op in lowered.untimed if op in PRODUCTS)
    if shapeless:
        lacking = "depends on data"
        remedy = "Give the input's side with --input, or export with fixed sizes (no dynamic axes)"
        if "::" in lowered.blamed:  # a custom operator
            lacking = "is not stated"
            remedy = "Export with plain operators, or state the shape of its result in the file"
        raise MaenasError(
            f"{lowered.where}: the network has no latency: the sizes of {_counted(shapeless)} are not known. The first "
            f"operator whose shape {lacking} is {lowered.blamed}. {remedy}; or cut the file before that operator, if "
            "it only selects boxes"
        )


def _hides_products(op: str) -> bool:
    return op not in PRODUCTS and PRODUCT_NAMES.search(op) is not None


def _counted(names: Counter[str]) -> str:
    return " and ".join(f"{count} {op}" for op, count in names.items())


def _names(lowered: Lowered) -> list[str]:
    kinds = [lowered.stand_ins.get(index, kernel_kind(kernel)) for index, kernel in enumerate(lowered.kernels)]
    return sorted({*kinds, *lowered.untimed})
