"""TensorRT engines: quantised as asked, typed as asked. Nothing here runs an engine: that needs a GPU."""

import importlib.util
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from maenas.deploy.program import Program, network
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.measured import BlockKey
from maenas.lowering import lower
from maenas.nas.space import space_names
from maenas.nas.spaces import load_space
from maenas.profiler.general import general_samples
from maenas.profiler.plan import plan
from maenas.profiler.probe import Item, Sample, in_graph
from maenas.spec import published_specs

onnx = pytest.importorskip("onnx")
from onnx import numpy_helper  # noqa: E402

from maenas.deploy.engine import EngineBuilder, typed_model  # noqa: E402
from maenas.deploy.onnx_writer import write_onnx  # noqa: E402
from maenas.deploy.quantize import quantize  # noqa: E402
from maenas.profiler.tensorrt import TensorRt  # noqa: E402

SPEC = published_specs(64)["damo-yolo-t"]
PAIR = (
    Kernel("conv", "one", (-1,), 16, 32, 8, 8, 8, 8, kernel=3, epilogue=("relu",)),
    Kernel("conv", "two", (0,), 32, 32, 8, 8, 8, 8, epilogue=("add", "relu"), residual=0),
)
PROGRAM = Program(PAIR, ((16, 8, 8),), outputs=(1,))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_convolution_reads_int8_and_the_model_stays_valid(precision) -> None:
    plain = write_onnx(network(lower(SPEC)), precision=precision)
    model = quantize(plain)
    onnx.checker.check_model(model, full_check=True)
    makers = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in plain.graph.node)
    for node in convolutions:
        assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear", "DequantizeLinear"]
    assert not any(node.op_type == "QuantizeLinear" for node in plain.graph.node)


def test_a_residual_is_read_in_int8_and_quantised_once_with_the_convolution_that_reads_it() -> None:
    model = quantize(write_onnx(PROGRAM))
    makers = {name: node for node in model.graph.node for name in node.output}
    (add,) = (node for node in model.graph.node if node.op_type == "Add")
    assert [makers[name].op_type for name in add.input] == ["Conv", "DequantizeLinear"]
    assert add.input[1] == makers[add.input[0]].input[0]
    kept = quantize(write_onnx(PROGRAM), keep={"two.conv"})
    assert not any(node.name.startswith("one.quantize") for node in kept.graph.node)


def test_what_sinks_read_is_quantised_in_models_that_are_only_timed() -> None:
    program = Program(PAIR, PROGRAM.images, sinks=(0, 1))
    plain = write_onnx(program)
    timed, deployed = quantize(plain), quantize(plain, largest={"image": 1.0, "one": 1.0})
    for model, wanted in ((timed, "DequantizeLinear"), (deployed, "Relu")):
        makers = {name: node for node in model.graph.node for name in node.output}
        assert {makers[node.input[0]].op_type for node in model.graph.node if node.op_type == "MaxPool"} == {wanted}


def test_quantised_weights_are_the_weights_to_half_a_step() -> None:
    plain = write_onnx(PROGRAM)
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantize(plain).graph.initializer}
    weights = [name for name in before if name.endswith(".weight")]
    assert len(weights) == 2
    for name in weights:
        scale = after[f"{name}.scale"][:, None, None, None]
        assert after[name].dtype == np.int8
        assert np.abs(after[name] * scale - before[name]).max() <= scale.max() / 2 * 1.001
        assert (np.abs(after[name]).max(axis=(1, 2, 3)) == 127).all()


def test_small_weights_use_all_of_their_levels() -> None:
    """As those of a stem that takes numbers up to 255 are: of a hundredth of the usual size and less."""
    for precision, size in (("fp32", 1e-6), ("fp16", 2e-3)):
        plain = write_onnx(PROGRAM, precision=precision)  # type: ignore[arg-type]
        for tensor in plain.graph.initializer:
            if tensor.name.endswith(".weight"):
                values = numpy_helper.to_array(tensor)
                small = (values / np.abs(values).max() * size).astype(values.dtype)
                tensor.CopyFrom(numpy_helper.from_array(small, tensor.name))
        after = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantize(plain).graph.initializer}
        weights = [value for name, value in after.items() if name.endswith(".weight")]
        assert all(np.abs(value).max() >= 120 for value in weights), precision


