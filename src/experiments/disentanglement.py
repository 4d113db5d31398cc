"""Weight disentanglement (Ortiz-Jimenez, Favero, Frossard, NeurIPS 2023): how little two tasks' vectors disturb each other.

error(a, b) = sum over both tasks of the share of the task's test examples on which the model with both vectors,
              pretrained + a v1 + b v2, predicts otherwise than the model with only the task's vector
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from statistics import fmean
from typing import ClassVar

import torch
from rich.console import Console
from torch import Tensor

from src.data.task import Task
from src.elementwise import add_vector
from src.evaluation.evaluator import Evaluator
from src.experiments.record import Result
from src.experiments.tables import show_table
from src.models.family import Batch
from src.state_dict import StateDict

CoefficientMap = list[list[float]]  # by the first task's coefficient, then by the second's


def disagreements(
    evaluator: Evaluator, pair: Sequence[Task], grid: Sequence[float], most: int | None
) -> dict[str, CoefficientMap]:
    """Return, for each of two tasks, the share of its test examples on which the two-vector model disagrees with its own.

    Each pair of coefficients is cached.

    most: number of test examples of a task to look at, evenly spread; None for all.
    """
    scorer, pretrained = evaluator.scorer, evaluator.family.pretrained
    samples = [_Examples(evaluator, task, most) for task in pair]
    vectors = [evaluator.inputs.vectors[task.name].load() for task in pair]
    digests = evaluator.finetuned_digests
    keys = [[scorer.key(task, "test"), digests[task.name], examples.count] for task, examples in zip(pair, samples)]

    @cache
    def own_predictions(number: int, coefficient: float) -> Tensor:
        return samples[number].predictions(add_vector(pretrained, vectors[number], coefficient))

    def shares(coefficients: tuple[float, float]) -> dict[str, float]:
        both = dict(add_vector(add_vector(pretrained, vectors[0], coefficients[0]), vectors[1], coefficients[1]))
        disagree = (examples.predictions(both) != own_predictions(number, coefficients[number])
                    for number, examples in enumerate(samples))  # fmt: skip
        return {task.name: flags.double().mean().item() for task, flags in zip(pair, disagree)}

    cells = [(first, second) for first in grid for second in grid]
    own_shares = {}
    for number in scorer.group.assign([1] * len(cells)):
        key = sorted([*each, coefficient] for each, coefficient in zip(keys, cells[number]))  # whichever task is first
        key = [evaluator.family.pretrained_digest, *key]
        own_shares[number] = scorer.cache.get("disagreement", key, partial(shares, cells[number]))
        scorer.progress.report(f"comparing models of {pair[0].name} and {pair[1].name}", 1)
    by_cell = {number: share for process in scorer.group.all_gather(own_shares) for number, share in process.items()}
    rows = [[by_cell[row * len(grid) + column] for column in range(len(grid))] for row in range(len(grid))]
    return {task.name: [[cell[task.name] for cell in row] for row in rows] for task in pair}


class _Examples:
    """A task's test examples, or `most` of them, evenly spread, which then stay in memory.

    count: number of the examples.
    """

    def __init__(self, evaluator: Evaluator, task: Task, most: int | None):
        self._scorer, self._task = evaluator.scorer, task
        count = evaluator.family.count(task, "test")
        has_all = most is None or most >= count
        self._indices = None if has_all else torch.tensor([number * count // most for number in range(most)])
        self.count = count if self._indices is None else len(self._indices)

    def predictions(self, weights: StateDict) -> Tensor:
        """Return the classes predicted for the examples, (n,), on the CPU."""
        predict = self._scorer.family.predictor(weights)
        batches = self._all() if self._indices is None else self._sample
        return torch.cat([predict(batch).cpu() for batch in batches])

    def _all(self) -> Iterator[Batch]:
        family = self._scorer.family
        for span in family.spans(self._task, "test"):
            yield from family.batches(self._task, "test", self._scorer.batch_size, span)

    @cached_property
    def _sample(self) -> list[Batch]:
        parts, first = [], 0
        for batch in self._all():
            parts.append(batch.take(self._indices[(self._indices >= first) & (self._indices < first + len(batch))] - first))
            first += len(batch)
        return Batch.joined(parts).split(self._scorer.batch_size)


@dataclass(frozen=True, kw_only=True)
class DisentanglementResult(Result):
    """The result of comparing two tasks' vectors.

    grid: coefficients of each vector.
    shares: of each task, by both coefficients (see `disagreements`).
    """

    kind: ClassVar[str] = "disentanglement"

    grid: list[float]
    shares: dict[str, CoefficientMap]

    @property
    def error(self) -> CoefficientMap:
        """The disentanglement error: the sum of the shares over both tasks."""
        first, second = self.shares.values()
        return [[a + b for a, b in zip(*rows)] for rows in zip(first, second)]

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean error of all pairs of coefficients, and of those where merging looks for them."""
        ranges = {"everywhere": range(len(self.grid))}
        if {0.0, 1.0} <= set(self.grid):
            ranges["from 0 to 1"] = range(self.grid.index(0.0), self.grid.index(1.0) + 1)
        error = self.error
        return {name: {"mean": fmean(error[row][column] for row in span for column in span)} for name, span in ranges.items()}

    def measurements(self) -> dict:
        return {"grid": self.grid, "shares": self.shares, "error": self.error, "means": self.means()}

    def show(self, console: Console) -> None:
        rows = [(name, f"{100 * error['mean']:.1f}") for name, error in self.means().items()]
        title = f"{self.title}, mean disentanglement error in %"
        show_table(console, title, ("both coefficients", "error"), rows)
        self.show_notes(console)
