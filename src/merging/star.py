"""STAR (Lee et al., NAACL 2025, spectral truncation and rescale): the mean of the tasks' matrices without their small
singular values, which often disagree."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.linear_algebra import Triplets, concatenated, leading_triplets, singular_values
from src.merging.engine.threads import parallel_map
from src.merging.lines import OwnScale
from src.merging.matrixwise import Matrixwise
from src.validation import is_number


@dataclass(frozen=True, kw_only=True)
class Star(Matrixwise, OwnScale):
    """The mean of the tasks' matrices, of each the leading singular values, scaled so that their sum stays; other entries are
    averaged.

    eta: percentage of the sum of the singular values that is kept at least.
    """

    eta: float

    def __post_init__(self):
        super().__post_init__()
        if not (is_number(self.eta) and 0 < self.eta <= 100):
            raise UserError(f"method.eta is a percentage, above 0 and up to 100; got {self.eta}")

    def merge(self, stack: Tensor) -> Tensor:
        parts = list(parallel_map(self._truncated, stack, stack.device))
        return concatenated(parts).product / len(stack)

    def _truncated(self, matrix: Tensor) -> Triplets:
        """Return the fewest leading triplets of a matrix, (m, n), that hold the share kept, scaled to the sum of all."""
        values = singular_values(matrix)
        total = values.sum()
        rank = int((values.cumsum(0) < self.eta / 100 * total).sum()) + 1
        left, kept, right = leading_triplets(matrix, min(rank, len(values)))
        return Triplets(left, kept * torch.where(total > 0, total / kept.sum(dtype=total.dtype), 0.0).to(kept), right)
