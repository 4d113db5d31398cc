"""Iso-C (Marczak et al., ICML 2025, No Task Left Behind): the sum of the task matrices with all singular values equal."""

from dataclasses import dataclass

from torch import Tensor

from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import polar_factor, weights_floor
from src.merging.method import MergeFamily, Searched


@dataclass(frozen=True, kw_only=True)
class IsoC(Searched):
    """The sum of each layer's matrices with every singular value replaced by their mean; other entries are averaged."""

    decomposes = True

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        vector = inputs.matrixwise(_isotropic_sum, lambda stack: stack.mean(0))
        return MergeFamily.shared(inputs.tasks, vector)


def _isotropic_sum(stack: Tensor) -> Tensor:
    """Return the sum of the matrices, (tasks, m, n) -> (m, n), with all singular values equal to their mean."""
    total = stack.sum(0)
    factor = polar_factor(total, weights_floor(total))
    mean = (factor * total).sum() / min(total.shape)  # <U V^T, U S V^T> is the sum of the singular values
    return factor.mul_(mean)
