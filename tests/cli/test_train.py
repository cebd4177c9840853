"""`maenas train` and `maenas eval` through the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from maenas.spec import write_spec
from tests.conftest import Maenas

pytest.importorskip("torch")

from detector.data.shapes import write_shapes
from detector.recipe import PRESETS
from tests.detector.conftest import TINY, quick_training

SPEC = replace(TINY, head=replace(TINY.head, num_classes=80))
SHORT = ["--epochs", "1", "--batch", "4", "--device", "cpu"]
SHORT += ["--set", "plain_epochs=1", "--set", "warmup_epochs=0", "--set", "workers=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes in a folder whose name has a space and a letter outside ASCII."""
    folder = tmp_path_factory.mktemp("data") / "meine Wörter"
    write_shapes(folder, images=20, size=64, seed=0)
    return folder


def test_train_then_eval_then_finetune(maenas: Maenas, folder: Path, tmp_path: Path) -> None:
    write_spec(tmp_path / "tiny.json", SPEC, "tiny")
    trained = maenas("train", "tiny.json", "--data", folder, *SHORT)
    assert trained.code == 0, trained.err
    assert "tiny, 64x64, 4 classes (circle, square, triangle, cross)" in trained.out
    assert "recipe     small-data (chosen: 16 images of 4 classes, at most 5000 images)" in trained.out
    assert "wrote runs/tiny/weights.safetensors" in trained.out
    weights = tmp_path / "runs" / "tiny" / "weights.safetensors"

    for command in ("predict", "show", "compare"):  # a run's folder stands for its weights everywhere
        of_folder, of_file = maenas(command, "runs/tiny"), maenas(command, weights)
        assert (of_folder.code, of_folder.out) == (0, of_file.out), of_folder.err
        assert "tiny" in of_folder.out
    none = maenas("predict", "runs")
    assert (none.code, "there is no weights.safetensors in this folder" in none.err) == (2, True)

    evaluated = maenas("eval", weights, "--data", folder, "--device", "cpu", "--json", "--plots", "plots")
    assert evaluated.code == 0, evaluated.err
    document = json.loads(evaluated.out)
    assert (document["command"], document["images"]) == ("eval", 4)
    assert {"AP", "AP50", "AP75"} <= document["summary"].keys()
    assert {path.name for path in Path("plots").iterdir()} >= {"metrics.json", "confusion.png"}
    table = maenas("eval", weights, "--data", folder, "--device", "cpu", "--split", "train").out
    assert "16 images" in table
    assert "triangle" in table

    refused = maenas("eval", weights, "--data", folder, "--device", "cpu", "--conf", "2")
    assert (refused.code, "or equal to 1" in refused.err) == (2, True)

    repeated = maenas("train", "tiny.json", "--data", folder, *SHORT)
    assert (repeated.code, "add --resume" in repeated.err) == (2, True)
    resumed = maenas("train", "tiny.json", "--data", folder, *SHORT, "--resume")
    assert resumed.code == 0, resumed.err
    tuned = maenas(
        "train", "tiny.json", "--data", folder, *SHORT, "--finetune", weights, "--out", "tuned", "--teacher", weights
    )
    assert tuned.code == 0, tuned.err
    assert "all tensors fit" in tuned.out


def test_without_data_it_trains_on_the_shapes_as_the_demo_does(
    maenas: Maenas, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.data.dataset.cached_shapes", lambda: folder)
    write_spec(tmp_path / "tiny.json", SPEC, "tiny")
    with quick_training():
        trained = maenas("train", "tiny.json", *SHORT)
    assert trained.code == 0, trained.err
    assert "tiny, 192x192, 4 classes" in trained.out
    decays = [PRESETS[name].ema_decay for name in ("demo", "damo")]
    assert json.loads((tmp_path / "runs" / "tiny" / "recipe.json").read_text())["ema_decay"] == decays[0]
    with quick_training():
        trained = maenas("train", "tiny.json", *SHORT, "--recipe", "damo", "--input", "96", "--out", "own")
    assert "tiny, 96x96, 4 classes" in trained.out
    assert json.loads((tmp_path / "own" / "recipe.json").read_text())["ema_decay"] == decays[1] != decays[0]


def test_a_plan_is_printed_and_nothing_written(maenas: Maenas, folder: Path, tmp_path: Path) -> None:
    write_spec(tmp_path / "tiny.json", SPEC, "tiny")
    planned = maenas("train", "tiny.json", "--data", folder, *SHORT, "--plan", "--input", "96")
    assert planned.code == 0, planned.err
    assert "steps      4 in 1 epoch" in planned.out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.json"], "there is no such file"),
        (["tiny.json", "--recipe", "dmeo"], "did you mean demo?"),
        (["tiny.json", "--set", "epoch=3"], "--set epoch: unknown key; did you mean epochs?"),
        (["tiny.json", "--epochs", "0"], "or equal to 1"),
        (["tiny.json", "--data", "nowhere"], "nowhere: there is no such file or folder"),
        (["tiny.json", "--input", "100"], "input height is 100"),
        (["tiny.json", "--device", "tpu"], "choose auto, cpu, cuda"),
        (["tiny.json", "--finetune", "no.safetensors"], "no.safetensors"),
    ],
)
def test_a_mistake_ends_with_one_message(
    maenas: Maenas, folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_spec(tmp_path / "tiny.json", SPEC, "tiny")
    data = [] if "--data" in arguments else ["--data", str(folder)]
    failed = maenas("train", *arguments, *data)
    assert failed.code == 2
    assert message in failed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.safetensors", "--data", "shapes"], "no.safetensors"),
        (["no.safetensors", "--data", "shapes", "--split", "dev"], "'dev' is not one of"),
        (["no.safetensors", "--data", "shapes", "--batch", "0"], "or equal to 1"),
    ],
)
def test_eval_refuses_what_it_cannot_do(maenas: Maenas, arguments: list[str], message: str) -> None:
    failed = maenas("eval", *arguments)
    assert failed.code == 2
    assert message in failed.err
