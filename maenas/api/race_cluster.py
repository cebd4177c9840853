"""The trials of a race as tasks of a Ray cluster: its scheduler, its retries, its logs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from detector.device import training_devices
from detector.trial import Progress, Trial, TrialEnd, run_trial
from maenas.api.race_workers import Runner, local_runner
from maenas.errors import MaenasError
from maenas.files import reason
from maenas.unused import refuse_unused

CONNECT_S: Final = 10.0
PATIENCE_S: Final = 60.0  # with trials that are told to end
RETRIES: Final = 3  # of a trial whose worker or node died, from its last checkpoint


@dataclass(frozen=True)
class Share:
    """What one trial takes of the cluster; parts of a GPU let small networks share one. None: a GPU where there are."""

    cpus: float = 1.0
    gpus: float | None = None


@contextmanager
def joined_cluster(address: str) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address` ("auto": the one of this machine) until the block ends.

    Raises `MaenasError` where Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # read at import; lines of progress are alike, and all wanted
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError:
        raise MaenasError("--ray needs the package ray: pip install 'maenas[cluster]'") from None
    if ray.is_initialized():  # by whoever calls us
        yield ray
        return
    _require_answer(address)
    try:
        ray.init(address=address, logging_level="warning")
    except (OSError, RuntimeError, ValueError, AssertionError) as error:  # what it raises for an address varies
        why = (str(error).splitlines() or ["no answer"])[0]
        raise MaenasError(
            f"--ray {address}: there is no Ray cluster ({why:.200}); start one with `ray start --head`"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise `MaenasError` unless something listens at "HOST:PORT"; Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise MaenasError(f"--ray is {address!r}; write auto, or the address of a cluster as HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise MaenasError(
            f"--ray {address}: there is no Ray cluster ({reason(error)}); is the address right?"
        ) from error


def slots(ray: Any, share: Share) -> int:
    """How many trials the cluster can run at once; raises `MaenasError` where not even one."""
    there = ray.cluster_resources()
    gpus = _gpus(ray, share)
    fits = [there.get("CPU", 0.0) / share.cpus] if share.cpus else []
    fits += [there.get("GPU", 0.0) / gpus] if gpus else []
    count = int(min(fits, default=1) + 1e-9)
    if count < 1:
        raise MaenasError(
            f"a trial wants {share.cpus:g} CPUs and {gpus:g} GPUs, but the cluster has {there.get('CPU', 0):g} and "
            f"{there.get('GPU', 0):g}; change --ray-cpus or --ray-gpus"
        )
    return count


def _gpus(ray: Any, share: Share) -> float:
    if share.gpus is not None:
        return share.gpus
    return 1.0 if ray.cluster_resources().get("GPU", 0.0) >= 1 else 0.0


def cluster_runner(ray: Any, share: Share, say: Callable[[Path, Progress], object]) -> Runner:
    """Runs trials on the cluster, which sees the race's folder and the data at the same paths.

    `say` is a function of a module, called where a trial runs; Ray brings what it prints here.
    """

    def run(trials: Sequence[Trial], folder: Path) -> Generator[tuple[Trial, TrialEnd], None, None]:
        task = ray.remote(num_cpus=share.cpus, num_gpus=_gpus(ray, share), max_retries=RETRIES)(_remote_trial)
        waiting = {task.remote(replace(trial, device="auto"), folder, say): trial for trial in trials}
        try:
            while waiting:
                ended, _ = ray.wait(list(waiting), num_returns=1)
                trial = waiting.pop(ended[0])
                yield trial, _end(ray, ended[0])
        finally:
            for reference in waiting:
                ray.cancel(reference, force=False, recursive=False)
            if waiting:  # they keep a checkpoint before they end
                ray.wait(list(waiting), num_returns=len(waiting), timeout=PATIENCE_S)

    return run


def _remote_trial(trial: Trial, folder: Path, say: Callable[[Path, Progress], object]) -> TrialEnd | str:
    """In a worker; what is wrong with all candidates comes back as a text, so that Ray does not wrap it."""
    try:
        return run_trial(trial, lambda progress: say(folder, progress))
    except MaenasError as error:
        return str(error)


def _end(ray: Any, reference: Any) -> TrialEnd:
    errors = ray.exceptions
    try:
        answer = ray.get(reference)
    except errors.OutOfMemoryError as error:
        return TrialEnd(None, f"out of memory: {str(error).splitlines()[0]:.200}")
    except (errors.WorkerCrashedError, errors.NodeDiedError) as error:
        return TrialEnd(None, f"its worker died {RETRIES + 1} times: {str(error).splitlines()[0]:.200}")
    except errors.RaySystemError as error:
        raise MaenasError(
            f"the Ray cluster has failed ({str(error).splitlines()[0]:.200}); --resume goes on"
        ) from error
    if isinstance(answer, str):
        raise MaenasError(answer)
    return answer


@dataclass(frozen=True)
class Workers:
    """What trains the candidates: `devices` has one name for each that trains at the same time."""

    runner: Runner
    devices: tuple[str, ...]
    own: str  # device of this process, on which finalists are compared


@contextmanager
def workers(
    train_on: str, cluster: str | None, share: Share, say: Callable[[Path, Progress], object]
) -> Iterator[Workers]:
    """The devices of this machine, or the Ray cluster at the address `cluster`; raises `MaenasError`."""
    devices = training_devices(train_on)
    if cluster is None:
        refuse_unused(Share, vars(share), ("cpus", "gpus"), needs="--ray", prefix="--ray-")
        yield Workers(local_runner(devices, say), devices, devices[0])
        return
    with joined_cluster(cluster) as ray:
        yield Workers(cluster_runner(ray, share, say), ("ray",) * slots(ray, share), devices[0])
