"""Unlabelled examples of the tasks as merging methods see them: the entropy of a model's predictions on them."""

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

from src.state_dict import StateDict


class PredictionEntropy(Protocol):
    """The entropy of a model's predictions on examples of each task that are drawn anew for every step.

    question: what decides which examples are drawn, and how they are predicted, as JSON values.
    """

    question: object

    def plan(self, steps: int) -> None:
        """Expect so many steps, for progress reports."""

    def by_task(self, step: int, weights: StateDict) -> Iterator[Tensor]:
        """Yield the mean entropy on a task's examples of a step, (), differentiable, for each task that this process has.

        weights: of all parameters, under the names of the pre-trained model, on any device.
        """

    def all_reduce(self, values: Tensor) -> Tensor:
        """Return the sum of all processes' `values`."""


# Returns the entropy on examples of a split (`test` or `val`): its name, how many of each task a step draws, and their seed.
Unlabelled = Callable[[str, int, int], PredictionEntropy]