def test_a_quantised_model_computes_about_the_same() -> None:
    ort = pytest.importorskip("onnxruntime")
    image = np.random.default_rng(0).random((1, 16, 8, 8), np.float32)
    plain = write_onnx(PROGRAM)
    results = []
    for model in (plain, quantize(plain)):
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"image": image})[0])
    assert np.abs(results[0] - results[1]).max() < 0.05 * np.abs(results[0]).max()


def test_what_is_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAENAS_TRT", "trt")
    with pytest.raises(MaenasError, match="MAENAS_TRT is 'trt'; choose tensorrt, tensorrt_rtx"):
        EngineBuilder()
    for name, wheel in (("tensorrt", "tensorrt-cu13"), ("tensorrt_rtx", "tensorrt-rtx-cu13")):
        monkeypatch.setenv("MAENAS_TRT", name)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MaenasError, match=f"needs the package {name}: pip install .*{wheel}"):
            EngineBuilder()


def test_an_old_version_and_a_level_out_of_range_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.9.0.34"))
    monkeypatch.delenv("MAENAS_TRT", raising=False)
    with pytest.raises(MaenasError, match=r"tensorrt 10\.9\.0\.34 is too old; install 10\.12"):
        EngineBuilder()
    with pytest.raises(MaenasError, match="level is 6; it must be 0 to 5"):
        TensorRt(opt_level=6)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> EngineBuilder:
    """TensorRT for RTX: the same parser and builder, which need no GPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13")
    monkeypatch.setenv("MAENAS_TRT", "tensorrt_rtx")
    return EngineBuilder()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_convolutions_are_parsed_with_the_precision_asked_for(builder: EngineBuilder, precision) -> None:
    trt = builder.trt
    model = typed_model(PROGRAM, precision=precision, batch=1).SerializeToString()
    parsed = builder.parse(model)
    layers = [parsed.get_layer(index) for index in range(parsed.num_layers)]
    makers = {layer.get_output(0).name: layer for layer in layers}
    convolutions = [layer for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    assert len(convolutions) == 2
    wanted = {"fp32": trt.DataType.FLOAT, "fp16": trt.DataType.HALF, "int8": trt.DataType.INT8}[precision]
    for layer in convolutions:
        source = layer.get_input(0)
        read = makers[source.name].get_input(0) if precision == "int8" else source  # before the dequantisation
        assert read.dtype == wanted
    assert len(builder.build_model(model)) > 1000


def every_kind() -> list[Item]:
    """One item of each kind that a whole profile measures: op, window, stride, epilogue, inputs."""
    kinds: dict[object, Item] = {}
    plans = (plan([load_space(name)], [], input_size=64) for name in space_names())
    for item in itertools.chain(*plans, general_samples()):
        kind: object = type(item)
        if isinstance(item, Sample):
            k = item.kernel
            depthwise, added = int(k.groups) > 1, k.residual is not None
            kind = (k.op, k.kernel, k.stride, k.epilogue, len(k.inputs), depthwise, added)
        elif isinstance(item, BlockKey):
            kind = (item.block, item.stride)
        kinds.setdefault(kind, item)
    return list(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_program_of_a_profile_is_parsed(builder: EngineBuilder, precision) -> None:
    """At a batch of 2, and with its convolutions in the precision."""
    items = every_kind()
    assert len(items) > 30
    for item in items:
        for program in in_graph(item, 3):
            model = typed_model(program, precision=precision, batch=2).SerializeToString()
            if any(kernel.op == "conv" for kernel in program.kernels):
                builder.check_model(model, precision)
            else:
                builder.parse(model)


@pytest.mark.slow
def test_a_whole_detector_becomes_an_engine(builder: EngineBuilder) -> None:
    model = typed_model(network(lower(SPEC)), precision="fp16", batch=2)
    assert len(builder.build_model(model.SerializeToString())) > 1000


@pytest.mark.slow
def test_times_of_another_product_carry_its_name(builder: EngineBuilder) -> None:
    assert builder.runtime.startswith("tensorrt_rtx ")


@pytest.mark.slow
def test_what_tensorrt_refuses_is_one_message(builder: EngineBuilder) -> None:
    with pytest.raises(MaenasError, match=r"tensorrt_rtx .* cannot read a model"):
        builder.build_model(b"not a network")
