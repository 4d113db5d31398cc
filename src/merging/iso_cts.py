"""Iso-CTS (Marczak et al., ICML 2025, No Task Left Behind): directions common to all tasks and directions of each task's
own, all with the same singular value."""

from dataclasses import dataclass

from torch import Tensor

from src.merging.engine.linear_algebra import (
    Triplets,
    concatenated,
    leading_triplets,
    leading_triplets_of_each,
    orthogonalised,
)
from src.merging.matrixwise import Spectral
from src.validation import check_share


@dataclass(frozen=True, kw_only=True)
class IsoCTS(Spectral):
    """Leading directions of the sum of each layer's matrices, and of each task outside these; other entries are averaged.

    common_space_fraction: share of a matrix's rank that is common; what is left is shared out among the tasks.
    """

    common_space_fraction: float

    is_isotropic = True

    def __post_init__(self):
        super().__post_init__()
        check_share("method.common_space_fraction", self.common_space_fraction)

    def triplets(self, stack: Tensor) -> Triplets:
        total = stack.sum(0)
        rank = min(total.shape)
        own = round((rank - int(self.common_space_fraction * rank)) / len(stack))
        common = leading_triplets(total, max(rank - own * len(stack), 0))
        outside = stack - common.left @ (common.left.T @ stack)
        parts = concatenated([*leading_triplets_of_each(outside, own), common])
        mean = parts.values.sum() / rank
        left, _, right = orthogonalised(parts)
        return Triplets(left, mean.expand(len(parts.values)), right)
