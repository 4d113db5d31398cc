"""What methods share that merge layers' matrices whole, and all other entries by a simple rule."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from src.errors import collect, raise_any, shorten
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import Triplets
from src.merging.engine.matrices import SPLIT, check_attention, matrix_names, matrix_pattern, per_matrix, unpacked
from src.merging.method import MergeFamily, Searched
from src.task_vectors import TaskVector

REST = {
    "average": lambda stack: stack.mean(0),
    "sum": lambda stack: stack.sum(0),
    "zero": lambda stack: stack[0].zero_(),  # of a stack that was read, so that NaNs are found
}


@dataclass(frozen=True, kw_only=True)
class Matrixwise(Searched):
    """A method that merges whole matrices, of all tasks at once.

    matrices: which parameters count, a key of `matrices.SELECTIONS` or a regular expression of names.
    attention: `packed` leaves matrices as they are stored, queries, keys and values in one; `split` merges each on its own.
    rest: what the other entries get, `average`, `sum` or `zero`.
    """

    matrices: str
    attention: str
    rest: str

    decomposes = True

    def __post_init__(self):
        super().__post_init__()
        problems: list[str] = []
        with collect(problems):
            matrix_pattern(self.matrices)
        with collect(problems):
            check_attention(self.attention)
        if self.rest not in list(REST):
            problems.append(f"method.rest is one of {', '.join(REST)}; got {self.rest}")
        raise_any(problems)

    @property
    def splits_attention(self) -> bool:
        return self.attention == SPLIT

    @abstractmethod
    def merge(self, stack: Tensor) -> Tensor:
        """Return the merged matrix, (m, n), of the tasks' own, (tasks, m, n)."""

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        return MergeFamily.shared(inputs.tasks, self.vector(inputs))

    def names(self, inputs: MergeInputs) -> list[str]:
        """Return the names of the parameters that it merges as matrices."""
        return [key for key in matrix_names(inputs, self.matrices) if self.is_merged(inputs.outline[key].shape)]

    def is_merged(self, shape: torch.Size) -> bool:
        """Whether matrices of a shape, (m, n), are merged as such rather than like the other entries."""
        return True

    def doubt(self, shape: torch.Size) -> str | None:
        """Return what a user should know of merging a stack of a shape, (tasks, m, n), as the end of a sentence, or None."""
        return None

    def notes(self, inputs: MergeInputs) -> list[str]:
        names: dict[str, list[str]] = {}
        for key in matrix_names(inputs, self.matrices):
            parts, _ = unpacked(self.splits_attention, key, inputs.outline[key])
            doubt = self.doubt(torch.Size((len(inputs.tasks), *parts[0].shape)))
            if doubt and inputs.changed(key):
                names.setdefault(doubt, []).append(key)
        return [*super().notes(inputs), *(f"{shorten(keys)}: {doubt}" for doubt, keys in names.items())]

    def vector(self, inputs: MergeInputs) -> TaskVector:
        """Return the merged vector, coefficient 1; zero where no task changed a parameter."""
        return inputs.matrixwise(
            self.names(inputs),
            lambda key, stack: per_matrix(self.splits_attention, key, stack, self.merge),
            REST[self.rest],
        )


@dataclass(frozen=True, kw_only=True)
class Spectral(Matrixwise):
    """A method whose merged matrices come as singular triplets."""

    @abstractmethod
    def triplets(self, stack: Tensor) -> Triplets:
        """Return the merged matrix's singular triplets, in any order, of the tasks' own matrices, (tasks, m, n)."""

    def merge(self, stack: Tensor) -> Tensor:
        return self.triplets(stack).product


NO_DIRECTIONS = "fewer rows or columns than the {} tasks, so that none of their singular directions is kept: all change is lost"


def lost_change(shape: torch.Size) -> str | None:
    """Return that a stack, (tasks, m, n), has fewer directions than tasks, where none is left for each; None if it has not."""
    tasks, rows, columns = shape
    if tasks <= min(rows, columns):
        return None
    return NO_DIRECTIONS.format(tasks)
