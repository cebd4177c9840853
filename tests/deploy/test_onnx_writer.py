"""The written model is the lowered network: same convolutions, same shapes, same arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")

import onnx
from onnx import numpy_helper

from maenas.deploy.onnx_writer import write_onnx
from maenas.deploy.program import Program, network
from maenas.errors import MaenasError
from maenas.kernels import Kernel
from maenas.latency.onnx.lower import kernels_from_onnx
from maenas.lowering import lower
from maenas.nas.space import SearchSpace, load_space, space_names
from maenas.presets import get_neck_preset, make_head, make_neck
from maenas.profiler.plan import spec_samples
from maenas.profiler.probe import alone, in_graph
from maenas.spec import DetectorSpec, InputSpec, published_specs

PUBLISHED = published_specs()


def conv_of(kernel: Kernel) -> tuple:
    out = (kernel.out_height, kernel.out_width)
    return (kernel.in_channels, kernel.out_channels, kernel.kernel, kernel.stride, kernel.groups, *out)


def convs_of(model: onnx.ModelProto) -> list[tuple]:
    """Convolutions as the file has them, with the output sizes that ONNX infers."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    shapes |= {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.output}
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer}
    rows = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert len(node.input) == 3, f"{node.name} has no bias"
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            out, fan_in, side, _ = weights[node.input[1]]
            groups = attributes["group"]
            rows.append((fan_in * groups, out, side, attributes["strides"][0], groups, *shapes[node.output[0]][2:]))
    return rows


def small(spec: DetectorSpec, side: int = 64) -> DetectorSpec:
    return DetectorSpec(InputSpec(side, side), spec.backbone, spec.neck, spec.head)


def random_spec(space: SearchSpace, rng: np.random.Generator, side: int = 64) -> DetectorSpec:
    """A backbone of the space with random choices, the widths' limits aside, and the space's neck."""
    genome = space.smallest.copy()
    for gene in range(3, len(genome), 4):  # bottleneck and depth are free of the widths only at the smallest
        genome[gene + 1] = rng.integers(len(space.choices[gene + 1]))
        genome[gene - 1] = rng.integers(len(space.choices[gene - 1]))
    backbone, preset = space.spec_of(genome), get_neck_preset(space.neck)
    return DetectorSpec(
        InputSpec(side, side), backbone, make_neck(preset, backbone.tap_channels), make_head(preset, 20)
    )


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_convolutions_of_a_published_detector_are_its_kernels(name: str) -> None:
    kernels = lower(PUBLISHED[name])
    model = write_onnx(network(kernels))
    onnx.checker.check_model(model)
    assert convs_of(model) == [conv_of(kernel) for kernel in kernels if kernel.op == "conv"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_detector_runs(name: str) -> None:
    spec = small(PUBLISHED[name])
    image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    scores, boxes = run(write_onnx(network(lower(spec))), {"image": image})
    assert scores.shape == (1, spec.head.num_classes, 84)
    assert boxes.shape == (1, 4, 84)
    assert np.isfinite(boxes).all()
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("batch", [1, 3])
def test_random_specs_of_every_space_run(name: str, batch: int) -> None:
    spec = random_spec(load_space(name), np.random.default_rng(batch))
    kernels = lower(spec)
    model = write_onnx(network(kernels), batch=batch)
    onnx.checker.check_model(model, full_check=True)
    assert convs_of(model) == [conv_of(kernel) for kernel in kernels if kernel.op == "conv"]
    scores, boxes = run(model, {"image": np.zeros((batch, 3, 64, 64), np.float32)})
    assert (scores.shape, boxes.shape) == ((batch, 20, 84), (batch, 4, 84))


@settings(max_examples=25)
@given(st.from_type(DetectorSpec))
def test_any_spec_becomes_a_valid_model(spec: DetectorSpec) -> None:
    kernels = lower(spec)
    model = write_onnx(network(kernels))
    onnx.checker.check_model(model, full_check=True)
    assert convs_of(model) == [conv_of(kernel) for kernel in kernels if kernel.op == "conv"]


def test_the_reader_of_onnx_files_finds_the_kernels_again(tmp_path) -> None:
    written_kernels = lower(PUBLISHED["damo-yolo-t"])
    onnx.save(write_onnx(network(written_kernels)), tmp_path / "t.onnx")
    read = kernels_from_onnx(tmp_path / "t.onnx")
    wide = [[k for k in kernels if k.op == "conv" and k.kernel > 1] for kernels in (read, written_kernels)]
    found, written = ([(*conv_of(k), k.epilogue, k.residual is not None) for k in convs] for convs in wide)
    assert found == written


def test_the_same_seed_writes_the_same_bytes() -> None:
    program = network(lower(small(PUBLISHED["damo-yolo-nano-s"])))
    once, again = (write_onnx(program, seed=3).SerializeToString(deterministic=True) for _ in range(2))
    assert once == again


def test_fp16_keeps_box_decoding_in_fp32() -> None:
    model = write_onnx(network(lower(small(PUBLISHED["damo-yolo-t"]))), precision="fp16")
    onnx.checker.check_model(model, full_check=True)
    elements = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    assert elements == {"head.scores": onnx.TensorProto.FLOAT16, "head.boxes": onnx.TensorProto.FLOAT}
    with pytest.raises(MaenasError, match="int8"):
        write_onnx(network(lower(PUBLISHED["damo-yolo-t"])), precision="int8")


def one(kernel: Kernel, *images: tuple[int, int, int]) -> onnx.ModelProto:
    return write_onnx(Program((kernel,), images, outputs=(0,)))


@pytest.mark.parametrize(
    ("epilogue", "expected"),
    [
        (("add", "relu"), lambda y, r: np.maximum(y + r, 0)),
        (("relu", "add"), lambda y, r: np.maximum(y, 0) + r),
        (("silu", "add"), lambda y, r: y / (1 + np.exp(-y)) + r),
        (("add",), lambda y, r: y + r),
    ],
)
def test_the_epilogue_is_applied_in_order(epilogue, expected) -> None:
    rng = np.random.default_rng(0)
    kernel = Kernel("conv", "k", (-1,), 8, 8, 5, 7, 5, 7, epilogue=epilogue, residual=-2)
    model = one(kernel, (8, 5, 7), (8, 5, 7))
    x, residual = rng.standard_normal((2, 1, 8, 5, 7)).astype(np.float32)
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("weight"))
    y = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x)
    (result,) = run(model, {"image": x, "image2": residual})
    np.testing.assert_allclose(result, expected(y, residual), atol=1e-5)


