"""In which precision an engine runs its convolutions, from what TensorRT's inspector says."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from maenas.errors import MaenasError
from maenas.latency.device import Precision

if TYPE_CHECKING:
    import onnx

# TensorRT 10 writes layout and type in one text ("Row major linear FP16 format"), 11 in two fields.
TYPE_FIELDS = ("Datatype", "DataType", "Format/Datatype", "Format")
WORDS: dict[str, tuple[str, ...]] = {  # in this order: "bfloat16" has the others' words in it
    "int8": ("int8",),
    "bf16": ("bf16", "bfloat16"),
    "fp16": ("fp16", "float16", "half"),
    "fp32": ("fp32", "float"),
}
# What the input of a convolution may be; the first has to be there. A quantised convolution without an int8 kernel
# runs in fp16, as it would in deployment.
ALLOWED: dict[Precision, tuple[str, ...]] = {"fp32": ("fp32",), "fp16": ("fp16",), "int8": ("int8", "fp16")}
# Layers of the fusing compiler ("Myelin") do not say that they convolve, only which nodes of the model they hold.
FUSED = ("kgen", "gemm", "myelin", "foreignnode")
COPY = re.compile(r"\b(?:probe|copy)\d+")  # what `maenas/profiler/probe.py` calls what it times
NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def check_precision(document: Any, precision: Precision, *, runtime: str, convolutions: Collection[str] = ()) -> None:
    """Raise `MaenasError` if an engine with convolutions runs one in a wider type, or none in `precision`.

    `document` is the parsed JSON of the engine's inspector, of an engine built with detailed verbosity;
    `convolutions` are the `convolution_names` of its model.
    """
    types: dict[str | None, str] = {}
    for layer in _layers(document):
        if isinstance(layer, Mapping) and _is_convolution(layer, convolutions):
            types.setdefault(_input_type(layer), str(layer.get("Name")))
    types.pop(None, None)
    check_types(types, precision, runtime=runtime)


def refuse_merged(document: Any, *, runtime: str) -> None:
    """Raise `MaenasError` if an engine makes one layer of two copies of what is timed.

    TensorRT does so with convolutions of one input; such a layer has the names of all, with `||` between.
    """
    for layer in _layers(document):
        name = str(layer.get("Name") if isinstance(layer, Mapping) else layer)
        if len({copy for part in name.split("||")[:2] for copy in COPY.findall(part)[:1]}) > 1:
            raise MaenasError(f"{runtime} computes copies of a kernel as one: {name:.100}")


def check_types(types: Mapping[str | None, str], precision: Precision, *, runtime: str) -> None:
    """Raise `MaenasError` as `check_precision` does; `types` names one convolution for each type of input there is."""
    if not types:
        raise MaenasError(f"{runtime} does not say in which precision its engine runs the convolutions")
    for kind, name in types.items():
        if kind not in ALLOWED[precision]:
            raise MaenasError(f"{runtime} runs {name:.100} in {kind}, not in {precision}")
    if precision not in types:
        raise MaenasError(f"{runtime} runs no convolution in {precision}, but in {', '.join(map(str, types))}")


def convolution_names(model: onnx.ModelProto) -> frozenset[str]:
    """What TensorRT calls the convolutions of a model; one without a name is called after its output."""
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    return frozenset(node.name or f"node_of_{node.output[0]}" for node in nodes)


def tensor_type(tensor: Any) -> str | None:
    """fp32, fp16, bf16 or int8; None for anything else."""
    if not isinstance(tensor, Mapping):
        return None
    text = next((str(tensor[field]) for field in TYPE_FIELDS if field in tensor), "").lower()
    return next((name for name, words in WORDS.items() if any(word in text for word in words)), None)


def _layers(document: Any) -> list[Any]:
    layers = document.get("Layers") if isinstance(document, Mapping) else None
    return layers if isinstance(layers, list) else []


def _input_type(layer: Mapping[str, Any]) -> str | None:
    inputs = layer.get("Inputs")
    return tensor_type(inputs[0]) if isinstance(inputs, list) and inputs else None


def _is_convolution(layer: Mapping[str, Any], convolutions: Collection[str]) -> bool:
    kinds = [str(layer.get(field, "")).lower() for field in ("LayerType", "ParameterType")]
    nodes = NODE.findall(str(layer.get("Metadata", "")))
    named = any(node in convolutions for node in nodes)
    if any("conv" in kind for kind in kinds):  # what a product of matrices becomes is called so, too
        return named or not (nodes and convolutions)
    return kinds[0].startswith(FUSED) and named
