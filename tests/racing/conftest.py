"""A small race that nothing has interrupted, and what it is made of."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import maenas
from detector import trial as module
from detector.data.shapes import write_shapes
from detector.recipe import Recipe, override
from maenas.spec import write_spec
from tests.detector.conftest import TINY, TINY_STAGES, quick_training

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    *("epochs=4", "warmup_epochs=1", "plain_epochs=1", "batch=4", "workers=0", "clip_norm=10", "ema_decay=0.9"),
    *("lr_per_image=0.001", "ema_ramp_steps=10", "augment.mosaic_size=64", "checkpoint_minutes=0"),
]
RECIPE = override(Recipe(), SETTINGS)
WIDTHS = {"a": 16, "b": 24, "c": 32}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and the candidates a, b and c."""
    folder = tmp_path_factory.mktemp("race")
    write_shapes(folder / "data", images=20, size=64, seed=0)
    for name, width in WIDTHS.items():
        stages = (*TINY_STAGES[:-1], replace(TINY_STAGES[-1], out_channels=width))
        write_spec(folder / f"{name}.json", replace(TINY, backbone=replace(TINY.backbone, stages=stages)), name)
    return folder


@contextmanager
def quick_racing() -> Iterator[None]:
    """No trackers, and as `quick_training` says."""
    with quick_training(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "is_installed", lambda name: False)
        yield


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with quick_racing():
        yield


def race(place: Path, out: Path, names: Sequence[str] = ("a", "b", "c"), **options: Any) -> maenas.RaceResult:
    files = [place / f"{name}.json" for name in names]
    given = {"recipe": RECIPE, "rungs": 2, "train_on": "cpu", **options}
    return maenas.race(files, data=place / "data", out=out, **given)


@pytest.fixture(scope="module")
def whole(place: Path) -> maenas.RaceResult:
    """A race that nothing has interrupted."""
    with quick_racing():
        return race(place, place / "whole")


def same_result(one: maenas.RaceResult, two: maenas.RaceResult) -> None:
    """Scores, verdict and the winner's weights, byte for byte."""
    assert {(s.name, s.epoch, s.ap) for s in one.race.scores} == {(s.name, s.epoch, s.ap) for s in two.race.scores}
    assert one.result == two.result
    assert one.weights.read_bytes() == two.weights.read_bytes()
