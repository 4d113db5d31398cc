"""Weight disentanglement (Ortiz-Jimenez, Favero, Frossard, NeurIPS 2023): whether two tasks' vectors, added together, leave
each other's predictions alone.

    error(a, b) = sum over both tasks of the share of the task's test examples on which the model with both vectors,
                  pretrained + a v1 + b v2, predicts otherwise than the model with the task's vector alone
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import fmean
from typing import ClassVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from src.data.task import Task
from src.evaluation.evaluator import Evaluator
from src.experiments.record import Run
from src.models.family import Batch
from src.state_dict import StateDict, add_vector

Map = list[list[float]]  # by the first task's coefficient, then by the second's


def disagreements(evaluator: Evaluator, pair: Sequence[Task], grid: Sequence[float], most: int | None) -> dict[str, Map]:
    """Return, for each of two tasks, the share of its test examples on which the two-vector model disagrees with its own.

    Each pair of coefficients is remembered.

    most: number of test examples of a task to look at, evenly spread; None for all.
    """
    scorer, pretrained = evaluator.scorer, evaluator.family.pretrained
    data = [_Examples(evaluator, task, most) for task in pair]
    vectors = [evaluator.inputs.vectors[task.name].load() for task in pair]
    digests = evaluator.finetuned_digests
    keys = [[scorer.key(task, "test"), digests[task.name], examples.count] for task, examples in zip(pair, data)]
    own: dict[tuple[int, float], Tensor] = {}

    def own_predictions(number: int, coefficient: float) -> Tensor:
        if (number, coefficient) not in own:
            own[number, coefficient] = data[number].predictions(add_vector(pretrained, vectors[number], coefficient))
        return own[number, coefficient]

    def shares(coefficients: tuple[float, float]) -> dict[str, float]:
        both = dict(add_vector(add_vector(pretrained, vectors[0], coefficients[0]), vectors[1], coefficients[1]))
        changed = (examples.predictions(both) != own_predictions(number, coefficients[number])
                   for number, examples in enumerate(data))  # fmt: skip
        return {task.name: share.double().mean().item() for task, share in zip(pair, changed)}

    cells = [(first, second) for first in grid for second in grid]
    computed = {}
    for number in scorer.group.assign([1] * len(cells)):
        key = sorted([*each, coefficient] for each, coefficient in zip(keys, cells[number]))  # whichever task is first
        cached = scorer.cache.get("disagreement", [evaluator.family.pretrained_digest, *key], partial(shares, cells[number]))
        computed[number] = cached
        scorer.progress.report(f"comparing models of {pair[0].name} and {pair[1].name}", 1)
    by_cell = {number: share for part in scorer.group.all_gather(computed) for number, share in part.items()}
    rows = [[by_cell[row * len(grid) + column] for column in range(len(grid))] for row in range(len(grid))]
    return {task.name: [[cell[task.name] for cell in row] for row in rows] for task in pair}


class _Examples:
    """A task's test examples, or `most` of them, evenly spread, which are then held in memory.

    count: number of them.
    """

    def __init__(self, evaluator: Evaluator, task: Task, most: int | None):
        self._scorer, self._task = evaluator.scorer, task
        count = evaluator.family.count(task, "test")
        is_whole = most is None or most >= count
        self._chosen = None if is_whole else torch.tensor([number * count // most for number in range(most)])
        self.count = count if self._chosen is None else len(self._chosen)

    def predictions(self, weights: StateDict) -> Tensor:
        """Return the classes predicted for the examples, (n,), on the CPU."""
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
class DisentanglementResult(Run):
    """The result of comparing two tasks' vectors.

    grid: coefficients of each vector.
    shares: of each task, by both coefficients (see `disagreements`).
    """

    kind: ClassVar[str] = "disentanglement"

    grid: list[float]
    shares: dict[str, Map]

    @property
    def error(self) -> Map:
        """The sum of the shares over the tasks."""
        first, second = self.shares.values()
        return [[a + b for a, b in zip(*rows)] for rows in zip(first, second)]

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean error of all pairs of coefficients, and of those where merging looks for them."""
        ranges = {"everywhere": range(len(self.grid))}
        if {0.0, 1.0} <= set(self.grid):
            ranges["from 0 to 1"] = range(self.grid.index(0.0), self.grid.index(1.0) + 1)
        error = self.error
        return {name: {"mean": fmean(error[row][column] for row in part for column in part)} for name, part in ranges.items()}

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
