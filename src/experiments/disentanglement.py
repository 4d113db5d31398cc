"""Weight disentanglement (Ortiz-Jimenez, Favero, Frossard, NeurIPS 2023): whether two tasks' vectors, added together, leave
each other's predictions alone.

    error(a, b) = sum over both tasks of the share of the task's test examples on which the model with both vectors,
                  pretrained + a v1 + b v2, predicts otherwise than the model with the task's vector alone
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from src.data.task import Task
from src.evaluation.evaluator import Measurement
from src.experiments.record import Run
from src.models.family import Batch
from src.state_dict import StateDict, added

Map = list[list[float]]  # by the first task's coefficient, then by the second's


def disagreements(measured: Measurement, pair: Sequence[Task], grid: Sequence[float], most: int | None) -> dict[str, Map]:
    """For each of two tasks, the share of its test examples on which the two-vector model disagrees with its own.

    most: look at so many test examples of a task at most, evenly spread. Each pair of coefficients is remembered.
    """
    scorer, given = measured.scorer, measured.given
    data = [_Examples(measured, task, most) for task in pair]
    vectors = [given.vectors[task.name].load() for task in pair]
    about = [[scorer.asked(task, "test"), measured.made_of[1][task.name], examples.seen] for task, examples in zip(pair, data)]
    singles: dict[tuple[int, float], Tensor] = {}

    def alone(place: int, coefficient: float) -> Tensor:
        if (place, coefficient) not in singles:
            singles[place, coefficient] = data[place].predictions(added(given.pretrained, vectors[place], coefficient))
        return singles[place, coefficient]

    def shares(coefficients: tuple[float, float]) -> dict[str, float]:
        """By task."""
        one = added(given.pretrained, vectors[0], coefficients[0])
        both = dict(added(one, vectors[1], coefficients[1]))
        changed = (examples.predictions(both) != alone(place, coefficients[place]) for place, examples in enumerate(data))
        return {task.name: share.double().mean().item() for task, share in zip(pair, changed)}

    cells = [(first, second) for first in grid for second in grid]
    done = {}
    for number in scorer.team.share([1] * len(cells)):
        asked = sorted([*each, coefficient] for each, coefficient in zip(about, cells[number]))  # whichever task is first
        done[number] = measured.cache.get("disagreement", [measured.made_of[0], *asked], partial(shares, cells[number]))
        scorer.report(f"comparing models of {pair[0].name} and {pair[1].name}", 1)
    found = {number: made for part in scorer.team.gathered(done) for number, made in part.items()}
    rows = [[found[row * len(grid) + column] for column in range(len(grid))] for row in range(len(grid))]
    return {task.name: [[cell[task.name] for cell in row] for row in rows] for task in pair}


class _Examples:
    """A task's test examples, or `most` of them, evenly spread, which are then held in memory."""

    def __init__(self, measured: Measurement, task: Task, most: int | None):
        self._scorer, self._task = measured.scorer, task
        count = self._scorer.family.count(task, "test")
        self._chosen = None if most is None or most >= count else torch.tensor([place * count // most for place in range(most)])
        self.seen = count if self._chosen is None else len(self._chosen)

    def predictions(self, weights: StateDict) -> Tensor:
        """The classes predicted for the examples, (n,), on the CPU."""
        predict = self._scorer.family.predictor(weights)
        batches = self._all() if self._chosen is None else self._few
        return torch.cat([predict(batch).cpu() for batch in batches])

    def _all(self) -> Iterator[Batch]:
        family = self._scorer.family
        for span in family.spans(self._task, "test"):
            yield from family.batches(self._task, "test", self._scorer.batch_size, span)

    @cached_property
    def _few(self) -> list[Batch]:
        inputs, labels, first = [], [], 0
        for batch in self._all():
            inside = self._chosen[(self._chosen >= first) & (self._chosen < first + len(batch.labels))] - first
            inputs.append(batch.inputs[inside.to(batch.inputs.device)])
            labels.append(batch.labels[inside.to(batch.labels.device)])
            first += len(batch.labels)
        parts = zip(torch.cat(inputs).split(self._scorer.batch_size), torch.cat(labels).split(self._scorer.batch_size))
        return [Batch(self._task.name, *part) for part in parts]


@dataclass(frozen=True, kw_only=True)
class Disentanglement(Run):
    """shares: of each of two tasks by both coefficients, of `grid`: see `disagreements`."""

    grid: list[float]
    shares: dict[str, Map]

    @property
    def error(self) -> Map:
        """The sum over the tasks."""
        first, second = self.shares.values()
        return [[a + b for a, b in zip(*rows)] for rows in zip(first, second)]

    def means(self) -> dict[str, dict[str, float]]:
        """The mean error of all pairs of coefficients, and of those where merging looks for them."""
        places = {"everywhere": range(len(self.grid))}
        if {0.0, 1.0} <= set(self.grid):
            places["from 0 to 1"] = range(self.grid.index(0.0), self.grid.index(1.0) + 1)
        error = self.error
        return {where: {"mean": fmean(error[row][column] for row in part for column in part)} for where, part in places.items()}

    def figures(self) -> dict:
        return {"grid": self.grid, "shares": self.shares, "error": self.error, "means": self.means()}

    def show(self, console: Console) -> None:
        title = f"{self.title}, mean disentanglement error in %"
        table = Table(title=title, min_width=len(title))
        table.add_column("both coefficients")
        table.add_column("error", justify="right")
        for where, error in self.means().items():
            table.add_row(where, f"{100 * error['mean']:.1f}")
        console.print(table)
        self.show_notes(console)
