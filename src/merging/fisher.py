"""Fisher merging (Matena and Raffel, NeurIPS 2022): the mean of the models, each entry weighted by its Fisher information."""

from dataclasses import dataclass

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
        scales = self.scales(fisher.traces / inputs.size) if self.normalise else torch.ones(len(inputs.tasks))

        def merge(key: str, part: slice, stack: Tensor) -> Tensor:
            importance = torch.ones_like(stack)
            if key in fisher:
                for row, information, scale in zip(importance, fisher.of(key), scales):
                    row.copy_(information.reshape(-1)[part]).mul_(scale).clamp_min_(self.floor)
            importance.mul_(weights.to(stack)[:, None])
            total = importance.sum(0)
            return torch.where(total > 0, stack.mul_(importance).sum(0) / total, 0.0)

        return MergeFamily.shared(inputs.tasks, inputs.partwise(merge))
