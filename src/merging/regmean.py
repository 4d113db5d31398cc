"""RegMean (Jin et al., ICLR 2023): each layer's matrix is the least-squares fit to all tasks' outputs on their own inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from src.merging.engine.inputs import MergeInputs
from src.merging.engine.least_squares import solve_positive
from src.merging.engine.statistics import GRAM_IN, Statistic, scale_off_diagonal
from src.merging.weighted_mean import OffDiagonal
from src.task_vectors import TaskVector


@dataclass(frozen=True, kw_only=True)
class RegMean(OffDiagonal):
    """W minimises the sum over tasks of tr((W - W_i) A_i (W - W_i)^T), A_i the Gram matrix of the layer's inputs.

    Directions that no task's inputs have, and all parameters but the layers' matrices, are averaged.
    """

    decomposes = True

    @property
    def needs(self) -> tuple[str, ...]:
        return (GRAM_IN,)

    def vectors(self, inputs: MergeInputs) -> Callable[[float], TaskVector]:
        grams = Statistic(inputs, GRAM_IN)
        weights = self.task_weights(len(inputs.tasks)) * self.scales(lambda: grams.traces, len(inputs.tasks))
        weights = (weights / weights.mean()).tolist()

        def merge(off_diagonal: float, key: str, stack: Tensor) -> Tensor:
            mean = self.mean(stack)
            total = torch.zeros(2 * stack.shape[2:], dtype=torch.float64, device=stack.device)
            pulls = torch.zeros_like(mean)  # of the mean's outputs to each task's own
            for own, gram, weight in zip(stack, grams.copies(key, stack.dtype), weights):
                scale_off_diagonal(gram, off_diagonal)
                total.add_(gram, alpha=weight)
                pulls.addmm_(own - mean, gram, alpha=weight)
            correction = solve_positive(total, pulls.T.double())
            return mean + correction.T.to(mean)

        return lambda off_diagonal: inputs.parameterwise(grams.__contains__, partial(merge, off_diagonal), self.mean)
