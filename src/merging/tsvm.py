"""TSV-M (Gargiulo et al., CVPR 2025, Task Singular Vectors): merge the tasks' leading singular directions,
made orthogonal to one another."""

from dataclasses import dataclass

from torch import Tensor

from src.merging.engine.inputs import Ingredients
from src.merging.engine.linear_algebra import concatenated, leading_triplets_of_each, orthogonalised
from src.merging.method import Family, Searched


@dataclass(frozen=True, kw_only=True)
class TSVM(Searched):
    """Of each layer's matrix every task keeps the 1/T leading singular triplets; other entries are averaged."""

    decomposes = True

    def __call__(self, given: Ingredients) -> Family:
        share = 1 / len(given.tasks)

        def merge(stack: Tensor) -> Tensor:
            rank = int(min(stack.shape[1:]) * share)
            return orthogonalised(concatenated(leading_triplets_of_each(stack, rank))).product

        vector = given.matrixwise(merge, lambda stack: stack.mean(0))
        return Family.shared(given.tasks, vector)
