"""The statistics of batch norm follow a training as fast as its recipe says, and nothing else depends on that."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detector.checkpoint import check_same_run, read_checkpoint
from detector.data.dataset import open_dataset
from detector.data.shapes import write_shapes
from detector.distributed import World
from detector.job import Job
from detector.model.inherit import estimate_statistics
from detector.model.net import DetectorNet
from detector.recipe import PRESETS, Recipe, override
from detector.step import set_statistics_momentum
from detector.train import LAST, train
from maenas.spec import SCHEMA, SpecFile
from tests.detector.conftest import TINY

ALONE = World(0, 1, torch.device("cpu"))
SETTINGS = (
    *("epochs=3", "warmup_epochs=0", "plain_epochs=0", "eval_every=3", "batch=4", "workers=0", "lr_per_image=0.001"),
    *("augment.mosaic_size=64", "ema_decay=0", "early_matches=1"),
)


@pytest.mark.usefixtures("quick")
def test_a_step_has_the_weight_of_the_recipe_in_the_statistics_and_none_in_the_training(tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes", images=20, size=64, seed=0)
    data = open_dataset(tmp_path / "shapes", "train"), open_dataset(tmp_path / "shapes", "val")
    states = {}
    for momentum in (0.03, 1.0):
        recipe = replace(override(Recipe(), SETTINGS), bn_momentum=momentum)
        job = Job(TINY, "tiny", *data, recipe, spec_file=SpecFile(SCHEMA, "tiny", TINY.id, TINY))
        train(job, ALONE, tmp_path / str(momentum))
        states[momentum] = read_checkpoint(tmp_path / str(momentum) / LAST).net
    slow, fast = states[0.03], states[1.0]
    learnt = [name for name, _ in DetectorNet(TINY).named_parameters()]
    assert all(torch.equal(slow[name], fast[name]) for name in learnt)
    means = [name for name in slow if name.endswith("running_mean")]
    assert not any(torch.equal(slow[name], fast[name]) for name in means)
    last = tmp_path / "1.0" / LAST
    stored = read_checkpoint(last)
    other = replace(stored.recipe, bn_momentum=0.1)  # so a run may go on with it
    check_same_run(stored, spec=TINY, recipe=other, data=stored.data, path=last)


def test_statistics_of_the_last_batch_alone_are_those_of_momentum_one() -> None:
    torch.manual_seed(0)
    batches = [torch.rand(2, 3, 64, 64) * 255 for _ in range(3)]
    one, two = DetectorNet(TINY), DetectorNet(TINY)
    two.load_state_dict(one.state_dict())
    set_statistics_momentum(one, 1.0)
    one.train()
    for images in batches:
        one(images)
    estimate_statistics(two, batches[-1:])
    for name, value in one.state_dict().items():
        if "running" in name:
            assert torch.allclose(value, two.state_dict()[name], atol=1e-5), name


def test_recipes_of_few_steps_follow_faster_than_the_published_one() -> None:
    assert PRESETS["damo"].bn_momentum == 0.03
    assert PRESETS["small-data"].bn_momentum == PRESETS["finetune"].bn_momentum == 0.1
