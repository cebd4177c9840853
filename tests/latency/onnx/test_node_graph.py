"""ONNX files: what is read, what is filled in, and what is refused with one message."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maenas.deploy.program import network
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.onnx.lower import kernels_from_onnx, lower_onnx
from maenas.latency.onnx.node_graph import read_onnx
from maenas.lowering import lower
from maenas.spec import DetectorSpec

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from maenas.deploy.onnx_writer import write_onnx  # noqa: E402
from maenas.deploy.quantize import quantize  # noqa: E402
from maenas.spec import published_specs  # noqa: E402

PUBLISHED = published_specs(320)
SIDES = [1, 16, 32, 32]


def value(name: str, shape: list[Any] | None) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(nodes: list[Any], shape: list[Any] | None = SIDES, weights: tuple[Any, ...] = (), opset: int = 20) -> Any:
    graph = helper.make_graph(nodes, "g", [value("x", shape)], [value("y", None)], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def conv_model(shape: list[Any] = SIDES, **fields: Any) -> Any:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    return model(nodes, shape, (numpy_helper.from_array(np.zeros((8, 16, 3, 3), np.float32), "w"),), **fields)


@pytest.fixture
def saved(tmp_path: Path):
    def save(proto: Any, name: str = "net.onnx") -> Path:
        onnx.save(proto, tmp_path / name)
        return tmp_path / name

    return save


def anonymous(kernels: tuple[Kernel, ...]) -> list[Kernel]:
    """Kernels without what a graph cannot tell: names, stages, and the main path."""
    return [replace(kernel, name="", stage=-1, signal_fan_in=0) for kernel in kernels]


def test_an_onnx_file_becomes_fused_kernels(saved) -> None:
    (kernel,) = kernels_from_onnx(saved(conv_model()))
    shape = (kernel.op, kernel.in_channels, kernel.out_channels, kernel.out_height, kernel.stride, kernel.epilogue)
    assert shape == ("conv", 16, 8, 16, 2, ("silu",))


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-m", "damo-yolo-nano-s"])
@pytest.mark.parametrize(("precision", "batch"), [("fp32", 1), ("fp32", None), ("fp16", 1)])
def test_the_kernels_of_a_spec_s_onnx_file_are_its_lowering(name: str, precision: Any, batch: Any, saved) -> None:
    kernels = lower(PUBLISHED[name])
    path = saved(write_onnx(network(kernels), precision=precision, batch=batch))
    assert anonymous(kernels_from_onnx(path)) == anonymous(kernels)


def test_a_quantised_network_has_the_same_kernels(saved) -> None:
    kernels = lower(PUBLISHED["damo-yolo-t"])
    path = saved(quantize(write_onnx(network(kernels), precision="fp16")))
    assert anonymous(kernels_from_onnx(path)) == anonymous(kernels)
    assert read_onnx(path).precision == "int8"


@settings(max_examples=25)
@given(st.from_type(DetectorSpec))
def test_any_spec_comes_back_from_its_onnx_file(tmp_path_factory, spec: DetectorSpec) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    kernels = lower(spec)
    onnx.save(write_onnx(network(kernels)), path)
    assert anonymous(kernels_from_onnx(path)) == anonymous(kernels)


def test_a_symbolic_batch_is_one_and_other_axes_are_asked_for(saved) -> None:
    path = saved(conv_model(["batch", 16, "height", "width"]))
    with pytest.raises(MaenasError, match=r"input 'x' has the shape \[batch, 16, height, width\].*--input"):
        lower_onnx(path)
    (kernel,) = lower_onnx(path, sides=(64, 64)).kernels
    assert (kernel.in_height, kernel.in_width, kernel.out_height) == (64, 64, 32)
    assert kernels_from_onnx(saved(conv_model(["batch", 16, 32, 32]))) == kernels_from_onnx(saved(conv_model()))


def test_an_image_has_the_height_and_width_that_are_given_wherever_its_channels_are(saved) -> None:
    (kernel,) = lower_onnx(saved(conv_model(["batch", 16, "height", "width"])), sides=(48, 320)).kernels
    assert (kernel.in_height, kernel.in_width) == (48, 320)
    (kernel,) = lower_onnx(saved(conv_model([1, 16, 48, "width"])), sides=(48, 320)).kernels
    assert (kernel.in_height, kernel.in_width) == (48, 320)
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), helper.make_node("Relu", ["t"], ["y"])]
    last = lower_onnx(saved(model(nodes, ["batch", "height", "width", 3])), sides=(48, 320))
    assert [kernel.out_width for kernel in last.kernels] == [320, 320]


@pytest.mark.parametrize("shape", [[1, 16, 32, 32], [1, 16, 64, "width"], ["batch", 16, "height", 32]])
def test_an_input_that_contradicts_the_file_is_refused(shape: list, saved) -> None:
    with pytest.raises(MaenasError, match=r"input 'x' has the shape .*; an input of 48x320 contradicts it"):
        lower_onnx(saved(conv_model(shape)), sides=(48, 320))


def test_an_input_without_a_shape_and_a_fixed_batch_are_refused(saved) -> None:
    with pytest.raises(MaenasError, match="input 'x' has no shape"):
        read_onnx(saved(model([helper.make_node("Relu", ["x"], ["y"])], None)))
    with pytest.raises(MaenasError, match="export with batch 1"):
        lower_onnx(saved(conv_model([4, 16, 32, 32])))


@pytest.mark.parametrize("opset", [3, 99])
def test_an_opset_that_is_not_known_is_refused(opset: int, saved) -> None:
    with pytest.raises(MaenasError, match=rf"opset {opset};.*reads 7 to \d+"):
        read_onnx(saved(conv_model(opset=opset)))


def test_missing_weights_do_not_matter_but_missing_shapes_do(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    sides = numpy_helper.from_array(np.array([1, -1], np.int64), "sides")
    outside = conv_model()
    onnx.save(outside, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    (tmp_path / "weights.bin").unlink()
    assert len(kernels_from_onnx(path)) == 1
    reshape = model([helper.make_node("Reshape", ["x", "sides"], ["y"])], weights=(sides,))
    onnx.save(reshape, path, save_as_external_data=True, location="shapes.bin", size_threshold=0)
    assert read_onnx(path).nodes[0].outputs[0][1] == (1, 16 * 32 * 32)
    (tmp_path / "shapes.bin").unlink()
    with pytest.raises(MaenasError, match="the constant 'sides' lies in another file"):
        read_onnx(path)


def test_operators_of_other_domains_and_unknown_shapes_are_listed(saved) -> None:
    nodes = [
        helper.make_node("Fancy", ["x"], ["a"], domain="my.ops"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("TopK", ["x", "k"], ["y", "i"]),
    ]
    proto = model(nodes, weights=(numpy_helper.from_array(np.array([4], np.int64), "k"),))
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    lowered = lower_onnx(saved(proto))
    assert lowered.untimed == ("my.ops::Fancy", "Relu")
    assert list(lowered.stand_ins.values()) == ["TopK"]


def branching(inner: Any) -> Any:
    """A network whose If chooses between two graphs that read its image."""
    branch = helper.make_graph([inner], "branch", [], [value(inner.output[0], [1, 16, 32, 32])])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    flag = numpy_helper.from_array(np.array(True), "c")
    return model([helper.make_node("Relu", ["x"], ["a"]), choice], weights=(flag,))


def test_a_branch_reads_what_its_graphs_read_and_names_the_product_in_them(saved) -> None:
    lowered = lower_onnx(saved(branching(helper.make_node("Relu", ["a"], ["b"]))))
    assert lowered.stand_ins == {1: "If"}
    lowered = lower_onnx(saved(branching(helper.make_node("MatMul", ["a", "a"], ["b"]))))
    assert lowered.stand_ins == {1: "If of MatMul"}


@pytest.mark.parametrize(("kind", "precision"), [(np.float32, "fp32"), (np.float16, "fp16"), (np.int8, "fp32")])
def test_a_file_computes_in_the_type_of_most_of_its_weights(saved, kind: Any, precision: str) -> None:
    proto = conv_model()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((8, 16, 3, 3), kind), "w"))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float64), "unused"))
    assert read_onnx(saved(proto)).precision == precision


def test_local_functions_are_looked_into(saved) -> None:
    inner = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    function = helper.make_function("f", "Silu", ["a"], ["b"], inner, [helper.make_opsetid("", 20)])
    conv = conv_model().graph.node[0]
    proto = model([conv, helper.make_node("Silu", ["a"], ["y"], domain="f")], weights=conv_model().graph.initializer)
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("f", 1))
    (kernel,) = kernels_from_onnx(saved(proto))
    assert kernel.epilogue == ("silu",)


def test_what_is_not_a_network_is_refused(tmp_path: Path) -> None:
    for data in (b"not a network", b"", b"\x00" * 100, conv_model().SerializeToString()[:200]):
        (tmp_path / "net.onnx").write_bytes(data)
        with pytest.raises(MaenasError, match=r"net\.onnx"):
            read_onnx(tmp_path / "net.onnx")
    with pytest.raises(MaenasError, match="cannot read"):
        read_onnx(tmp_path / "missing.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(MaenasError, match="cannot read"):
        read_onnx(tmp_path / "folder.onnx")


def test_a_damaged_file_is_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "net.onnx"
    proto = conv_model()
    proto.graph.initializer[0].ClearField("raw_data")  # damage to weights says nothing
    whole = np.frombuffer(proto.SerializeToString(), np.uint8)
    outcomes, messages = set(), []
    for _ in range(400):
        data = whole.copy()
        places = rng.integers(len(data), size=rng.integers(1, 4))
        data[places] = rng.integers(256, size=len(places))
        path.write_bytes(data.tobytes())
        try:
            lower_onnx(path)
            outcomes.add("read")
        except MaenasError as error:
            outcomes.add("refused")
            messages.append(str(error))
    assert all("net.onnx" in message for message in messages)
    assert outcomes == {"read", "refused"}
