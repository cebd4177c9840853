"""Recipes: published defaults, presets, files, and overrides that refuse what they do not know."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.data.settings import AugmentSettings
from detector.ema import ema_momentum
from detector.recipe import PRESETS, Distillation, Recipe, choose_recipe, load_recipe, override
from detector.step import Schedule, half_precision, least_matches
from maenas.errors import MaenasError
from maenas.strict import dump_json, parse_json, parse_yaml


def test_the_defaults_are_the_published_settings(shared_golden: Any) -> None:
    recipe, schedule = Recipe(), shared_golden("schedules.json")["settings"]
    optimizer = shared_golden("optimizer_groups.json")["T"]
    assert recipe.epochs == schedule["epochs"]
    assert recipe.lr_per_image * 256 == pytest.approx(schedule["base_lr"])
    assert recipe.min_lr_ratio == schedule["min_lr_ratio"]
    lengths = Schedule.of(recipe, schedule["iters_per_epoch"])
    assert (lengths.total, lengths.warmup, lengths.flat) == (
        schedule["total_iters"],
        schedule["warmup_iters"],
        schedule["no_aug_iters"],
    )
    assert (recipe.optimizer, recipe.momentum) == ("sgd", optimizer["defaults"]["momentum"])
    assert [recipe.weight_decay] == optimizer["decay_value"]
    assert ema_momentum(10**9, momentum=recipe.ema_decay, ramp_steps=recipe.ema_ramp_steps) == 0.9998


def test_the_nano_preset_has_the_published_optimizer(shared_golden: Any) -> None:
    recipe, published = PRESETS["nano"], shared_golden("optimizer_groups.json")["Ns"]
    assert recipe.optimizer == published["optimizer"].lower()
    assert recipe.lr_per_image * 256 == pytest.approx(published["defaults"]["lr"])
    assert [recipe.weight_decay] == published["decay_value"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(dump_json(PRESETS[name]), encoding="utf-8")
    assert load_recipe(str(path)) == load_recipe(name) == PRESETS[name]


def test_a_file_replaces_the_keys_it_names(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("epochs: 30\nlr_per_image: 1e-3\naugment: {shear: 0.2}\n", encoding="utf-8")
    expected = replace(Recipe(), epochs=30, lr_per_image=1e-3, augment=replace(AugmentSettings(), shear=0.2))
    assert load_recipe(str(path)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "recipe.yaml:1: epoch: unknown key; did you mean epochs?"),
        ("seed: 1\naugment:\n  sheer: 1", "recipe.yaml:3: augment.sheer: unknown key; did you mean shear?"),
        ("epochs: 1.5", "epochs: must be a valid integer"),
        ("epochs: 0", "epochs is 0; it must be 1 to"),
        ("amp: half", "amp: must be 'auto', 'none', 'bf16' or 'fp16'"),
        ("epochs: 10", "plain_epochs is 16, more than the 10 epochs"),
        ("multi_scale: [600]", "multi_scale has 600"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_line_and_key(text: str, message: str) -> None:
    with pytest.raises(MaenasError) as caught:
        parse_yaml(text, Recipe, where="recipe.yaml")
    assert message in str(caught.value)


def test_overrides_reach_every_level_and_are_checked_together() -> None:
    texts = [
        "epochs=10",
        "plain_epochs=2",
        "batch=auto",
        "amp=bf16",
        "augment.mosaic_scale=[0.5, 1.5]",
        "clip_norm=null",
    ]
    recipe = override(PRESETS["finetune"], [*texts, "distill.kind=mgd", "lr_per_image=1e-4"])
    assert (recipe.epochs, recipe.plain_epochs, recipe.batch, recipe.amp) == (10, 2, "auto", "bf16")
    assert recipe.augment.mosaic_scale == (0.5, 1.5)
    assert (recipe.clip_norm, recipe.distill.kind, recipe.lr_per_image) == (None, "mgd", 1e-4)
    assert recipe.ema_ramp_steps == PRESETS["finetune"].ema_ramp_steps


@pytest.mark.parametrize("name", PRESETS)
def test_the_only_epoch_has_the_full_rate_and_its_teacher(name: str) -> None:
    recipe = override(PRESETS[name], ["epochs=1"])
    schedule = Schedule.of(recipe, batches_per_epoch=100)
    assert (schedule.flat, schedule.distill_off) == (0, 0)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("epochs", [1, 3, 60, 1000])
def test_warm_up_and_plain_epochs_follow_the_epochs_that_are_asked_for(name: str, epochs: int) -> None:
    preset = PRESETS[name]
    recipe = override(preset, [f"epochs={epochs}"])
    assert recipe.warmup_epochs / epochs == pytest.approx(preset.warmup_epochs / preset.epochs)
    assert abs(recipe.plain_epochs - preset.plain_epochs * epochs / preset.epochs) <= 1
    assert recipe.plain_epochs >= min(1, preset.plain_epochs, epochs - 1)
    assert override(preset, ["plain_epochs=1", f"epochs={epochs}"]) == replace(recipe, plain_epochs=1)
    assert override(preset, [f"epochs={preset.epochs}"]) == preset


@pytest.mark.parametrize(
    ("situation", "name"),
    [
        ({"shapes": True}, "demo"),
        ({"start": True}, "finetune"),
        ({"start": True, "device": "cpu"}, "finetune"),
        ({"start": True, "images": 205, "classes": 3}, "small-data"),
        ({"images": 205, "classes": 3}, "small-data"),
        ({"images": 118_000, "classes": 80}, "damo"),
        ({"images": 118_000, "classes": 80, "depthwise": True}, "nano"),
        ({"images": 118_000, "classes": 80, "device": "cpu"}, "small-data"),
    ],
)
def test_auto_chooses_by_data_weights_and_device(situation: dict[str, Any], name: str) -> None:
    usual = {"images": 118_000, "classes": 80, "device": "cuda", "start": False, "shapes": False, "depthwise": False}
    choice = choose_recipe(**(usual | situation))
    assert choice.name == name
    assert choice.why


def test_boxes_are_given_several_priors_until_the_middle_of_the_run() -> None:
    assert [least_matches(step, 100, 10) for step in (0, 25, 50, 99)] == [10, 5, 1, 1]
    assert {least_matches(step, 100, 1) for step in range(100)} == {1}


def test_mixed_precision_is_chosen_for_the_device() -> None:
    cpu = torch.device("cpu")
    assert [half_precision(amp, cpu) for amp in ("auto", "none", "bf16", "fp16")] == [
        None,
        None,
        torch.bfloat16,
        torch.float16,
    ]


@pytest.mark.parametrize(("bf16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bf16_gets_fp16(bf16: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert half_precision("auto", torch.device("cuda")) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch=3", "--set epoch: unknown key; did you mean epochs?"),
        ("augment.mosaic_prop=0", "--set augment.mosaic_prop: unknown key; did you mean mosaic_prob?"),
        ("distil.kind=cwd", "groups are augment, distill"),
        ("epochs.x=3", "groups are augment, distill"),
        ("epochs", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("epochs=three", "--set epochs: must be a valid integer"),
        ("seed=NaN", "NaN"),
        ("workers=-1", "workers is -1"),
    ],
)
def test_a_wrong_override_is_refused_with_the_nearest_key(text: str, message: str) -> None:
    with pytest.raises(MaenasError) as caught:
        override(Recipe(), [text])
    assert message in str(caught.value)


def test_an_unknown_recipe_names_the_nearest_preset() -> None:
    with pytest.raises(MaenasError, match="did you mean demo"):
        load_recipe("dmeo")
    with pytest.raises(MaenasError, match="there is no such file"):
        load_recipe("nothing.yaml")


@given(st.sampled_from([field.name for field in fields(Recipe)]), st.text(max_size=12))
def test_any_override_gives_a_recipe_or_one_message(key: str, value: str) -> None:
    try:
        recipe = override(Recipe(), [f"{key}={value}"])
    except MaenasError:
        return
    assert parse_json(dump_json(recipe), Recipe, where="recipe") == recipe


def test_every_group_of_keys_is_a_dataclass_of_its_own() -> None:
    groups = {name for name, value in asdict(Recipe()).items() if isinstance(value, dict)}
    assert groups == {"augment", "distill"}
    assert Recipe().distill == Distillation()