def test_space_to_depth_has_the_order_of_focus() -> None:
    x = np.random.default_rng(0).random((1, 3, 6, 8), np.float32)
    (result,) = run(one(Kernel("space_to_depth", "k", (-1,), 3, 12, 6, 8, 3, 4, stride=2), (3, 6, 8)), {"image": x})
    patches = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
    np.testing.assert_array_equal(result, np.concatenate(patches, axis=1))


def test_resize_repeats_and_a_pool_keeps_the_size() -> None:
    x = np.random.default_rng(0).random((1, 2, 4, 5), np.float32)
    (resized,) = run(one(Kernel("resize", "k", (-1,), 2, 2, 4, 5, 8, 10), (2, 4, 5)), {"image": x})
    np.testing.assert_array_equal(resized, x.repeat(2, axis=2).repeat(2, axis=3))
    (pooled,) = run(one(Kernel("maxpool", "k", (-1,), 2, 2, 4, 5, 4, 5, kernel=5), (2, 4, 5)), {"image": x})
    assert pooled.shape == x.shape
    assert pooled[0, 0, 0, 0] == x[0, 0, :3, :3].max()


def test_the_integral_is_the_expectation_of_each_side() -> None:
    x = np.random.default_rng(0).standard_normal((1, 4 * 9, 2, 3)).astype(np.float32)
    (result,) = run(one(Kernel("integral", "k", (-1,), 36, 4, 2, 3, 2, 3), (36, 2, 3)), {"image": x})
    bins = np.exp(x.reshape(1, 4, 9, 2, 3))
    expected = (bins / bins.sum(axis=2, keepdims=True) * np.arange(9)[:, None, None]).sum(axis=2)
    np.testing.assert_allclose(result, expected.reshape(1, 4, 6), rtol=1e-5)


