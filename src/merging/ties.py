"""TIES-merging (Yadav et al., NeurIPS 2023): trim each vector, elect a sign for each entry, combine the entries that agree."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.trimming import VECTOR, check_percentage, check_scope, trimmed
from src.merging.method import MergeFamily, Searched


@dataclass(frozen=True, kw_only=True)
class Ties(Searched):
    """The `k` percent largest entries of each vector that agree with the elected sign.

    k: percentage kept of each vector.
    scope: `vector` for one threshold over a whole vector, `tensor` for one over each of its parameters.
    agg: `mean` of the agreeing non-zero entries, their `sum`, or the `max` in magnitude, with the elected sign.
    """

    k: float
    agg: str
    scope: str = VECTOR

    def __post_init__(self):
        super().__post_init__()
        check_percentage(self.k, "ties")
        check_scope(self.scope)
        if self.agg not in list(COMBINE):
            raise UserError(f"method.agg is one of {', '.join(COMBINE)}; got {self.agg}")

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        trimmed_inputs = trimmed(inputs, self.k, self.scope)

        # The sign that most columns of the whole vector elect decides the columns whose entries cancel exactly;
        # if that vote is a tie, their negative entries are kept, as in the released code.
        votes = trimmed_inputs.scan_together(lambda stack: stack.sum(0).sign_().sum(dtype=torch.float64))
        majority = float(torch.sign(sum(votes, start=torch.zeros(())))) or -1.0

        def merge(stack: Tensor) -> Tensor:
            sign = stack.sum(0).sign_()
            cancelled = (sign == 0) & (stack.amax(0) > 0)
            sign.masked_fill_(cancelled, majority)
            agreeing = stack.mul_(sign).clamp_min_(0)  # magnitudes; entries that disagree become zero
            return COMBINE[self.agg](agreeing).mul_(sign)

        vector = trimmed_inputs.slicewise(merge)
        return MergeFamily.shared(inputs.tasks, vector)


def _mean(agreeing: Tensor) -> Tensor:
    total = agreeing.sum(0)
    return total.div_(agreeing.sign_().sum(0).clamp_min_(1))


def _sum(agreeing: Tensor) -> Tensor:
    return agreeing.sum(0)


def _max(agreeing: Tensor) -> Tensor:
    return agreeing.amax(0)


COMBINE = {"mean": _mean, "sum": _sum, "max": _max}
