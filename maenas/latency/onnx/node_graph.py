"""Networks as operators with shapes, read from ONNX files and from JSON node lists."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maenas.choices import Precision
from maenas.errors import MaenasError
from maenas.files import refuse_pipe
from maenas.latency.onnx.order import inside, sort_nodes, within
from maenas.latency.onnx.shapes import DEFAULT_DOMAINS, REFUSALS, Shape, tensor_shapes

TensorId = int | str
Tensor = tuple[TensorId, Shape | None]  # the shape is None where it depends on data, or on an unknown operator

OLDEST_OPSET = 7  # before it, arithmetic broadcast by rules of its own
MAX_NODES = 200_000
QUANTISERS = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
# Operators with a product in their name have far more to do than their bytes tell (LSTM, QLinearConv, custom ones).
PRODUCT_NAMES = re.compile(r"Conv(?!ert)|Gemm|MatMul|Einsum|Attention|LSTM|GRU|RNN", re.IGNORECASE)
SHAPE_BYTES = 1024  # constants up to this size may be shapes; weights are larger and are not needed


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. `op` is its ONNX name, "domain::name" outside the standard domain; `attributes` as in ONNX."""

    op: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any]
    name: str


@dataclass(frozen=True, slots=True)
class NodeGraph:
    """Nodes in execution order. Tensors that no node writes, and that are not `images`, are constants.

    `precision` is what the file computes in; one in fp32 may be run in any.
    """

    images: tuple[TensorId, ...]
    nodes: tuple[Node, ...]
    outputs: frozenset[TensorId]
    where: str
    precision: Precision = "fp32"


def read_json(document: Any, where: str = "graph") -> NodeGraph:
    """A parsed node list `{"input": shape, "nodes": [{"op", "in", "out", "attr"}]}`; tensor 0 is the image.

    Raises `MaenasError`.
    """

    def pairs(entries: Any, place: str) -> tuple[Tensor, ...]:
        try:
            return tuple((int(tensor), tuple(int(side) for side in shape)) for tensor, shape in entries)
        except (TypeError, ValueError):
            raise MaenasError(f"{place}: expected [tensor number, shape] pairs, found {entries!r:.80}") from None

    rows = document.get("nodes") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise MaenasError(f"{where}: a graph is an object with a list 'nodes'")
    nodes = []
    for number, row in enumerate(rows):
        place = f"{where}, node {number}"
        if not isinstance(row, dict) or not isinstance(row.get("op"), str):
            raise MaenasError(f"{place}: a node is an object with 'op', 'in', 'out' and an optional 'attr'")
        attributes = row.get("attr", {})
        if not isinstance(attributes, dict):
            raise MaenasError(f"{place}: 'attr' must be an object, found {attributes!r:.80}")
        inputs, outputs = pairs(row.get("in"), f"{place}, 'in'"), pairs(row.get("out"), f"{place}, 'out'")
        nodes.append(Node(row["op"], inputs, outputs, attributes, f"{row['op'].lower()}{number}"))
    return NodeGraph((0,), tuple(nodes), frozenset(), where)


def read_onnx(path: str | Path, *, sides: tuple[int, int] | None = None) -> NodeGraph:
    """An ONNX file. A symbolic first axis of an input is a batch of 1; its other symbolic axes are of `sides`, the
    height and width of its image (the height, where it is no image).

    Weights are not read: a file whose external weights are missing is as good, unless shapes are among them. Raises
    `MaenasError` for a file that is not ONNX, of an opset that the onnx package does not know, with symbolic axes
    and no `sides`, with others than `sides`, or whose operators contradict their shapes.
    """
    path = Path(path)
    refuse_pipe(path, what="ONNX file")
    onnx = _import_onnx(path)
    model = _load(onnx, path)
    for entry in model.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if entry.domain in DEFAULT_DOMAINS and not OLDEST_OPSET <= entry.version <= newest:
            raise MaenasError(
                f"{path} is of opset {entry.version}; onnx {onnx.__version__} here reads {OLDEST_OPSET} to {newest}: "
                "export it again with one of these, or upgrade the package onnx"
            )
    _make_dense(onnx, model.graph, path)
    sort_nodes(model.graph)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if not model.graph.node or not inputs:
        raise MaenasError(f"{path}: there is no network in it ({len(model.graph.node)} nodes, {len(inputs)} inputs)")
    _fix_shapes(inputs, sides, path)
    _load_shapes(onnx, model, path)
    shapes = tensor_shapes(onnx, model, path)
    return NodeGraph(
        images=tuple(value.name for value in inputs),
        nodes=tuple(_nodes(onnx, model, shapes, path)),
        outputs=frozenset(value.name for value in model.graph.output),
        where=str(path),
        precision=_precision(onnx, model),
    )


