"""CART (Choi et al., 2025): the average of the models, and what each task has beside it, in low rank."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import concatenated, leading_triplets_of_each
from src.merging.engine.matrices import per_matrix
from src.merging.matrixwise import REST, Matrixwise
from src.merging.method import MergeFamily
from src.state_dict import Lazy, Memoized
from src.task_vectors import TaskVector
from src.validation import check_share


@dataclass(frozen=True, kw_only=True)
class Cart(Matrixwise):
    """The average of the models plus, times the coefficient, the sum of the tasks' low-rank differences to it.

    rank_fraction: share of a matrix's rank that a task's difference keeps.
    """

    rank_fraction: float

    def __post_init__(self):
        super().__post_init__()
        check_share("method.rank_fraction", self.rank_fraction)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        others = inputs.slicewise(REST[self.rest])
        matrices = inputs.each_parameter(self.names(inputs), self._terms)
        if inputs.keep:
            matrices = Memoized(dict.fromkeys(matrices), matrices.__getitem__)

        def vectors(coefficient: float) -> dict[str, TaskVector]:
            def entry(key: str) -> Tensor:
                return torch.add(*matrices[key], alpha=coefficient) if key in matrices else others[key]

            return dict.fromkeys(inputs.tasks, TaskVector.of(Lazy(inputs.outline, entry)))

        return MergeFamily(vectors)

    def merge(self, stack: Tensor) -> Tensor:
        """Return the sum of the tasks' low-rank differences to their mean, (tasks, m, n) -> (m, n)."""
        rank = max(1, int(self.rank_fraction * min(stack.shape[1:])))
        return concatenated(leading_triplets_of_each(stack.sub_(stack.mean(0)), rank)).product  # in place: as large as all tasks

    def _terms(self, key: str, stack: Tensor) -> tuple[Tensor, Tensor]:
        """Return what does not depend on the coefficient, and what it multiplies."""
        return stack.mean(0), per_matrix(self.splits_attention, key, stack, self.merge).contiguous()