def test_a_softmax_sums_to_one_along_each_row() -> None:
    x = np.random.default_rng(0).standard_normal((1, 6, 9)).astype(np.float32)
    (result,) = run(one(Kernel("softmax", "k", (-1,), 9, 9, 6, 1, 6, 1), (9, 6, 1)), {"image": x})
    np.testing.assert_allclose(result, np.exp(x) / np.exp(x).sum(axis=2, keepdims=True), rtol=1e-5)


def test_boxes_stand_around_the_corner_of_their_cell() -> None:
    levels = ((4, 4, 4), (4, 2, 2), (4, 1, 1))
    sides = [np.full((1, *shape), 0.5, np.float32) for shape in levels]
    kernel = Kernel("decode", "k", (-1, -2, -3), 4, 4, 21, 1, 21, 1)
    (boxes,) = run(one(kernel, *levels), dict(zip(("image", "image2", "image3"), sides, strict=True)))
    assert boxes.shape == (1, 4, 21)
    assert boxes[0, :, 1].tolist() == [8 - 4, 0 - 4, 8 + 4, 0 + 4]  # stride 8, row 0, column 1
    assert boxes[0, :, 16 + 2].tolist() == [0 - 8, 16 - 8, 0 + 8, 16 + 8]  # stride 16, row 1, column 0
    assert boxes[0, :, 20].tolist() == [-16, -16, 16, 16]


def test_a_product_keeps_rows_and_adds_its_residual() -> None:
    rng = np.random.default_rng(0)
    kernel = Kernel("matmul", "k", (-1,), 8, 12, 5, 1, 5, 1, epilogue=("add", "relu"), residual=-2)
    model = one(kernel, (8, 5, 1), (12, 5, 1))
    x, residual = rng.standard_normal((1, 5, 8)).astype(np.float32), rng.standard_normal((1, 5, 12)).astype(np.float32)
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("weight"))
    (result,) = run(model, {"image": x, "image2": residual})
    np.testing.assert_allclose(result, np.maximum(x @ weight + residual, 0), atol=1e-5)


def test_a_mean_is_over_the_positions_and_arithmetic_is_by_element() -> None:
    x, y = np.random.default_rng(0).random((2, 1, 3, 4, 5), np.float32)
    (mean,) = run(one(Kernel("mean", "k", (-1,), 3, 3, 4, 5, 1, 1), (3, 4, 5)), {"image": x})
    np.testing.assert_allclose(mean, x.mean(axis=(2, 3), keepdims=True), rtol=1e-5)
    both = Kernel("pointwise", "k", (-1, -2), 6, 3, 4, 5, 4, 5)
    (product,) = run(one(both, (3, 4, 5), (3, 4, 5)), {"image": x, "image2": y})
    np.testing.assert_array_equal(product, x * y)


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-nano-s"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_kernel_can_be_probed(name: str, precision: str) -> None:
    for sample in spec_samples(small(PUBLISHED[name])):
        for program in (*in_graph(sample, 3), alone(sample)):
            model = write_onnx(program, precision=precision)  # type: ignore[arg-type]
            onnx.checker.check_model(model, full_check=True)


def test_a_probe_runs_as_many_copies_as_it_says() -> None:
    for sample in spec_samples(small(PUBLISHED["damo-yolo-t"])):
        probe, baseline = in_graph(sample, 4)
        assert len(probe.kernels) - len(baseline.kernels) == 4, sample.key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-nano-m", "damo-yolo-m"])
def test_torch_runs_the_same_program(name: str) -> None:
    torch = pytest.importorskip("torch")
    from maenas.profiler.torch_cuda import TorchProgram

    program = network(lower(small(PUBLISHED[name])))
    model = write_onnx(program)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    torch_program = TorchProgram(program, dtype="float32", batch=1, device="cpu")
    for index, kernel in enumerate(program.kernels):
        if kernel.op == "conv":
            place = kernel.name if not kernel.epilogue else f"{kernel.name}.conv"
            bias = torch_program._weights[index][1]
            torch_program._weights[index] = (torch.from_numpy(weights[f"{place}.weight"].copy()), bias)
    with torch.inference_mode():
        results = torch_program()
    image = torch_program._images[0].contiguous().numpy()
    for index, expected in zip(program.outputs, run(model, {"image": image}), strict=True):
        np.testing.assert_allclose(results[index].numpy(), expected, atol=1e-3, rtol=1e-4)
