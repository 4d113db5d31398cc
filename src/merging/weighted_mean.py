"""What methods share whose vector is a weighted mean of the task vectors, by weights from statistics of the tasks."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from src.errors import UserError, raise_any
from src.merging.engine.inputs import MergeInputs
from src.merging.lines import LiNeS
from src.merging.method import MergeFamily, Method, Searched, check_grid, respace
from src.task_vectors import TaskVector
from src.validation import is_number

TRACE = "trace"


@dataclass(frozen=True, kw_only=True)
class WeightedMean(Searched):
    """A weighted mean of the task vectors, times one coefficient of `grid`, which is 1 unless the user searches others.

    betas: under LiNeS, the grid of beta.
    normalise: `trace` divides each task's statistic by its trace, so that tasks count alike; None leaves it, as the papers
        do: then a task that its model fits badly counts most.
    weights: further weights of the tasks; None for equal ones.
    """

    betas: Sequence[float]
    normalise: str | None
    weights: Sequence[float] | None

    def __post_init__(self):
        super().__post_init__()
        check_grid("method.betas", self.betas)
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
        if self.weights is not None and len(self.weights) != len(tasks):
            raise UserError(
                f"method.weights has {len(self.weights)} numbers, and the tasks are {', '.join(tasks)}; give one each"
            )

    def lines_form(self) -> Method:
        return LiNeS(replace(self, grid=self.betas))

    def scales(self, traces: Tensor) -> Tensor:
        """Return what each task's statistic is multiplied by, (tasks,), float64, of the traces of all of them."""
        if self.normalise is None:
            return torch.ones_like(traces)
        return torch.where(traces > 0, 1 / traces, 0.0)

    def task_weights(self, tasks: int) -> Tensor:
        """Return the weights of the tasks, (tasks,), float64."""
        return torch.ones(tasks, dtype=torch.float64) if self.weights is None else torch.tensor(self.weights).double()


@dataclass(frozen=True, kw_only=True)
class OffDiagonal(WeightedMean):
    """A weighted mean by matrices whose entries off the diagonal are multiplied by a number (MaTS' model lambda).

    off_diagonal: that number; None to search `off_diagonals`, as the method's coefficient.
    """

    off_diagonal: float | None
    off_diagonals: Sequence[float]

    def __post_init__(self):
        super().__post_init__()
        check_grid("method.off_diagonals", self.off_diagonals)
        numbers = [*self.off_diagonals, *([] if self.off_diagonal is None else [self.off_diagonal])]
        if not all(is_number(number) and 0 <= number <= 1 for number in numbers):
            raise UserError(f"method.off_diagonal is a number from 0 to 1, or null to search it; got {self.off_diagonal}")

    @abstractmethod
    def vector(self, inputs: MergeInputs, off_diagonal: float) -> TaskVector:
        """Return the merged vector."""

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        if self.off_diagonal is not None:
            return MergeFamily.shared(inputs.tasks, self.vector(inputs, self.off_diagonal))
        return MergeFamily(lambda coefficient: dict.fromkeys(inputs.tasks, self.vector(inputs, coefficient)))

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return tuple(self.off_diagonals if self.off_diagonal is None else self.grid)

    def respaced(self, points: int) -> Method:
        if self.off_diagonal is None:
            return replace(self, off_diagonals=respace(self.off_diagonals, points))
        return super().respaced(points)

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        super().check_coefficient(coefficient, tasks)
        if self.off_diagonal is None and not 0 <= coefficient <= 1:
            raise UserError(f"specify_lambda is what entries off the diagonal are multiplied by here, 0 to 1; got {coefficient}")

    def lines_form(self) -> Method:
        fixed = replace(self, off_diagonal=1.0) if self.off_diagonal is None else self
        return LiNeS(replace(fixed, grid=self.betas))
