"""Iso-C (Marczak et al., ICML 2025, No Task Left Behind): the sum of the task matrices with all singular values equal."""

from dataclasses import dataclass

from torch import Tensor

from src.merging.engine.linear_algebra import Triplets, leading_triplets, polar_factor, weights_floor
from src.merging.matrixwise import Spectral


@dataclass(frozen=True, kw_only=True)
class IsoC(Spectral):
    """The sum of each layer's matrices with every singular value replaced by their mean; other entries are averaged."""

    is_isotropic = True

    def triplets(self, stack: Tensor) -> Triplets:
        left, values, right = leading_triplets(stack.sum(0), min(stack.shape[1:]))
        return Triplets(left, values.mean() * (values > 0), right)

    def merge(self, stack: Tensor) -> Tensor:
        total = stack.sum(0)
        factor = polar_factor(total, weights_floor(total))  # without the vectors of both sides apart
        mean = (factor * total).sum() / min(total.shape)  # <U V^T, U S V^T> is the sum of the singular values
        return factor.mul_(mean)
