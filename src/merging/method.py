"""What a merging method is: called once with its ingredients, it returns a family, `coefficient -> {task: vector}`.

A method that merges into one model maps every task to the same vector; one that gives each task its own maps each to
its own, rebuilt from a compact form (one bit a parameter, or low-rank factors). A new method is one file with a frozen
dataclass (`Searched` or `Fixed`), and one yaml that names it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import ClassVar

from src.compact import Compact
from src.errors import UserError
from src.merging.engine.inputs import Ingredients
from src.state_dict import StateDict
from src.task_vectors import TaskVector

Accuracies = Mapping[str, float]


@dataclass(frozen=True)
class Family:
    """All merges that differ in one coefficient: `family(coefficient)` is `{task: vector to add}`.

    scale: under LiNeS, what a coefficient multiplies an entry of a given depth by.
    compact: where each task has a vector of its own, what all are rebuilt from, for a coefficient by task.
    masks: packed, by task and key, where the vectors were made with them.
    """

    vectors: Callable[[float], dict[str, TaskVector]]
    scale: Callable[[float, float | None], float] | None = None
    compact: Callable[[Mapping[str, float]], Compact] | None = None
    masks: Mapping[str, StateDict] | None = None

    def __call__(self, coefficient: float) -> dict[str, TaskVector]:
        return self.vectors(coefficient)

    @classmethod
    def shared(cls, tasks: Sequence[str], vector: TaskVector, masks: Mapping[str, StateDict] | None = None) -> "Family":
        """The family that gives every task `vector`, times the coefficient."""
        return cls(lambda coefficient: dict.fromkeys(tasks, coefficient * vector), masks=masks)

    @classmethod
    def of_compact(cls, tasks: Sequence[str], compact: Callable[[Mapping[str, float]], Compact]) -> "Family":
        """The family whose vectors are those of `compact`."""

        def vectors(coefficient: float) -> dict[str, TaskVector]:
            held = compact(dict.fromkeys(tasks, coefficient))
            return {task: TaskVector.of(held.vector(task)) for task in tasks}

        return cls(vectors, compact=compact)

    def masks_for(self, coefficients: Mapping[str, float]) -> Mapping[str, StateDict] | None:
        """The masks that each task's vector at its own coefficient is made with, if it is."""
        return self.compact(coefficients).masks() or None if self.compact else self.masks

    def chosen(self, coefficients: Mapping[str, float]) -> dict[str, TaskVector]:
        """Each task's vector at its own coefficient."""
        found = {coefficient: self(coefficient) for coefficient in dict.fromkeys(coefficients.values())}
        return {task: found[coefficient][task] for task, coefficient in coefficients.items()}


class Method(ABC):
    """Prepare once (`__call__`), vary cheaply (the family it returns).

    per_task: whether each task gets a vector of its own; makes_masks: whether from masks that are worth saving;
    decomposes: whether by singular vectors, which takes so long that LiNeS, which needs a vector twice, keeps it.
    """

    per_task: ClassVar[bool] = False
    makes_masks: ClassVar[bool] = False
    decomposes: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, given: Ingredients) -> Family:
        """The family of merged vectors; what the coefficient does not change is computed here or on first use."""

    @abstractmethod
    def coefficients(self, tasks: int) -> tuple[float, ...]:
        """The coefficients to try for so many tasks, in the order in which the first of equals wins."""

    @abstractmethod
    def respaced(self, points: int) -> "Method":
        """This method with its grid cut anew: `points` numbers from 0, which is left out, to the grid's largest."""

    @property
    def mask_base(self) -> dict:
        """The description of the method whose vector this one's masks are made for; empty without masks."""
        return {}

    @property
    def mask_method(self) -> "Method | None":
        """The method whose masks, chosen on validation data, this one still lacks."""
        return None

    def with_masks(self, masks: Mapping[str, StateDict]) -> "Method":
        """This method with packed masks by task and key that were made earlier."""
        raise UserError(f"method.load_mask: {type(self).__name__} uses no masks; leave it out")

    @property
    def description(self) -> dict:
        """Which method this is, with the fields that decide its vectors (not the coefficients tried), as json values."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "grid"}
        told = {name: value.description if isinstance(value, Method) else value for name, value in own.items()}
        return {"method": type(self).__name__, **told}

    def used(self, given: Ingredients) -> Ingredients:
        """The ingredients as this method sums them (trimmed, say): what LiNeS takes the norm of."""
        return given

    def by_depth(self) -> "Method":
        """This method under LiNeS. Raises UserError where the papers have none, with the reason."""
        from src.merging.lines import LiNeS

        return LiNeS(self)

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        """Raise UserError if the user may not ask for this coefficient."""
        if not math.isfinite(coefficient):
            raise UserError(f"specify_lambda is a finite number; got {coefficient}")

    def check_tasks(self, tasks: Sequence[str]) -> None:  # noqa: B027  most methods take any
        """Raise UserError if this method cannot be used on these tasks."""

    def objective(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> float:
        """What the search maximises, of validation accuracies by task: their mean over the fine-tuned models'."""
        return fmean(over(merged[task], finetuned[task]) for task in merged)

    def summary(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> dict[str, float]:
        """Further figures to report, of test accuracies by task, by what they are called."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Searched(Method):
    """A method whose coefficient is searched over `grid` on validation data."""

    grid: Sequence[float]

    def __post_init__(self):
        check_grid("method.grid", self.grid)

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return tuple(self.grid)

    def respaced(self, points: int) -> Method:
        return replace(self, grid=spaced(self.grid, points))


class Fixed(Method):
    """A method whose coefficient is known."""

    @abstractmethod
    def coefficient(self, tasks: int) -> float:
        """The coefficient, for so many tasks."""

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return (self.coefficient(tasks),)

    def respaced(self, points: int) -> Method:
        return self


class Unscaled(Fixed):
    """A method whose vectors are used as they are."""

    def coefficient(self, tasks: int) -> float:
        return 1.0

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        if coefficient != 1:
            raise UserError(f"{type(self).__name__} has the fixed coefficient 1; leave specify_lambda={coefficient} out")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_grid(name: str, grid: object) -> None:
    """Raise UserError unless `grid` is a list of numbers."""
    if not isinstance(grid, list | tuple) or not grid or not all(map(is_number, grid)):
        raise UserError(f"{name} is a list of numbers such as [0.1,0.2,0.3]; got {grid}")


def spaced(grid: Sequence[float], points: int) -> tuple[float, ...]:
    """`points` numbers from 0 to the grid's largest, both counted, 0 then left out; in the direction of `grid`."""
    if points < 2:
        raise UserError(f"n_eval_points counts coefficients from 0 to the largest, so it is at least 2; got {points}")
    top = max(grid)
    numbers = [round(top * i / (points - 1), 12) for i in range(1, points)]
    return tuple(numbers if grid[0] <= grid[-1] else reversed(numbers))


def over(accuracy: float, reference: float) -> float:
    """`accuracy` normalised by `reference`; 0 where the reference gets nothing right."""
    return accuracy / reference if reference else 0.0
