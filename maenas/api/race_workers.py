"""The trials of a race on this machine: one after the other, or one process for each of several devices."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from detector.trial import Progress, Trial, TrialEnd, run_trial
from maenas.errors import MaenasError
from maenas.signals import ending_signals

Runner = Callable[[Sequence[Trial], Path], Generator[tuple[Trial, TrialEnd], None, None]]
TRIES = 2  # of a trial whose process the system killed


def local_runner(devices: Sequence[str], say: Callable[[Path, Progress], object]) -> Runner:
    """Runs trials on this machine's devices; `say` is a function of a module, called where a trial runs."""

    def one_by_one(trials: Sequence[Trial], folder: Path) -> Generator[tuple[Trial, TrialEnd], None, None]:
        for trial in trials:
            yield trial, run_trial(replace(trial, device=devices[0]), lambda progress: say(folder, progress))

    def side_by_side(trials: Sequence[Trial], folder: Path) -> Generator[tuple[Trial, TrialEnd], None, None]:
        with _terminable():
            yield from _in_processes(trials, devices, folder, say)

    return one_by_one if len(devices) == 1 else side_by_side


@dataclass(frozen=True)
class _Worker:
    place: int  # of its device
    trial: Trial
    attempt: int
    process: SpawnProcess
    answers: Connection


def _in_processes(
    trials: Sequence[Trial], devices: Sequence[str], folder: Path, say: Callable[[Path, Progress], object]
) -> Generator[tuple[Trial, TrialEnd], None, None]:
    """Trials as they end. A process that dies without an answer is tried once more, from its checkpoint."""
    waiting = [(trial, 1) for trial in trials]
    running: list[_Worker] = []
    try:
        while waiting or running:
            free = [place for place in range(len(devices)) if place not in {worker.place for worker in running}]
            for place, (trial, attempt) in zip(free, waiting[: len(free)], strict=False):
                running.append(_started(place, replace(trial, device=devices[place]), attempt, folder, say))
            waiting = waiting[len(free) :]
            ended = wait([worker.process.sentinel for worker in running])
            for worker in [worker for worker in running if worker.process.sentinel in ended]:
                running.remove(worker)
                answer = _answer(worker)
                if answer is None and worker.attempt < TRIES:
                    waiting.insert(0, (worker.trial, worker.attempt + 1))
                    continue
                why = f"its process was killed {TRIES} times (exit code {worker.process.exitcode}); too little memory?"
                yield worker.trial, answer or TrialEnd(None, why)
    finally:
        for worker in running:
            worker.process.terminate()  # it keeps a checkpoint
        for worker in running:
            worker.process.join()


def _started(place: int, trial: Trial, attempt: int, folder: Path, say: Callable[[Path, Progress], object]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    asked = replace(trial, parent=os.getpid())
    process = context.Process(target=_child, args=(asked, theirs, folder, say), daemon=False)
    process.start()
    theirs.close()
    return _Worker(place, trial, attempt, process, ours)


def _child(trial: Trial, answers: Connection, folder: Path, say: Callable[[Path, Progress], object]) -> None:
    """Runs in a process of its own, which the keyboard does not interrupt: its parent ends it."""
    with suppress(OSError, AttributeError):
        os.setsid()
    try:
        answers.send(run_trial(trial, lambda progress: say(folder, progress)))
    except MaenasError as error:
        answers.send(str(error))


def _answer(worker: _Worker) -> TrialEnd | None:
    """What the process sent before it ended; raises `MaenasError` where that is one."""
    worker.process.join()
    try:
        answer = worker.answers.recv() if worker.answers.poll() else None
    except EOFError:
        answer = None
    worker.answers.close()
    if isinstance(answer, str):
        raise MaenasError(answer)
    return answer


@contextmanager
def _terminable() -> Iterator[None]:
    """A signal to end this process ends its trials, too, with their checkpoints."""
    with ending_signals():
        try:
            yield
        except KeyboardInterrupt:
            raise MaenasError("interrupted; nothing is lost: repeat the command with --resume") from None
