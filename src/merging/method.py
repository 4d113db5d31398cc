"""The interface of merging methods: `method(inputs)` returns a merge family, `family(coefficient)` is `{task: vector}`.

A method that merges into one model maps every task to the same vector; one that gives each task its own maps each to
its own, rebuilt from a compact form (one bit a parameter, or low-rank factors). A new method is one file with a frozen
dataclass (`Searched` or `Fixed`), and one yaml that names it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import ClassVar, NamedTuple

from src.compact.form import Compact
from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.norms import norm_warnings
from src.state_dict import Memoized, StateDict
from src.task_vectors import TaskVector
from src.validation import is_number

Accuracies = Mapping[str, float]
GRIDS = ("grid", "betas", "off_diagonals")  # fields with coefficients to try


class Multiples(NamedTuple):
    """Vectors whose entries are multiples of those of one: entry `key` at a coefficient is `factor(coefficient, key)` times
    that of `vector`."""

    vector: TaskVector
    factor: Callable[[float, str], float]

    def at(self, coefficient: float) -> TaskVector:
        """Return the multiple at a coefficient."""
        return self.vector.map(lambda key, entry: entry * self.factor(coefficient, key))


@dataclass(frozen=True)
class MergeFamily:
    """All merges that differ in one coefficient: `family(coefficient)` is `{task: vector to add}`.

    vectors: returns `{task: vector}` for a coefficient.
    scale: under LiNeS, returns what an entry of a given depth is multiplied by, for a coefficient.
    multiples: where each entry of all the vectors is a multiple of one tensor, those tensors and the factors.
    compact: where each task has a vector of its own, returns what all are rebuilt from, for a coefficient by task.
    masks: packed, by task and key, where the vectors were made with them.
    """

    vectors: Callable[[float], dict[str, TaskVector]]
    scale: Callable[[float, float | None], float] | None = None
    multiples: Multiples | None = None
    compact: Callable[[Mapping[str, float]], Compact] | None = None
    masks: Mapping[str, StateDict] | None = None

    def __call__(self, coefficient: float) -> dict[str, TaskVector]:
        return self.vectors(coefficient)

    @classmethod
    def shared(cls, tasks: Sequence[str], vector: TaskVector, masks: Mapping[str, StateDict] | None = None) -> "MergeFamily":
        """Return the family that gives every task `vector`, times the coefficient."""
        return cls(
            lambda coefficient: dict.fromkeys(tasks, vector if coefficient == 1 else coefficient * vector),
            multiples=Multiples(vector, lambda coefficient, key: coefficient),
            masks=masks,
        )

    @classmethod
    def of_compact(cls, tasks: Sequence[str], compact: Callable[[Mapping[str, float]], Compact]) -> "MergeFamily":
        """Return the family whose vectors are those of `compact`."""

        def vectors(coefficient: float) -> dict[str, TaskVector]:
            form = compact(dict.fromkeys(tasks, coefficient))
            return {task: TaskVector.of(form.vector(task)) for task in tasks}

        return cls(vectors, compact=compact)

    def at(self, coefficients: Mapping[str, float]) -> dict[str, TaskVector]:
        """Return each task's vector at its own coefficient."""
        by_coefficient = {coefficient: self(coefficient) for coefficient in dict.fromkeys(coefficients.values())}
        return {task: by_coefficient[coefficient][task] for task, coefficient in coefficients.items()}

    def masks_at(self, coefficients: Mapping[str, float]) -> Mapping[str, StateDict] | None:
        """Return the masks that each task's vector at its own coefficient is made with, if it is."""
        return self.compact(coefficients).masks() or None if self.compact else self.masks

    def depth_profile(self, coefficients: Mapping[str, float], inputs: MergeInputs) -> list[tuple[str, float]]:
        """Return what LiNeS multiplies the entries outside all blocks, and those of each block, by; [] without LiNeS."""
        if self.scale is None:
            return []
        coefficient = next(iter(coefficients.values()))
        depths = sorted({depth for depth in map(inputs.depth, inputs.outline) if depth is not None})
        blocks = [(str(number), self.scale(coefficient, depth)) for number, depth in enumerate(depths)]
        return [("outside", self.scale(coefficient, None)), *blocks]