def _import_onnx(path: Path) -> Any:
    try:
        import onnx
        import onnx.external_data_helper
        import onnx.inliner
    except ModuleNotFoundError:
        raise MaenasError(f"reading {path} needs the onnx package: pip install onnx") from None
    return onnx


def read_properties(path: str | Path) -> dict[str, str]:
    """The properties in the metadata of an ONNX file; raises `MaenasError` for a file that is not ONNX."""
    path = Path(path)
    refuse_pipe(path, what="ONNX file")
    model = _load(_import_onnx(path), path)
    return {entry.key: entry.value for entry in model.metadata_props}


def _load(onnx: Any, path: Path) -> Any:
    """The model without its external data, local functions inlined."""
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
        if not model.functions:
            return model
        if _unfolded(model) > MAX_NODES:
            raise MaenasError(f"{path}: its functions call each other until there are more than {MAX_NODES} nodes")
        _one_opset(model)
        return onnx.inliner.inline_local_functions(model)
    except MaenasError:
        raise
    except OSError as error:
        raise MaenasError(f"cannot read {path}: {error.strerror or error}") from None
    except RecursionError:
        raise MaenasError(f"{path}: its functions call each other in a circle, or too deeply") from None
    except (DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise _invalid(path, error) from None


def _one_opset(model: Any) -> None:
    """Let functions be of the model's opset: one of another is not inlined, and what it computes would not be seen."""
    version = next((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), OLDEST_OPSET)
    for function in model.functions:
        for entry in function.opset_import:
            if entry.domain in DEFAULT_DOMAINS:
                entry.version = version


def _unfolded(model: Any) -> int:
    """Nodes of the graph once its functions are inlined."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}

    @functools.cache
    def body_size(key: tuple[str, str]) -> int:
        return sum(map(size, bodies[key]))

    def size(node: Any) -> int:
        key = (node.domain, node.op_type)
        return (body_size(key) if key in bodies else 1) + sum(map(size, inside(node)))

    return sum(map(size, model.graph.node))


def _invalid(path: Path, error: Exception) -> MaenasError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return MaenasError(f"{path} is not a valid ONNX file: {reason:.300}")


def _fix_shapes(inputs: Iterable[Any], sides: tuple[int, int] | None, path: Path) -> None:
    """Give the symbolic axes of all inputs their size. Raises `MaenasError` where no image among them is of `sides`."""
    contradictions = []
    fits = False
    for value in inputs:
        if not value.type.tensor_type.HasField("shape"):
            raise MaenasError(f"{path}: input {value.name!r} has no shape; export with fixed sizes")
        text, given = _fix_shape(value, sides, path)
        axes = value.type.tensor_type.shape.dim
        if any(axes[number].dim_value != side for number, side in given.items()):
            contradictions.append(f"input {value.name!r} has the shape [{text}]")
        elif given:
            fits = True
    if sides is not None and contradictions and not fits:
        raise MaenasError(f"{path}: {contradictions[0]}; an input of {sides[0]}x{sides[1]} contradicts it")


def _fix_shape(value: Any, sides: tuple[int, int] | None, path: Path) -> tuple[str, dict[int, int]]:
    """Give the symbolic axes of an input their size; returns its shape as it was, and what `sides` asks of its axes."""
    axes = value.type.tensor_type.shape.dim
    text = ", ".join(str(axis.dim_value) if axis.dim_value > 0 else axis.dim_param or "?" for axis in axes)
    symbolic = [number for number, axis in enumerate(axes) if axis.dim_value < 1]
    if sides is None and any(symbolic):  # any but the first axis
        raise MaenasError(
            f"{path}: input {value.name!r} has the shape [{text}], which is not fixed: give its side, or height x "
            "width, with --input of `maenas predict`, or export with fixed sizes"
        )
    height, width = sides or (1, 1)
    given = dict(zip(_image_axes(axes), (height, width), strict=False)) if sides else {}
    for number in symbolic:
        axes[number].dim_value = given.get(number, height if number else 1)
    return text, given


def _image_axes(axes: Any) -> tuple[int, ...]:
    """Height and width of an image, of a batch of them or of films; of anything else, none."""
    rank, channels = len(axes), (1, 3, 4)
    if rank not in (3, 4, 5):
        return ()
    first = {3: 0, 4: 1, 5: 1}[rank]  # axis of channels that come first
    channels_last = axes[-1].dim_value in channels and axes[first].dim_value not in channels
    if rank == 3 and not channels_last and axes[first].dim_value not in channels:  # tokens
        return ()
    return (rank - 3, rank - 2) if channels_last else (rank - 2, rank - 1)


def _make_dense(onnx: Any, graph: Any, path: Path) -> None:
    """Sparse constants as whole ones, which runtimes make of them, too; of weights, as always, the shape is enough."""
    for sparse in graph.sparse_initializer:
        values, places = sparse.values, sparse.indices
        tensor = graph.initializer.add(name=values.name, data_type=values.data_type, dims=sparse.dims)
        if _size_bytes(tensor) <= SHAPE_BYTES:
            try:
                numbers, at = onnx.numpy_helper.to_array(values), onnx.numpy_helper.to_array(places)
                dense = np.zeros(tuple(sparse.dims), numbers.dtype)
                dense[tuple(at.T) if at.ndim > 1 else np.unravel_index(at, dense.shape)] = numbers
            except REFUSALS as error:
                raise _invalid(path, error) from None
            tensor.CopyFrom(onnx.numpy_helper.from_array(dense, values.name))
    del graph.sparse_initializer[:]


def _load_shapes(onnx: Any, model: Any, path: Path) -> None:
    """Read small constants that lie outside the file, since shapes may be among them."""
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and _size_bytes(tensor) <= SHAPE_BYTES:
            try:
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            except (OSError, ValueError, onnx.checker.ValidationError):
                if tensor.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
                    continue  # a bias
                raise MaenasError(
                    f"{path}: the constant {tensor.name!r} lies in another file, which cannot be read; "
                    "keep the data files beside the model"
                ) from None
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.ClearField("external_data")


def _size_bytes(tensor: Any) -> int:
    lengths = [entry.value for entry in tensor.external_data if entry.key == "length"]
    if lengths and lengths[0].isdecimal():
        return int(lengths[0])
    count = 1
    for side in tensor.dims:
        count *= side
    return 8 * count


def _nodes(onnx: Any, model: Any, shapes: Mapping[str, Shape | None], path: Path) -> Iterable[Node]:
    for number, node in enumerate(model.graph.node):
        try:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        except ValueError as error:
            raise _invalid(path, error) from None
        kind = str(node.op_type)  # protobuf gives bytes where a damaged text is not UTF-8
        op = kind if node.domain in DEFAULT_DOMAINS else f"{node.domain}::{kind}"
        inner = list(within(node))
        if products := [entry.op_type for entry in inner if PRODUCT_NAMES.search(entry.op_type)]:
            op = f"{op} of {products[0]}"
        own = node.input[:1] if kind == "CastLike" else node.input  # of its second input it takes the type
        reads = (*own, *dict.fromkeys(name for entry in inner for name in entry.input))
        inputs = tuple((name, shapes.get(name)) for name in reads if name)
        outputs = tuple((name, shapes.get(name)) for name in node.output if name)
        yield Node(op, inputs, outputs, attributes, str(node.name or f"{kind.lower()}{number}"))


def _precision(onnx: Any, model: Any) -> Precision:
    """int8 where tensors are quantised on the way, else the floating type of most weights."""
    if any(node.op_type in QUANTISERS for node in model.graph.node):
        return "int8"
    constants = [a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute]
    types = onnx.TensorProto
    names: dict[int, Precision] = {types.FLOAT: "fp32", types.FLOAT16: "fp16", types.BFLOAT16: "bf16"}
    counts = dict.fromkeys(names, 0)
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type in counts:
            counts[tensor.data_type] += math.prod(tensor.dims)
    return names[max(counts, key=counts.__getitem__)]
