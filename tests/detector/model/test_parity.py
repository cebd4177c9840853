"""The network computes what the released implementation computes, from the same named tensors."""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.boxes import decode_boxes, make_priors
from detector.model.deploy import deploy
from detector.model.net import DetectorNet, RawPredictions
from detector.model.published import BINS, published_names
from maenas.spec import DetectorSpec, published_specs
from tests.conftest import FILES

SPECS = {model: published_specs()[file] for model, file in FILES.items()}
FORWARD = ("T", "M", "Ns")  # the models with golden outputs
GoldenTensor = Callable[[str, tuple[int, ...], float], Tensor]  # released name, shape, gain

# The released implementation itself, in float32 against float64, is within 5e-6 and 5e-4 px.
SCORES = 1e-5
PIXELS = 1e-3
OF_STD = 1e-4  # for features, in units of their standard deviation


# The recipe of the golden weights -------------------------------------------------------------------------------------


def golden_state(spec: DetectorSpec, gain: float, tensor: GoldenTensor) -> dict[str, Tensor]:
    """A released state dict with the weights of the recipe."""
    with torch.device("meta"):
        own = DetectorNet(spec).state_dict()
    state = {BINS: torch.arange(spec.head.reg_max + 1, dtype=torch.float32)}
    for name, released in published_names(spec).items():
        counter = name.endswith("num_batches_tracked")
        state[released] = torch.tensor(0) if counter else tensor(released, tuple(own[name].shape), gain)
    return state


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted names and the bytes of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith("num_batches_tracked"):
            digest.update(name.encode())
            digest.update(state[name].numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def golden_net(spec: DetectorSpec, gain: float, tensor: GoldenTensor) -> DetectorNet:
    released = golden_state(spec, gain, tensor)
    net = DetectorNet(spec)
    net.load_state_dict({name: released[theirs] for name, theirs in published_names(spec).items()})
    return net.eval()


def golden_image() -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).random((1, 3, 256, 256)).astype(np.float32))


def outputs(modules: Mapping[str, nn.Module], net: nn.Module, image: Tensor) -> tuple[dict[str, Tensor], Any]:
    """What `modules` return while `net` sees `image`, and what `net` returns."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name, module in modules.items()
    ]
    with torch.inference_mode():
        result = net(image)
    for hook in hooks:
        hook.remove()
    return seen, result


def assert_close_to(found: Tensor, expected: dict[str, Any], *, atol: float) -> None:
    """`found` has the golden tensor's shape, mean, standard deviation and samples."""
    assert list(found.shape) == expected["shape"]
    values = found.double().flatten()
    indices = np.linspace(0, len(values) - 1, 64).astype(np.int64)[::4]
    assert values.mean().item() == pytest.approx(expected["mean"], abs=atol)
    assert values.std(correction=0).item() == pytest.approx(expected["std"], abs=atol)
    np.testing.assert_allclose(values[indices].numpy(), expected["samples"], rtol=0, atol=atol)


# Outputs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FORWARD)
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def expected(model: str, golden: Any) -> dict[str, Any]:
    return golden("detector.json")["forward"][model]


@pytest.fixture(scope="module")
def net(model: str, expected: dict[str, Any], golden_tensor: GoldenTensor) -> DetectorNet:
    return golden_net(SPECS[model], expected["gain"], golden_tensor)


def test_the_released_names_and_shapes_are_those_of_the_golden_weights(
    model: str, expected: dict[str, Any], golden_tensor: GoldenTensor
) -> None:
    assert fingerprint(golden_state(SPECS[model], expected["gain"], golden_tensor)) == expected["fill_sha256"]


@pytest.mark.parametrize("form", ["training", "deployed"])
def test_every_stage_and_neck_output_equals_the_released_one(net: DetectorNet, expected: Any, form: str) -> None:
    network = net if form == "training" else deploy(net)
    modules = dict(network.backbone.named_children())
    seen, _ = outputs({**modules, "neck": network.neck}, network, golden_image())
    assert len(modules) == len(expected["stages"])
    for name, stage in zip(modules, expected["stages"], strict=True):
        assert_close_to(seen[name], stage, atol=OF_STD * stage["std"])
    for feature, level in zip(seen["neck"], expected["neck"], strict=True):
        assert_close_to(feature, level, atol=OF_STD * level["std"])


