"""What a fine-tuning tells on its way: a line of JSON for every so many steps."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from src.runtime.files import written_beside
from src.training.recipe import Order


@dataclass(frozen=True)
class Line:
    """After so many steps: the mean loss of those since the last line, or since the run went on, the last learning rate,
    images a second."""

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    images_per_second: float

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}, lr {self.lr:.1e}, {self.images_per_second:.0f} images/s"


Watch = Callable[[Line], None]


class Meter:
    """Adds up the steps between two lines, without waiting for a GPU to tell their losses.

    total: adds a number up over the processes that share the steps.
    """

    def __init__(self, order: Order, every: int, total: Callable[[float], float]):
        self._order, self._every, self._total = order, every, total
        self._clear()

    def after(self, step: int, loss: Tensor) -> Line | None:
        """Take note of this process's share of a step's loss; the line, where one is due."""
        order = self._order
        self._losses, self._taken, self._seen = self._losses + loss, self._taken + 1, self._seen + order.size(step - 1)
        if step % self._every and step < order.steps:
            return None
        mean = self._total(float(self._losses)) / self._taken
        speed = self._seen / (time.monotonic() - self._began)
        self._clear()
        return Line(step, order.steps, step / order.steps_per_epoch, mean, order.recipe.rate(step - 1, order.steps), speed)

    def _clear(self) -> None:
        self._losses: Tensor | float = 0.0
        self._taken = self._seen = 0
        self._began = time.monotonic()


class Log:
    """A file of lines; what comes after the step that a run goes on from is cut off, for it will come again."""

    def __init__(self, path: Path, start: int):
        self._path = path
        kept = path.read_text().splitlines() if start and path.exists() else []
        with written_beside(path) as draft:
            draft.write_text("".join(f"{line}\n" for line in kept if _step(line) <= start))

    def __call__(self, line: Line) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(line)) + "\n")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # cut short when the process was killed
        return float("inf")
