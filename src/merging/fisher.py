"""Fisher merging (Matena and Raffel, NeurIPS 2022): the mean of the models, each entry weighted by its Fisher information."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.statistics import FISHER_DIAG, Statistic
from src.merging.method import MergeFamily
from src.merging.weighted_mean import WeightedMean
from src.validation import is_number


@dataclass(frozen=True, kw_only=True)
class Fisher(WeightedMean):
    """The mean of the models, each entry weighted by its diagonal Fisher information; parameters without any are averaged.

    floor: the least information, so that an entry of which no task has any is averaged; with `normalise`, of a mean of 1.
    """

    floor: float

    def __post_init__(self):
        super().__post_init__()
        if not is_number(self.floor) or self.floor < 0:
            raise UserError(f"method.floor is a number, at least 0; got {self.floor}")

    @property
    def needs(self) -> tuple[str, ...]:
        return (FISHER_DIAG,)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        fisher, weights = Statistic(inputs, FISHER_DIAG), self.task_weights(len(inputs.tasks))
        scales = self.scales(lambda: fisher.traces / inputs.size, len(inputs.tasks))
        information_of = lru_cache(maxsize=2)(fisher.of)  # of the parameter whose slices are merged

        def merge(key: str, part: slice, stack: Tensor) -> Tensor:
            if key not in fisher:
                return self.mean(stack)
            total = torch.zeros_like(stack[0])
            for row, information, scale, weight in zip(stack, information_of(key), scales.tolist(), weights.tolist()):
                importance = information.reshape(-1)[part].to(device=stack.device, dtype=torch.float64).mul_(scale)
                if not importance.amin() >= 0 or not importance.sum().isfinite():
                    fisher.refuse(key)
                importance = importance.clamp_min_(self.floor).mul_(weight).to(stack.dtype)
                row.mul_(importance)
                total.add_(importance)
            return torch.where(total > 0, stack.sum(0) / total, 0.0)

        return MergeFamily.shared(inputs.tasks, inputs.partwise(merge))
