"""TSV-M (Gargiulo et al., CVPR 2025, Task Singular Vectors): merge the tasks' leading singular directions,
made orthogonal to one another."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.merging.engine.linear_algebra import Triplets, concatenated, leading_triplets_of_each, orthogonalised
from src.merging.matrixwise import Spectral, lost_change


@dataclass(frozen=True, kw_only=True)
class TSVM(Spectral):
    """The tasks' leading singular triplets of each layer's matrices, 1/T of them a task; other entries are averaged."""

    def triplets(self, stack: Tensor) -> Triplets:
        return merged_triplets(stack)

    def doubt(self, shape: torch.Size) -> str | None:
        return lost_change(shape)

    def least_share(self, tasks: int) -> float:
        return 1.0


def merged_triplets(stack: Tensor) -> Triplets:
    """Return the tasks' leading singular triplets, 1/T of them a task, made orthogonal, of their matrices, (tasks, m, n)."""
    rank = int(min(stack.shape[1:]) * (1 / len(stack)))
    return orthogonalised(concatenated(leading_triplets_of_each(stack, rank)))
