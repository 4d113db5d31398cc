"""Weight disentanglement (Ortiz-Jimenez, Favero, Frossard, NeurIPS 2023): whether two tasks' vectors, added together, leave
each other's predictions alone.

    error(a, b) = sum over both tasks of the share of the task's test examples on which the model with both vectors,
                  pretrained + a v1 + b v2, predicts otherwise than the model with the task's vector alone
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from src.data.task import Task
from src.measurement import Measurement
from src.models.family import Batch
from src.records import Run
from src.state_dict import StateDict, added

Map = list[list[float]]  # by the first task's coefficient, then by the second's


def disagreements(measured: Measurement, pair: Sequence[Task], grid: Sequence[float], most: int | None) -> dict[str, Map]:
    """For each of two tasks, the share of its test examples on which the two-vector model disagrees with its own.

    most: look at so many test examples of a task at most, evenly spread. Rows that were computed are remembered.
    """
    scorer, given = measured.scorer, measured.given
    vectors = [given.vectors[task.name].load() for task in pair]
    digests = [measured.made_of[1][task.name] for task in pair]
    asked = [[scorer.asked(task, "test") for task in pair], measured.made_of[0], digests, list(grid), most]

    def row(first: float) -> list[list[float]]:
        """By the second coefficient, the share of each task."""
        return [shares((first, second)) for second in grid]

    def shares(coefficients: tuple[float, float]) -> list[float]:
        one = added(given.pretrained, vectors[0], coefficients[0])
        both = dict(added(one, vectors[1], coefficients[1]))
        found = (_predictions(measured, both, task, most) for task in pair)
        return [(labels != alone(place, coefficients[place])).double().mean().item() for place, labels in enumerate(found)]

    singles: dict[tuple[int, float], Tensor] = {}

    def alone(place: int, coefficient: float) -> Tensor:
        if (place, coefficient) not in singles:
            model = added(given.pretrained, vectors[place], coefficient)
            singles[place, coefficient] = _predictions(measured, model, pair[place], most)
        return singles[place, coefficient]

    mine = scorer.team.share([1] * len(grid))
    done = {}
    for number in mine:
        done[number] = measured.cache.get("disagreement", [*asked, grid[number]], partial(row, grid[number]))
        scorer.report(f"comparing models of {pair[0].name} and {pair[1].name}", len(grid))
    rows = {number: made for part in scorer.team.gathered(done) for number, made in part.items()}
    return {
        task.name: [[shares[place] for shares in rows[number]] for number in range(len(grid))] for place, task in enumerate(pair)
    }


def _predictions(measured: Measurement, weights: StateDict, task: Task, most: int | None) -> Tensor:
    """The classes predicted for a task's test examples, or for `most` of them, evenly spread; on the CPU."""
    scorer = measured.scorer
    family, count = scorer.family, scorer.family.count(task, "test")
    step = 1 if most is None else max(count // most, 1)
    predict, found, seen = family.predictor(weights), [], 0
    for span in family.spans(task, "test"):
        for batch in family.batches(task, "test", scorer.batch_size, span):
            rows = slice(-seen % step, None, step)
            seen += len(batch.labels)
            part = Batch(task.name, batch.inputs[rows], batch.labels[rows])
            if len(part.labels):
                found.append(predict(part).cpu())
    return torch.cat(found)[:most]


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

    def mean(self, low: float, high: float) -> float:
        """The mean error where both coefficients are in an interval."""
        inside = [place for place, coefficient in enumerate(self.grid) if low <= coefficient <= high]
        found = [self.error[row][column] for row in inside for column in inside]
        return sum(found) / len(found) if found else float("nan")

    def means(self) -> dict[str, float]:
        return {"everywhere": self.mean(self.grid[0], self.grid[-1]), "from 0 to 1": self.mean(0, 1)}

    def figures(self) -> dict:
        return {"grid": self.grid, "shares": self.shares, "error": self.error, "means": self.means()}

    def show(self, console: Console) -> None:
        title = f"{self.title}, mean disentanglement error in %"
        table = Table(title=title, min_width=len(title))
        table.add_column("both coefficients")
        table.add_column("error", justify="right")
        for where, error in self.means().items():
            table.add_row(where, f"{100 * error:.1f}")
        console.print(table)
        self.show_notes(console)
