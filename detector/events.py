"""What a training run tells its callbacks, and how a callback asks it to stop.

def show(event: Event) -> None:
    match event:
        case EvaluationEvent(epoch=epoch, metrics=metrics):
            print(epoch, metrics.summary["AP"])

Events come from the main process, in order, in the thread that trains. Epochs and steps count from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from detector.evaluate import Metrics
    from detector.recipe import Recipe

EndReason = Literal["finished", "patience", "stopped", "failed"]


class Outcome(NamedTuple):
    """How a run has ended: the best weights by AP (the last ones without validation data), their AP (-1 without), their
    metrics (None without, in processes other than the main one, and where an earlier part of the run left them); why.
    """

    weights: Path
    best_ap: float
    metrics: Metrics | None
    reason: EndReason


class StopTraining(Exception):  # noqa: N818 - a request, no error
    """Raised by a callback, it ends the training after the current step, or epoch among several processes.

    The run keeps its checkpoint, so that the same call with `resume` goes on with it.
    """


@dataclass(frozen=True)
class BeginEvent:
    """The run begins after `step` of `steps` steps, 0 unless it is resumed; `batch` is that of all processes.

    The first `closed` epochs are over, with their evaluation: the last step of an epoch comes before that.
    """

    folder: Path
    name: str
    recipe: Recipe
    device: str
    batch: int
    step: int
    steps: int
    epochs: int
    closed: int = 0


@dataclass(frozen=True)
class StepEvent:
    """A step is done, and its losses are known; on a GPU that may be a few steps later."""

    step: int
    epoch: int
    lr: float
    losses: Mapping[str, float]
    images_per_s: float


@dataclass(frozen=True)
class EvaluationEvent:
    """The averaged weights are rated after an epoch; `is_best`: they have the highest AP so far."""

    epoch: int
    step: int
    metrics: Metrics
    is_best: bool


@dataclass(frozen=True)
class EpochEvent:
    """An epoch is over, with its evaluation if it had one; `losses` are means over its steps."""

    epoch: int
    step: int
    seconds: float
    losses: Mapping[str, float]


@dataclass(frozen=True)
class EndEvent:
    """The run is over; `weights` are there unless it failed before the first evaluation."""

    step: int
    reason: EndReason
    weights: Path
    best_ap: float | None


Event = BeginEvent | StepEvent | EvaluationEvent | EpochEvent | EndEvent
Callback = Callable[[Event], object]


class Listeners:
    """The callbacks of a run; `stop_asked` once one of them has raised `StopTraining`.

    `quiet`: they tell the user of epochs, so that nobody else needs to.
    """

    def __init__(self, callbacks: Sequence[Callback], *, quiet: bool = False) -> None:
        self._callbacks = tuple(callbacks)
        self.quiet = quiet
        self.stop_asked = False

    def tell(self, event: Event) -> None:
        """Every callback hears of `event`; what one raises, but for `StopTraining`, ends the run."""
        for callback in self._callbacks:
            try:
                callback(event)
            except StopTraining:
                self.stop_asked = True
