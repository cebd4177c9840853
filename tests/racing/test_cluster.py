"""Races on a real Ray cluster of this machine; without one they are refused."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import maenas
from detector.trial import Progress
from maenas.api.race import run_race
from maenas.api.race_cluster import Share, cluster_runner, joined_cluster, slots
from maenas.api.race_setup import RaceRequest, prepare_race
from maenas.errors import MaenasError
from tests.racing.conftest import RECIPE, ROOT, same_result

MARKER = "killed"


def die_once(folder: Path, progress: Progress) -> None:
    """Kills the worker of b at the end of its first rung, before its checkpoint."""
    if progress.name == "b" and progress.epoch == 2 and not (folder / MARKER).exists():
        (folder / MARKER).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def quiet(folder: Path, progress: Progress) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two workers."""
    module = pytest.importorskip("ray")
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    module.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        _system_config={"worker_niceness": 0},  # Ray's 15 starves them on a busy machine
        runtime_env={"env_vars": environment},
    )
    yield module
    module.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_on_ray_with_a_killed_worker_the_result_is_the_same(
    ray: Any, place: Path, whole: maenas.RaceResult, tmp_path: Path
) -> None:
    files = tuple(str(place / f"{name}.json") for name in "abc")
    request = RaceRequest(data=str(place / "data"), candidates=files, recipe=RECIPE, rungs=2, train_on="cpu")
    setup = prepare_race(request, tmp_path / "race", resume=False)
    runner = cluster_runner(ray, Share(), die_once)
    found = run_race(setup, tmp_path / "race", runner, device="cpu")
    assert (tmp_path / "race" / MARKER).exists()
    same_result(whole, found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trial_that_no_node_can_hold_is_refused(ray: Any) -> None:
    assert slots(ray, Share()) == 2
    assert slots(ray, Share(cpus=0.5)) == 4
    with pytest.raises(MaenasError, match="wants 1 CPUs and 1 GPUs, but the cluster has 2 and 0"):
        slots(ray, Share(gpus=1))


def test_an_address_without_a_cluster_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nmore")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    told = r"--ray auto: there is no Ray cluster \(Could not find any running Ray instance\.\); start one"
    with pytest.raises(MaenasError, match=told), joined_cluster("auto"):
        pass
    with pytest.raises(MaenasError, match=r"--ray 127\.0\.0\.1:1: there is no Ray"), joined_cluster("127.0.0.1:1"):
        pass
    for wrong in ("here", "host:", "host:99999"):
        with pytest.raises(MaenasError, match="write auto, or the address of a cluster"), joined_cluster(wrong):
            pass


def test_without_the_package_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MaenasError, match=r"pip install 'maenas\[cluster\]'"), joined_cluster("auto"):
        pass