def test_raw_predictions_scores_and_boxes_equal_the_released_ones(net: DetectorNet, expected: Any) -> None:
    with torch.inference_mode():
        raw = net(golden_image())
    starts = np.cumsum([0, *(shape[2] * shape[3] for shape in (level["shape"] for level in expected["bins"]))])
    for found, name in ((raw.logits, "logits"), (raw.bins, "bins")):
        for level, (start, end) in zip(expected[name], itertools.pairwise(starts), strict=True):
            as_map = found[:, start:end].transpose(1, 2).reshape(level["shape"])
            assert_close_to(as_map, level, atol=OF_STD * level["std"])
    reg_max = net.spec.head.reg_max
    assert_close_to(raw.logits.sigmoid(), expected["scores"], atol=SCORES)
    assert_close_to(decode_boxes(raw.bins, make_priors(256, 256), reg_max), expected["boxes"], atol=PIXELS)


def test_the_deployed_form_gives_the_released_scores_and_boxes(net: DetectorNet, expected: Any) -> None:
    scores, boxes = deploy(net)(golden_image())
    assert_close_to(scores, expected["scores"], atol=SCORES)
    assert_close_to(boxes, expected["boxes"], atol=PIXELS)


def assert_equal_to_arrays(network: nn.Module, arrays: Mapping[str, np.ndarray], scores: float, pixels: float) -> None:
    image = golden_image().to(next(network.parameters()).dtype)
    with torch.inference_mode():
        found = network(image)
        if isinstance(found, RawPredictions):
            found = found.logits.sigmoid(), decode_boxes(found.bins, make_priors(256, 256), network.spec.head.reg_max)
    np.testing.assert_allclose(found[0].numpy(), arrays["cls"], rtol=0, atol=scores)
    np.testing.assert_allclose(found[1].numpy(), arrays["boxes"], rtol=0, atol=pixels)


def test_every_score_and_box_of_both_forms_equals_the_released_one(
    net: DetectorNet, model: str, golden_arrays: Any
) -> None:
    arrays = golden_arrays(f"forward_unit_{model}")
    assert_equal_to_arrays(net, arrays, SCORES, PIXELS)
    assert_equal_to_arrays(deploy(net), arrays, SCORES, PIXELS)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["T", "M"])
def test_exploding_activations_change_scores_and_boxes_by_the_reference_rounding_only(
    model: str, shared_golden: Any, golden_arrays: Any, golden_tensor: GoldenTensor
) -> None:
    """Ours in float64, which no processor rounds visibly; the released T in float32 is itself 0.11 pixels off that."""
    gain = shared_golden(f"forward_he_{model}.json")["gain"]
    arrays, net = golden_arrays(f"forward_he_{model}"), golden_net(SPECS[model], gain, golden_tensor).double()
    assert_equal_to_arrays(net, arrays, 1e-3, 0.12)
    assert_equal_to_arrays(deploy(net), arrays, 1e-3, 0.12)


def test_the_released_names_and_shapes_are_those_of_the_released_files(
    model: str, shared_golden: Any, golden_tensor: GoldenTensor
) -> None:
    own = golden_state(SPECS[model], 1.0, golden_tensor)
    assert {name: list(tensor.shape) for name, tensor in own.items()} == dict(shared_golden(f"state_dict_{model}.json"))


def test_the_golden_outputs_kept_here_are_those_of_the_whole_set(model: str, expected: Any, shared_golden: Any) -> None:
    whole = shared_golden(f"forward_unit_{model}.json")
    assert expected["fill_sha256"] == whole["fill_sha256"]
    kept = [*expected["stages"], *expected["neck"], expected["boxes"]]
    for tensor, source in zip(kept, [*whole["backbone_all_stages"], *whole["neck_out"], whole["boxes"]], strict=True):
        assert tensor["shape"] == source["shape"]
        np.testing.assert_allclose(tensor["samples"], source["sample64"][::4], rtol=1e-8)


# Counts ---------------------------------------------------------------------------------------------------------------


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv_macs(net: nn.Module, side: int) -> int:
    """Multiply-adds of the convolutions, counted as they run."""
    counts: list[int] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, _, out: counts.append(out.numel() * conv.weight[0].numel()))
    net(torch.empty(1, 3, side, side, device="meta"))
    return sum(counts)


@pytest.mark.parametrize("name", FILES)
def test_both_forms_have_the_parameters_and_operations_of_the_released_ones(name: str, golden: Any) -> None:
    training = golden("detector.json")["training_form"][name]
    deployed = golden("zoo.json")["models"][name]
    with torch.device("meta"):
        net = DetectorNet(SPECS[name]).eval()
    fused = deploy(net)
    assert parameters(net) == training["params"]
    assert parameters(fused) == deployed["params"]
    for part in ("backbone", "neck", "head"):
        assert parameters(getattr(fused, part)) == deployed[f"{part}_params"]
    assert len(net.state_dict()) + 1 == training["state_dict_entries"]  # the released files also hold 0..reg_max
    assert conv_macs(net, 640) == training["conv_macs_at_640"]
    assert conv_macs(fused, 640) == deployed["conv_macs_at_640"]
