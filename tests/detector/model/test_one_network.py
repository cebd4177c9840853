"""One network: what the deployed module runs, and what its ONNX export holds, are the kernels of the lowered spec."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from detector.model.deploy import DeployedNet, deploy
from detector.model.net import DetectorNet
from maenas.kernels import Kernel
from maenas.latency.onnx.lower import fuse, kernels_from_onnx
from maenas.latency.onnx.node_graph import Node, NodeGraph
from maenas.lowering import lower
from maenas.nas.necks import neck_grid
from maenas.nas.sampling import random_detectors
from maenas.nas.space import SearchSpace, load_space, space_names
from maenas.presets import NECK_PRESETS
from maenas.spec import DetectorSpec, InputSpec, published_specs

PUBLISHED = published_specs()
SPACES = [load_space(name) for name in space_names()]
LAYERS = (nn.Conv2d, nn.MaxPool2d, nn.Upsample)


def deployed_on_meta(spec: DetectorSpec) -> tuple[DeployedNet, Tensor]:
    """The deployed module without values, and an image of the spec's size."""
    with torch.device("meta"):
        return deploy(DetectorNet(spec)), torch.empty(1, 3, spec.input.height, spec.input.width)


def bare(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Kernels without names, and without what only the score needs."""
    return [dataclasses.replace(k, name="", stage=0, signal_fan_in=0) for k in kernels]


# The module -----------------------------------------------------------------------------------------------------------

OPERATORS = {
    "conv2d": "Conv",
    "relu": "Relu",
    "silu": "Swish",
    "sigmoid": "Sigmoid",
    "add": "Add",
    "mul": "Mul",
    "matmul": "MatMul",
    "softmax": "Softmax",
    "cat": "Concat",
    "max_pool2d": "MaxPool",
    "interpolate": "Resize",
    "getitem": "Slice",
    **dict.fromkeys(("flatten", "unflatten", "squeeze", "float", "transpose"), "Reshape"),  # views
}


class Recorder(TorchFunctionMode):
    """Hooks every torch function that reads the image or what was computed from it; others make constants."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.alive = [image]  # so that no two tensors ever have the same id()
        self.names = {id(image): "image"}
        self.nodes: list[Node] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = args[0] if args and isinstance(args[0], list | tuple) else args
        inputs = [(x, tuple(x.shape)) for x in operands if isinstance(x, Tensor)]
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and any(id(x) in self.names for x, _ in inputs):
            function = func.__name__.strip("_")
            names = tuple((self.names.get(id(x), f"constant{id(x)}"), shape) for x, shape in inputs)
            self.alive += [out, *(x for x, _ in inputs)]
            self.names[id(out)] = f"{function}{len(self.nodes)}"  # also where the result is written in place
            outputs = ((self.names[id(out)], tuple(out.shape)),)
            self.nodes.append(Node(OPERATORS[function], names, outputs, attributes(function, args, kwargs), function))
        return out


def attributes(function: str, args: Any, kwargs: Any) -> dict[str, Any]:
    """ONNX attributes of a call."""
    if function == "conv2d":
        return {"strides": list(args[3]), "group": args[6]}
    if function == "max_pool2d":
        return {"kernel_shape": [args[1]] * 2, "strides": [kwargs["stride"]] * 2}
    return {}


def run_recorded(net: DeployedNet, image: Tensor) -> tuple[tuple[Kernel, ...], list[str]]:
    """The kernels that the module runs, and the names of its layers in the order in which they are called."""
    called: list[str] = []
    for name, module in net.named_modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(lambda _, __, ___, name=name: called.append(name))
    with Recorder(image) as recorder:
        outputs = net(image)
    names = frozenset(recorder.names[id(output)] for output in outputs)
    lowered = fuse(NodeGraph(("image",), tuple(recorder.nodes), names, "module"))
    assert not lowered.stand_ins
    assert not lowered.untimed
    return lowered.kernels, called


def check_module(spec: DetectorSpec) -> None:
    expected = lower(spec)
    kernels, called = run_recorded(*deployed_on_meta(spec))
    assert bare(kernels) == bare(expected)
    layers = [k for k in expected if k.op in ("conv", "maxpool", "resize")]
    assert called == [f"{k.name}.conv" if k.op == "conv" else k.name for k in layers]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_module_of_a_published_detector_runs_its_kernels(name: str) -> None:
    check_module(PUBLISHED[name])


@pytest.mark.parametrize(
    "count",
    [pytest.param(2 * len(SPACES), id="some"), pytest.param(200, id="many", marks=pytest.mark.slow)],
)
def test_the_modules_of_random_detectors_of_every_space_run_their_kernels(count: int) -> None:
    for _, spec in random_detectors(SPACES, count, seed=0):
        check_module(spec)


@settings(max_examples=10)
@given(
    name=st.sampled_from([row[0] for base in NECK_PRESETS for row in neck_grid(base)]),
    seed=st.integers(0, 1000),
    space=st.sampled_from(SPACES),
)
def test_the_module_of_any_neck_that_is_searched_runs_its_kernels(name: str, seed: int, space: SearchSpace) -> None:
    [(_, spec)] = random_detectors([dataclasses.replace(space, neck=name)], 1, seed=seed)
    check_module(spec)


@settings(max_examples=10)
@given(spec=...)
def test_the_module_of_any_spec_runs_its_kernels(spec: DetectorSpec) -> None:
    check_module(spec)


# The export -----------------------------------------------------------------------------------------------------------


def without_copies(kernels: Sequence[Kernel]) -> tuple[list[Kernel], int]:
    """Kernels without those that only change the layout, and how many these are."""
    sources: dict[int | None, int | None] = {None: None, -1: -1}
    kept: list[Kernel] = []
    for index, k in enumerate(kernels):
        inputs = tuple(source for i in k.inputs if (source := sources[i]) is not None)
        if k.op == "concat" and len(inputs) == 1:
            sources[index] = inputs[0]
            continue
        sources[index] = len(kept)
        kept.append(dataclasses.replace(k, inputs=inputs, residual=sources[k.residual]))
    return kept, len(kernels) - len(kept)


def check_export(spec: DetectorSpec, folder: Path) -> None:
    image = torch.zeros(1, 3, spec.input.height, spec.input.width)
    program = torch.onnx.export(deploy(DetectorNet(spec)), (image,), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    program.save(folder / "net.onnx")
    kernels, copies = without_copies(kernels_from_onnx(folder / "net.onnx"))
    assert bare(kernels) == bare(lower(spec))
    assert copies == 2  # the outputs, scores and boxes, have the classes and the sides last


def resized(spec: DetectorSpec, side: int) -> DetectorSpec:
    return dataclasses.replace(spec, input=InputSpec(side, side))


@pytest.mark.parametrize("name", ["damo-yolo-nano-s"])
def test_the_export_of_a_small_detector_holds_its_kernels(name: str, tmp_path: Path) -> None:
    check_export(resized(PUBLISHED[name], 64), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_export_of_a_published_detector_holds_its_kernels(name: str, tmp_path: Path) -> None:
    check_export(PUBLISHED[name], tmp_path)


@pytest.mark.slow
def test_the_exports_of_random_detectors_of_every_space_hold_their_kernels(tmp_path: Path) -> None:
    for _, spec in random_detectors(SPACES, len(SPACES), seed=1, input_size=64):
        check_export(spec, tmp_path)
