"""Model Stock (Jang et al., ECCV 2024): the mean of the models, each parameter the nearer to the pre-trained one the wider the
angles between the task vectors are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.lines import OwnScale
from src.merging.method import MergeFamily

CHUNK = 2**13  # columns of all tasks in float64, which a core's cache holds


@dataclass(frozen=True, kw_only=True)
class ModelStock(OwnScale):
    """The mean of the task vectors, each parameter times T c / (1 + (T - 1) c), c the mean cosine of pairs of tasks there.

    A negative c gives a negative number, as the formula says. Where the tasks' directions cancel, 1 + (T - 1) c is 0 and the
    parameter stays as pre-trained.
    """

    def check_tasks(self, tasks: Sequence[str]) -> None:
        if len(tasks) < 2:
            raise UserError(f"method=model_stock compares at least two models; there is {', '.join(tasks)} alone")

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        self.check_tasks(inputs.tasks)

        @cache
        def ratio(key: str) -> float:
            return interpolation_ratio(sum(inputs.each(key, lambda _, stack: gram(stack)))) if inputs.changed(key) else 0.0

        mean = inputs.slicewise(lambda stack: stack.mean(0))
        return MergeFamily.shared(inputs.tasks, mean.map(lambda key, entry: entry * ratio(key)))


def gram(stack: Tensor) -> Tensor:
    """Return the inner products of the rows, (tasks, n) -> (tasks, tasks), float64: small cosines are differences."""
    return sum(part @ part.T for part in (chunk.double() for chunk in stack.split(CHUNK, 1)))


def interpolation_ratio(products: Tensor) -> float:
    """Return T c / (1 + (T - 1) c), by the inner products of a parameter's task vectors, (tasks, tasks), float64."""
    tasks, norms = len(products), products.diagonal().sqrt()
    sizes = torch.outer(norms, norms)
    cosines = torch.where(sizes > 0, products / sizes, 0.0)  # of a zero vector
    mean = ((cosines.sum() - cosines.trace()) / (tasks * (tasks - 1))).item()
    rest = 1 + (tasks - 1) * mean  # T times the squared norm of the mean direction
    return tasks * mean / rest if rest > torch.finfo(torch.float32).eps else 0.0
