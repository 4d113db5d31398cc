"""What methods share whose vector is a weighted mean of the task vectors, by weights from statistics of the tasks."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from src.errors import UserError, plural, raise_any
from src.merging.engine.inputs import MergeInputs
from src.merging.lines import OwnScale
from src.merging.method import MergeFamily, Method, check_grid, respace
from src.task_vectors import TaskVector
from src.validation import is_number

TRACE = "trace"


@dataclass(frozen=True, kw_only=True)
class WeightedMean(OwnScale):
    """A weighted mean of the task vectors, times one coefficient.

    normalise: `trace` divides each task's statistic by its trace, so that tasks count alike; None leaves it, as the papers
        do: then a task that its model fits badly counts most.
    weights: further weights of the tasks, also where there is no statistic; None for equal ones.
    """

    normalise: str | None
    weights: Sequence[float] | None

    def __post_init__(self):
        super().__post_init__()
        problems = []
        if self.normalise not in (None, TRACE):
            problems.append(f"method.normalise is {TRACE} or null; got {self.normalise}")
        numbers = self.weights
        if numbers is not None and not (
            isinstance(numbers, list | tuple) and all(is_number(each) and each >= 0 for each in numbers) and sum(numbers) > 0
        ):
            problems.append(f"method.weights is a list of numbers, at least 0 and not all 0, such as [1,2,1]; got {numbers}")
        raise_any(problems)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        check_weights(self.weights, tasks)

    def mean(self, stack: Tensor) -> Tensor:
        """Return the weighted mean of the tasks' values, (tasks, *shape) -> (*shape)."""
        if self.weights is None:
            return stack.mean(0)
        weights = self.task_weights(len(stack))
        return torch.tensordot((weights / weights.sum()).to(stack), stack, dims=1)

    def task_weights(self, tasks: int) -> Tensor:
        """Return the weights of the tasks, (tasks,), float64."""
        return torch.tensor([1.0] * tasks if self.weights is None else self.weights, dtype=torch.float64)

    def scales(self, traces: Callable[[], Tensor], tasks: int) -> Tensor:
        """Return what each task's statistic is multiplied by to count like the others, (tasks,), float64.

        traces: returns those of the tasks' statistics, (tasks,); not called unless they are divided by.
        """
        sizes = traces() if self.normalise else torch.ones(tasks, dtype=torch.float64)
        return torch.where(sizes > 0, 1 / sizes, 0.0) if (sizes > 0).any() else torch.ones_like(sizes)


@dataclass(frozen=True, kw_only=True)
class OffDiagonal(WeightedMean):
    """A weighted mean by matrices whose entries off the diagonal are multiplied by a number (MaTS' model lambda).

    off_diagonal: that number; None to search `off_diagonals`, as the method's coefficient, and 1 under LiNeS.
    """

    off_diagonal: float | None
    off_diagonals: Sequence[float]

    def __post_init__(self):
        super().__post_init__()
        check_grid("method.off_diagonals", self.off_diagonals)
        for name, numbers in (("off_diagonals", self.off_diagonals), ("off_diagonal", [self.off_diagonal or 0.0])):
            if not all(is_number(number) and 0 <= number <= 1 for number in numbers):
                raise UserError(f"method.{name} is what entries off the diagonal are multiplied by, 0 to 1; got {numbers}")

    @property
    def has_off_diagonal(self) -> bool:
        """Whether its matrices have entries off their diagonals."""
        return True

    @abstractmethod
    def vectors(self, inputs: MergeInputs) -> Callable[[float], TaskVector]:
        """Return the function from the number off the diagonals to the merged vector.

        Raise UserError, with all that is wrong with the statistics, before anything is computed.
        """

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        vectors = lru_cache(maxsize=1)(self.vectors(inputs))  # the chosen one is asked for again, to be scored and written
        if not self._is_searched:
            return MergeFamily.shared(inputs.tasks, vectors(1.0 if self.off_diagonal is None else self.off_diagonal))
        return MergeFamily(lambda coefficient: dict.fromkeys(inputs.tasks, vectors(coefficient)))

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return tuple(self.off_diagonals if self._is_searched else self.grid)

    def respaced(self, points: int) -> Method:
        if self._is_searched:
            return replace(self, off_diagonals=(0.0, *respace(self.off_diagonals, points)))
        return super().respaced(points)

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        super().check_coefficient(coefficient, tasks)
        if self._is_searched and not 0 <= coefficient <= 1:
            raise UserError(f"specify_lambda is what entries off the diagonal are multiplied by here, 0 to 1; got {coefficient}")

    def under_lines(self) -> Method:
        fixed = replace(self, off_diagonal=1.0) if self.off_diagonal is None else self
        return replace(fixed, grid=self.betas)

    @property
    def _is_searched(self) -> bool:
        """Whether the coefficient is the number off the diagonals."""
        return self.off_diagonal is None and self.has_off_diagonal


def check_weights(weights: Sequence[float] | None, tasks: Sequence[str]) -> None:
    """Raise UserError unless there are as many weights as tasks, or none."""
    if weights is not None and len(weights) != len(tasks):
        raise UserError(f"method.weights has {plural(len(weights), 'number')}; give one for each of {', '.join(tasks)}")
