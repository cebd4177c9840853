"""Several processes on the CPU: one run of all together, whatever images each of them gets."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import start_processes

from detector import distributed
from detector import train as module
from detector.checkpoint import read_checkpoint
from detector.data.dataset import open_dataset
from detector.data.sample import Dataset
from detector.data.shapes import write_shapes
from detector.device import choose_device
from detector.distributed import any_process, from_main, gather_rows, join_world, same_as_main, sync_batch_norm
from detector.guard import LossReader
from detector.job import Job
from detector.model.net import DetectorNet
from detector.model.weights import Weights, read_weights
from detector.recipe import Recipe, override
from detector.step import Parts, shares_statistics
from detector.train import LAST, train
from maenas.errors import MaenasError, SharedError
from maenas.run_files import WEIGHTS_FILE
from maenas.spec import write_spec
from maenas.strict import dump_json
from tests.detector.conftest import TINY

SPEC = TINY
RECIPE = override(
    Recipe(),
    [
        *("epochs=1", "warmup_epochs=0", "plain_epochs=0", "batch=16", "workers=0"),
        *("lr_per_image=0.001", "augment.mosaic_size=64"),
    ],
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def enter(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    work(*arguments)


def run(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """`work(*arguments)` in `size` processes, as torchrun would start them."""
    start_processes(enter, (size, free_port(), work, arguments), nprocs=size, start_method="fork")


def sure_weights(names: tuple[str, ...]) -> Weights:
    """Random weights whose scores are about a half."""
    torch.manual_seed(3)
    state = DetectorNet(SPEC).state_dict()
    for level in range(3):
        state[f"head.cls{level}.bias"].zero_()
    return Weights(SPEC, names, state, {})


def train_shapes(folder: Path, out: Path) -> None:
    with join_world("cpu") as world:
        data = open_dataset(folder, "train")
        job = Job(SPEC, "tiny", data, open_dataset(folder, "val"), RECIPE, start=sure_weights(data.names))
        train(job, world, out)


@pytest.mark.usefixtures("quick")
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """One step; the order of the images alone moves gradients by 0.3 % (median), those of some BN biases by 3 %."""
    folder = tmp_path / "shapes"
    write_shapes(folder, images=20, size=64, seed=0)
    run(1, train_shapes, folder, tmp_path / "one")
    run(2, train_shapes, folder, tmp_path / "two")
    start = sure_weights(("",) * 4).state
    one, two = (read_weights(tmp_path / name / "weights.safetensors").state for name in ("one", "two"))
    losses = [np.genfromtxt(tmp_path / name / "steps.csv", delimiter=",", names=True) for name in ("one", "two")]
    for name in ("total", "cls", "box", "dfl"):
        np.testing.assert_allclose(losses[1][name], losses[0][name], rtol=1e-5)
    moves = {name: float((one[name] - start[name]).norm()) for name in one if one[name].is_floating_point()}
    apart = [float((one[name] - two[name]).norm()) / move for name, move in moves.items() if move]
    assert max(apart) < 0.1
    assert np.median(apart) < 0.01


def train_one_sided(folder: Path, out: Path) -> None:
    """Rank 1 gets images without boxes only."""
    with join_world("cpu") as world:
        whole = open_dataset(folder, "train")
        none = np.zeros((0, 4), np.float32)
        empty = [replace(s, boxes=none, labels=np.zeros(0, np.int64), areas=none[:, 0]) for s in whole.samples]
        samples = tuple(empty) if world.rank else whole.samples
        plain = override(RECIPE, ["epochs=2", "batch=4", "augment.mosaic_prob=0"])
        train(Job(SPEC, "tiny", Dataset(whole.names, samples), None, plain), world, out)


def test_a_process_whose_images_are_all_empty_does_not_hang(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    write_shapes(folder, images=20, size=64, seed=0)
    run(2, train_one_sided, folder, tmp_path / "out")
    state = read_weights(tmp_path / "out" / "weights.safetensors").state
    assert all(tensor.isfinite().all() for tensor in state.values())


def compare_batch_norm(out: Path) -> None:
    """Each rank normalises half of a batch; the whole of it, normalised by the usual layer, is the reference."""
    with join_world("cpu") as world:
        torch.manual_seed(0)
        whole = torch.randn(4, 3, 5, 5, requires_grad=True)
        target = torch.randn(4, 3, 5, 5)
        layer = nn.BatchNorm2d(3, eps=1e-3, momentum=0.03)
        nn.init.uniform_(layer.weight)
        plain = nn.Sequential(layer)
        synced = nn.Sequential(nn.BatchNorm2d(3, eps=1e-3, momentum=0.03))
        synced.load_state_dict(plain.state_dict())
        sync_batch_norm(synced, world.device)
        expected = plain(whole)
        (expected * target).sum().backward()
        half = slice(2 * world.rank, 2 * world.rank + 2)
        part = whole.detach()[half].requires_grad_()
        result = synced(part)
        (result * target[half]).sum().backward()
        torch.testing.assert_close(result, expected[half])
        torch.testing.assert_close(part.grad, whole.grad[half])  # type: ignore[index]
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(synced.state_dict()[name], tensor)
        rows = gather_rows(torch.full((world.rank + 1, 2), float(world.rank)))
        assert rows[:, 0].tolist() == [0.0, 1.0, 1.0]
        mean, seen = torch.full((2,), float(world.rank)), torch.tensor(world.rank)
        same_as_main([mean, seen])
        assert (mean.tolist(), seen.item()) == ([0.0, 0.0], 0)
        assert from_main(world, lambda: b"read once") == b"read once"
        assert any_process(world.rank == 1, False, world.rank == 0) == (True, False, True)
        with pytest.raises(MaenasError, match="of the main one") as told:
            from_main(world, refuse)
        assert isinstance(told.value, SharedError) == (world.rank == 1)
        (out / f"{world.rank}").touch()


def refuse() -> bytes:
    raise MaenasError("an error of the main one")


def test_small_batches_share_their_statistics() -> None:
    auto = Recipe()
    assert [shares_statistics(auto, images) for images in (1, 15, 16, 64)] == [True, True, False, False]
    for chosen in (True, False):
        assert shares_statistics(replace(auto, sync_bn=chosen), 64) == chosen


def test_statistics_and_rows_are_shared_by_the_processes(tmp_path: Path) -> None:
    run(2, compare_batch_norm, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(MaenasError, match="choose auto, cpu, cuda"):
        choose_device("gpu")
    with pytest.raises(MaenasError, match="choose auto, cpu, cuda"):
        choose_device("cuda:first")
    if not torch.cuda.is_available():
        with pytest.raises(MaenasError, match="PyTorch finds 0 CUDA devices; choose cpu"):
            choose_device("cuda")


def test_one_process_has_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert not torch.distributed.is_initialized()


def test_processes_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for name, kind in (("auto", "mps"), ("mps", "mps"), ("cuda:0", "cuda:0"), ("0", "cuda:0")):
        monkeypatch.setattr(distributed, "choose_device", lambda name, local_rank, kind=kind: torch.device(kind))
        with pytest.raises(MaenasError, match=f"2 processes cannot all train on {kind}"), join_world(name):
            pass


def diverge(folder: Path, out: Path) -> None:
    def stepped(parts: Parts, batches: Any, step: int) -> torch.Tensor:
        return torch.full((5,), float("nan") if step == 2 else 1.0)

    with join_world("cpu") as world, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train_step", stepped)
        with pytest.raises(MaenasError, match=r"step 3: the loss .* is not finite") as caught:
            train(small_job(folder), world, out)
        assert isinstance(caught.value, SharedError) == (world.rank > 0)  # one message


@pytest.mark.usefixtures("quick")
def test_a_loss_that_is_not_finite_ends_all_processes_with_their_batches(shapes: Path, tmp_path: Path) -> None:
    run(2, diverge, shapes, tmp_path)
    assert {path.name for path in tmp_path.glob("bad_batch*")} == {"bad_batch_0.safetensors", "bad_batch_1.safetensors"}


def count_waits(folder: Path, out: Path) -> None:
    """Stores how often a process has waited for all losses, in a run that saves at every other step or so."""
    waits = 0
    original = LossReader.arrived

    def arrived(reader: LossReader, *, everything: bool = False) -> Any:
        nonlocal waits
        waits += everything
        return original(reader, everything=everything)

    with join_world("cpu") as world, pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossReader, "arrived", arrived)
        job = small_job(folder)
        train(replace(job, val=None, recipe=override(job.recipe, ["checkpoint_minutes=0.003"])), world, out)
        (out / f"waits{world.rank}").write_text(str(waits))


@pytest.mark.usefixtures("quick")
def test_all_processes_wait_for_a_checkpoint_and_none_after_it(shapes: Path, tmp_path: Path) -> None:
    run(2, count_waits, shapes, tmp_path)
    assert (tmp_path / "waits0").read_text() == (tmp_path / "waits1").read_text()


# Stopped and resumed -------------------------------------------------------------------------------------------------

SEVERAL = override(RECIPE, ["epochs=3", "batch=4", "eval_every=2"])


def small_job(folder: Path) -> Job:
    data = open_dataset(folder, "train")
    return Job(SPEC, "tiny", data, open_dataset(folder, "val"), SEVERAL, start=sure_weights(data.names))


def train_several(folder: Path, out: Path, *, stop: int | None = None, resume: bool = False) -> None:
    """A run; with `stop` a SIGTERM reaches the last process, and only that one, during this step."""
    original = module.train_step

    def stepped(parts: Parts, batches: Any, step: int) -> torch.Tensor:
        if step == stop and parts.world.rank == parts.world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(parts, batches, step)

    with join_world("cpu") as world, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train_step", stepped)
        if stop is None:
            train(small_job(folder), world, out, resume=resume)
            return
        with pytest.raises(MaenasError, match=f"interrupted after step {stop + 1}; .* --resume") as caught:
            train(small_job(folder), world, out, resume=resume)
        assert isinstance(caught.value, SharedError) == (world.rank > 0)  # one message


def stop_several(folder: Path, out: Path) -> None:
    train_several(folder, out, stop=5)


def resume_several(folder: Path, out: Path) -> None:
    train_several(folder, out, resume=True)


def refuse_several(folder: Path, out: Path) -> None:
    with (
        join_world("cpu") as world,
        pytest.raises(MaenasError, match="4 images a step, which 3 processes cannot share"),
    ):
        train(small_job(folder), world, out, resume=True)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "shapes"
    write_shapes(folder, images=20, size=64, seed=0)
    return folder


@pytest.fixture(scope="module")
def whole_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run(2, train_several, shapes, out)
    return out


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_two_processes_stopped_by_a_signal_to_one_end_as_uninterrupted_ones(
    shapes: Path, whole_run: Path, tmp_path: Path
) -> None:
    run(2, stop_several, shapes, tmp_path)
    assert read_checkpoint(tmp_path / LAST).step == 6
    run(2, resume_several, shapes, tmp_path)
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == (whole_run / WEIGHTS_FILE).read_bytes()
    states = [read_checkpoint(out / LAST) for out in (tmp_path, whole_run)]
    for name in ("net", "average"):
        one, two = (getattr(state, name) for state in states)
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_that_shares_its_batch(shapes: Path, tmp_path: Path) -> None:
    """The next step of two processes is that of the one which began; three cannot share it, and nothing is lost."""
    run(1, stop_several, shapes, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    before = (tmp_path / "two" / LAST).read_bytes()
    run(3, refuse_several, shapes, tmp_path / "two")
    assert (tmp_path / "two" / LAST).read_bytes() == before
    run(1, resume_several, shapes, tmp_path / "one")
    run(2, resume_several, shapes, tmp_path / "two")
    losses = [np.genfromtxt(tmp_path / name / "steps.csv", delimiter=",", names=True) for name in ("one", "two")]
    assert losses[1]["step"].tolist() == list(range(1, 13))
    for name in ("total", "cls", "box", "dfl"):
        np.testing.assert_allclose(losses[1][name][6], losses[0][name][6], rtol=1e-4)


@pytest.mark.slow
def test_torchrun_starts_a_run_again_from_its_last_checkpoint(shapes: Path, tmp_path: Path) -> None:
    """Without --resume: the first start has seen that the folder was free."""
    out = tmp_path / "run"
    recipe = override(SEVERAL, ["epochs=12", "eval_every=12", "checkpoint_minutes=0"])
    write_spec(tmp_path / "tiny.json", SPEC, "tiny")
    (tmp_path / "recipe.json").write_text(dump_json(recipe), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = ["-m", "maenas", "train", str(tmp_path / "tiny.json"), "--data", str(shapes), "--device", "cpu"]
    options = ["--recipe", str(tmp_path / "recipe.json"), "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    with subprocess.Popen(
        [*torchrun, "--max-restarts", "1", *train, *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            while process.poll() is None and not (out / LAST).exists():
                time.sleep(0.02)
            victim = max(
                int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            )
            os.kill(victim, signal.SIGKILL)
            killed_at = read_checkpoint(out / LAST).step
            text = process.stderr.read()
            assert process.wait(timeout=300) == 0, text[-3000:]
        finally:
            process.kill()
    assert 0 < killed_at < 48
    assert read_checkpoint(out / LAST).step == 48
    steps = np.genfromtxt(out / "steps.csv", delimiter=",", names=True)["step"]
    assert steps.tolist() == list(range(1, 49))
