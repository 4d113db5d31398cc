"""TSV-M (Gargiulo et al., CVPR 2025, Task Singular Vectors): merge the tasks' leading singular directions,
made orthogonal to one another."""

from dataclasses import dataclass

from torch import Tensor

from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import concatenated, leading_triplets_of_each, orthogonalised
from src.merging.method import MergeFamily, Searched


@dataclass(frozen=True, kw_only=True)
class TSVM(Searched):
    """The tasks' leading singular triplets of each layer's matrices, 1/T of them a task; other entries are averaged."""

    decomposes = True

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        vector = inputs.matrixwise(merged_singular_vectors, lambda stack: stack.mean(0))
        return MergeFamily.shared(inputs.tasks, vector)


def merged_singular_vectors(stack: Tensor) -> Tensor:
    """Return the matrix of the tasks' leading singular triplets, made orthogonal: (tasks, m, n) -> (m, n)."""
    share = 1 / len(stack)
    rank = int(min(stack.shape[1:]) * share)
    return orthogonalised(concatenated(leading_triplets_of_each(stack, rank))).product
