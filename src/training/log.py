"""The training log: loss, learning rate and speed every `log_steps` steps, as lines of JSON."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from src.runtime.files import written_beside
from src.training.schedule import BatchSchedule


@dataclass(frozen=True)
class LogEntry:
    """One entry of the training log.

    step, steps: the number of steps taken, and of all.
    epoch: passes over the data so far.
    loss: mean of the steps since the last entry, or since the run was continued.
    lr: learning rate of the last step.
    examples_per_second: since the last entry.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    examples_per_second: float

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}, lr {self.lr:.1e}, {self.examples_per_second:.0f} examples/s"


@dataclass(frozen=True)
class ValidationEntry:
    """An entry on an evaluation: the score on validation data, 0 to 1, and the best so far."""

    step: int
    validation: float
    best_validation: float

    def __str__(self) -> str:
        return f"validation {100 * self.validation:.1f} %, best {100 * self.best_validation:.1f} %"


LogCallback = Callable[[LogEntry | ValidationEntry], None]


class LossMeter:
    """Adds up the losses between two log entries, on the device: nothing waits for the GPU at other steps.

    every: steps between two entries.
    reduce: adds a number up over the processes that share the steps.
    """

    def __init__(self, schedule: BatchSchedule, every: int, reduce: Callable[[float], float]):
        self._schedule, self._every, self._reduce = schedule, every, reduce
        self._clear()

    def update(self, step: int, loss: Tensor) -> LogEntry | None:
        """Add this process's share of the loss of step number `step`; return the entry, where one is due."""
        schedule = self._schedule
        self._losses, self._steps, self._examples = self._losses + loss, self._steps + 1, self._examples + schedule.size(step - 1)
        if step % self._every and step < schedule.steps:
            return None
        entry = LogEntry(
            step=step,
            steps=schedule.steps,
            epoch=step / schedule.steps_per_epoch,
            loss=self._reduce(float(self._losses)) / self._steps,
            lr=schedule.recipe.rate(step - 1, schedule.steps),
            examples_per_second=self._examples / (time.monotonic() - self._started),
        )
        self._clear()
        return entry

    def _clear(self) -> None:
        self._losses: Tensor | float = 0.0
        self._steps = self._examples = 0
        self._started = time.monotonic()


class TrainingLog:
    """A file of log entries; those after the step that a run continues from are cut off, for they will come again."""

    def __init__(self, path: Path, start: int):
        self._path = path
        lines = path.read_text().splitlines() if start and path.exists() else []
        with written_beside(path) as draft:
            draft.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= start))

    def __call__(self, entry: LogEntry | ValidationEntry) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(entry)) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # cut short when the process was killed
        return float("inf")