class Method(ABC):
    """A merging method: the expensive work is done once, by the call; the family it returns varies the coefficient cheaply.

    per_task: whether each task gets a vector of its own.
    makes_masks: whether it makes masks, which a run saves beside the checkpoints.
    decomposes: whether it decomposes matrices: so slow that LiNeS, which reads the merged vector twice, holds it in memory.
    needs_models: whether it merges fine-tuned models, which every task then has.
    combines: whether it combines task vectors: not the one that takes one of them, a model as it is, or none.
    is_isotropic: whether it makes singular values equal, which then do not determine their directions.
    drops_entries: whether it drops entries of the task vectors first, which have places in whole parameters alone.
    needs: kinds of statistics of the tasks that it, or a method among its options, reads (see `engine.statistics`).
    unlabelled_split: of the unlabelled examples that it, or such a method, learns from (see `engine.unlabelled`); None of none.
    files: paths of further models that it reads, by `MergeInputs.read_model`.
    """

    per_task: ClassVar[bool] = False
    makes_masks: ClassVar[bool] = False
    decomposes: ClassVar[bool] = False
    needs_models: ClassVar[bool] = True
    combines: ClassVar[bool] = True
    is_isotropic: ClassVar[bool] = False
    drops_entries: ClassVar[bool] = False

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(kind for part in self._parts for kind in part.needs))

    @property
    def unlabelled_split(self) -> str | None:
        return next((split for part in self._parts if (split := part.unlabelled_split)), None)

    @property
    def _parts(self) -> list["Method"]:
        """The methods among its options, such as the one whose vector is masked."""
        return [option for field in fields(self) if isinstance(option := getattr(self, field.name), Method)]

    @property
    def files(self) -> tuple[str, ...]:
        return ()

    @property
    def splits_attention(self) -> bool:
        """Whether it merges queries, keys and values of a packed matrix apart."""
        return False

    @abstractmethod
    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        """Return the merge family of these inputs; what the coefficient does not change is computed here or on first use."""

    @abstractmethod
    def coefficients(self, tasks: int) -> tuple[float, ...]:
        """Return the coefficients to try with `tasks` tasks; of equally good ones the first is chosen."""

    @abstractmethod
    def respaced(self, points: int) -> "Method":
        """Return this method with a grid of `points` numbers from 0, which is left out, to the grid's largest."""

    @property
    def description(self) -> dict:
        """The method and the fields that decide its vectors (not the coefficients tried), as JSON values.

        The names of classes stand in files of masks, so they stay. A field at its default is left out: what earlier versions
        wrote, which had no such field, stays valid.
        """
        values = {field.name: value for field in fields(self)
                  if field.name not in GRIDS and (value := getattr(self, field.name)) != field.default}  # fmt: skip
        return {
            "method": type(self).__name__,
            **{name: value.description if isinstance(value, Method) else value for name, value in values.items()},
        }

    @property
    def mask_base(self) -> dict:
        """The description of the method whose vector this one's masks are made for; {} without masks."""
        return {}

    @property
    def mask_method(self) -> "Method | None":
        """The method that makes the masks this one needs, their lambda chosen on validation data; None if it needs none."""
        return None

    def with_masks(self, masks: Mapping[str, StateDict]) -> "Method":
        """Return this method with packed masks by task and key that were made earlier."""
        raise UserError(f"method.load_mask: {type(self).__name__} uses no masks; leave it out")

    def summed_inputs(self, inputs: MergeInputs) -> MergeInputs:
        """Return the inputs as this method sums them (trimmed, say): what LiNeS takes the norm of."""
        return inputs

    def lines_form(self) -> "Method | None":
        """Return this method's special form under LiNeS; None where it is the general one (see `lines.with_lines`).

        Raise UserError where the papers have none, with the reason.
        """
        return None

    def under_lines(self) -> "Method":
        """Return this method as the general form of LiNeS has it: over a grid of betas."""
        return self

    def least_share(self, tasks: int) -> float:
        """Return the least share of a task that SVC counts by default, of its paper (see `svc`)."""
        return 1 / tasks

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        """Raise UserError if the user may not ask for this coefficient."""
        if not math.isfinite(coefficient):
            raise UserError(f"specify_lambda is a finite number; got {coefficient}")

    def check_tasks(self, tasks: Sequence[str]) -> None:  # noqa: B027  most methods take any
        """Raise UserError if this method cannot be used on these tasks."""

    @property
    def takes_equal_norms(self) -> bool:
        """Whether it merges task vectors by their entries alone, so that these may be scaled to one length first."""
        return self.combines and not self.per_task and not self.mask_base

    def notes(self, inputs: MergeInputs) -> list[str]:
        """Return sentences on what a user should know of this method's merge of these inputs, which it does not ask for."""
        return norm_warnings(inputs) if self.takes_equal_norms else []

    def criterion(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> float:
        """Return what the search maximises, of validation accuracies by task: their mean over the fine-tuned models'."""
        return fmean(normalised(merged[task], finetuned[task]) for task in merged)

    def summary(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> dict[str, float]:
        """Return further figures to report, of test accuracies by task, by their names."""
        return {}


@dataclass(frozen=True)
class Wrapper(Method):
    """A method that wraps another one, `base`, and forwards to it every member that it does not define itself.

    Every member of `Method` stands here (a test compares them), so that a new one is never lost under a wrapper.
    """

    base: Method

    @property
    def per_task(self) -> bool:
        return self.base.per_task

    @property
    def makes_masks(self) -> bool:
        return self.base.makes_masks

    @property
    def decomposes(self) -> bool:
        return self.base.decomposes

    @property
    def needs_models(self) -> bool:
        return self.base.needs_models

    @property
    def combines(self) -> bool:
        return self.base.combines

    @property
    def is_isotropic(self) -> bool:
        return self.base.is_isotropic

    @property
    def drops_entries(self) -> bool:
        return self.base.drops_entries

    @property
    def takes_equal_norms(self) -> bool:
        return self.base.takes_equal_norms

    @property
    def needs(self) -> tuple[str, ...]:
        return self.base.needs

    @property
    def unlabelled_split(self) -> str | None:
        return self.base.unlabelled_split

    @property
    def files(self) -> tuple[str, ...]:
        return self.base.files

    @property
    def splits_attention(self) -> bool:
        return self.base.splits_attention

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return self.base.coefficients(tasks)

    def respaced(self, points: int) -> Method:
        return replace(self, base=self.base.respaced(points))

    @property
    def description(self) -> dict:
        return super().description

    @property
    def mask_base(self) -> dict:
        return self.base.mask_base

    @property
    def mask_method(self) -> Method | None:
        return self.base.mask_method

    def with_masks(self, masks: Mapping[str, StateDict]) -> Method:
        return replace(self, base=self.base.with_masks(masks))

    def summed_inputs(self, inputs: MergeInputs) -> MergeInputs:
        return self.base.summed_inputs(inputs)

    def lines_form(self) -> Method | None:
        form = self.base.lines_form()
        return form and replace(self, base=form)

    def under_lines(self) -> Method:
        return replace(self, base=self.base.under_lines())

    def least_share(self, tasks: int) -> float:
        return self.base.least_share(tasks)

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        self.base.check_coefficient(coefficient, tasks)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        self.base.check_tasks(tasks)

    def notes(self, inputs: MergeInputs) -> list[str]:
        return self.base.notes(inputs)

    def criterion(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> float:
        return self.base.criterion(merged, finetuned, zeroshot)

    def summary(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> dict[str, float]:
        return self.base.summary(merged, finetuned, zeroshot)


@dataclass(frozen=True, kw_only=True)
class Searched(Method):
    """A method whose coefficient is searched over `grid` on validation data."""

    grid: Sequence[float]

    def __post_init__(self):
        check_grid("method.grid", self.grid)

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return tuple(self.grid)

    def respaced(self, points: int) -> Method:
        return replace(self, grid=respace(self.grid, points))


class Fixed(Method):
    """A method with a fixed coefficient, which may depend on the number of tasks."""

    @abstractmethod
    def coefficient(self, tasks: int) -> float:
        """Return the fixed coefficient with `tasks` tasks."""

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return (self.coefficient(tasks),)

    def respaced(self, points: int) -> Method:
        return self


class Unscaled(Fixed):
    """A method whose vectors are used unscaled, with coefficient 1."""

    def coefficient(self, tasks: int) -> float:
        return 1.0

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        if coefficient != 1:
            raise UserError(f"this method has the fixed coefficient 1; leave specify_lambda={coefficient} out")


def require_shared(base: Method) -> None:
    """Raise UserError unless a base method makes one vector that all tasks share."""
    if not isinstance(base, Method):
        raise UserError(f"method.base is a method, as in method@method.base=sum; got {base}")
    if base.per_task:
        raise UserError(
            "method.base is a method that makes one model, such as method@method.base=sum; this one makes a model for each task"
        )


def multi_task_vector(base: Method, inputs: MergeInputs) -> StateDict:
    """Return the vector of a base method that all tasks share, coefficient 1, changed entries only, each computed once."""
    vector = next(iter(base(inputs)(1.0).values()))
    return Memoized({key: leaf for key, leaf in inputs.outline.items() if inputs.changed(key)}, vector.__getitem__)


def check_grid(name: str, grid: object) -> None:
    """Raise UserError unless `grid` is a list of numbers."""
    if not isinstance(grid, list | tuple) or not grid or not all(map(is_number, grid)):
        raise UserError(f"{name} is a list of numbers such as [0.1,0.2,0.3]; got {grid}")


def respace(grid: Sequence[float], points: int) -> tuple[float, ...]:
    """Return `points` evenly spaced numbers from 0 to the grid's largest, but for the 0 itself; in the direction of `grid`."""
    if points < 2:
        raise UserError(f"n_eval_points counts coefficients from 0 to the largest, so it is at least 2; got {points}")
    top = max(grid)
    numbers = [round(top * i / (points - 1), 12) for i in range(1, points)]
    return tuple(numbers if grid[0] <= grid[-1] else reversed(numbers))


def normalised(accuracy: float, reference: float) -> float:
    """Return `accuracy` over `reference`; 0 where the reference gets nothing right."""
    return accuracy / reference if reference else 0.0
