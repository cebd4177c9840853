from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.distill import Distiller, cwd_loss, distill_weight, normalize

Arrays = Callable[[str], dict[str, np.ndarray]]
Weight = Callable[[str, tuple[int, ...], float], Tensor]

STUDENT, TEACHER = (8, 12, 16), (12, 16, 16)


def golden_distiller(kind: Any, golden_tensor: Weight) -> Distiller:
    distiller = Distiller(STUDENT, TEACHER, kind)
    published = {"align": "align_module", "generators": "generation"}
    with torch.no_grad():
        for name, parameter in distiller.named_parameters():
            module, _, rest = name.partition(".")
            parameter.copy_(golden_tensor(f"{published[module]}.{rest}", tuple(parameter.shape), 2.0))
    return distiller


def features(arrays: dict[str, np.ndarray], prefix: str) -> list[Tensor]:
    return [torch.from_numpy(arrays[f"{prefix}{level}"]) for level in range(3)]


@pytest.mark.parametrize("kind", ["cwd", "mimic", "mgd"])
def test_loss_and_gradients_are_the_published_ones(
    kind: Any,
    golden_arrays: Arrays,
    golden_tensor: Weight,
    shared_golden: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrays, published = golden_arrays("modules"), shared_golden("modules.json")[f"feature_{kind}"]
    draws = iter(features(arrays, "mgd_uniform_mask"))
    monkeypatch.setattr("detector.distill.draw_mask", lambda x, random: next(draws) <= 0.35)
    student = [x.requires_grad_() for x in features(arrays, "distill_s")]
    distiller = golden_distiller(kind, golden_tensor)
    loss = distiller(student, features(arrays, "distill_t"))
    loss.backward()
    assert loss.item() == pytest.approx(published["loss"], rel=1e-5)
    for x, expected in zip(student, features(arrays, f"{kind}_grad_s"), strict=True):
        torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-7)
    for level, align in enumerate(distiller.align):
        expected = published["grad_l2_align"][f"align_module.{level}.weight"]
        assert align.weight.grad.norm().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", [1, 2])
def test_bare_cwd_is_the_published_one(temperature: int, golden_arrays: Arrays, shared_golden: Any) -> None:
    arrays, published = golden_arrays("modules"), shared_golden("modules.json")
    pairs = zip(features(arrays, "raw_s"), features(arrays, "distill_t"), strict=True)
    losses = [cwd_loss(x, y, float(temperature)).item() for x, y in pairs]
    assert sum(losses) == pytest.approx(published[f"raw_cwd_tau{temperature}"], rel=1e-5)


def test_weight_is_the_published_one(shared_golden: Any) -> None:
    published = shared_golden("schedules.json")["distill_weight"]
    for step, weight in published["values"]:
        assert distill_weight(step, published["total_iters"]) == pytest.approx(weight, rel=1e-12)


def test_the_second_stage_is_without_a_teacher() -> None:
    weights = [distill_weight(step, 100, off_steps=16) for step in range(100)]
    assert weights[:84] == [distill_weight(step, 100) for step in range(84)]
    assert weights[84:] == [0.0] * 16


@pytest.mark.parametrize("kind", ["cwd", "mimic"])
def test_a_student_that_equals_its_teacher_loses_nothing(kind: Any) -> None:
    maps = [torch.rand(2, width, 6, 6) for width in (4, 8)]
    distiller = Distiller((4, 8), (4, 8), kind)
    for align in distiller.align:
        nn.init.dirac_(align.weight)
        nn.init.zeros_(align.bias)
    assert distiller(maps, maps).item() == pytest.approx(0, abs=1e-5)


def test_scale_and_offset_of_a_teachers_channel_do_not_matter() -> None:
    student, teacher = [torch.rand(2, 4, 6, 6)], torch.rand(2, 4, 6, 6)
    distiller = Distiller((4,), (4,))
    shifted = teacher * torch.tensor([2.0, 3.0, 4.0, 5.0])[:, None, None] - 7
    torch.testing.assert_close(distiller(student, [teacher]), distiller(student, [shifted]), rtol=1e-3, atol=1e-5)


def test_nothing_flows_to_the_teacher() -> None:
    teacher = torch.rand(2, 4, 6, 6, requires_grad=True)
    Distiller((4,), (4,))([torch.rand(2, 4, 6, 6)], [teacher]).backward()
    assert teacher.grad is None


def test_masks_follow_their_generator_and_keep_about_a_third() -> None:
    distiller = Distiller((4,), (4,), "mgd")
    maps = [torch.rand(2, 4, 32, 32)]
    first, again, other = (
        distiller(maps, maps, random=torch.Generator().manual_seed(seed)).item() for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("kind", ["cwd", "mgd", "mimic"])
def test_half_precision_features_give_a_float32_loss(kind: Any) -> None:
    distiller = Distiller((4,), (8,), kind)
    student, teacher = torch.rand(2, 4, 6, 6).bfloat16(), torch.rand(2, 8, 6, 6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = distiller([student], [teacher])
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_normalisation_keeps_no_state() -> None:
    assert [name for name, _ in Distiller((4,), (8,)).named_buffers()] == []
    x = normalize(torch.rand(4, 3, 8, 8) * 5 + 2)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
