"""Objectives of merging, each a quadratic penalty by which a task draws a parameter to its own (see `normal_equations`)."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from src.merging.engine import normal_equations
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.normal_equations import NormalEquations
from src.merging.engine.statistics import FISHER_BLOCK, FISHER_DIAG, GRAM_IN, GRAM_OUT, Statistic, scale_off_diagonal


class Objective(ABC):
    """An objective with the statistics of some inputs.

    needs: the kinds of these.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: MergeInputs):
        self._statistics = [Statistic(inputs, kind) for kind in self.needs]

    def __contains__(self, key: str) -> bool:
        """Whether there are equations for a parameter; others are averaged."""
        return all(key in statistic for statistic in self._statistics)

    @abstractmethod
    def equations(self, values: Tensor, statistics: list[Tensor], weights: Tensor, off_diagonal: float) -> NormalEquations:
        """Return the equations of one parameter.

        values: the tasks' own, (tasks, *shape).
        statistics: of the kinds of `needs`, (tasks, ...) each; they are edited.
        weights: of the tasks, (tasks,).
        off_diagonal: what entries of matrices off their diagonals are multiplied by.
        """

    def of(self, key: str, values: Tensor, weights: Tensor, off_diagonal: float) -> NormalEquations:
        """Return the equations of a parameter, scaled so that no product leaves the range of its dtype."""
        statistics = [
            _near_one(statistic.stacked(key, torch.promote_types(values.dtype, statistic.dtype_of(key)))).to(values.dtype)
            for statistic in self._statistics
        ]
        return self.equations(values, statistics, weights.to(values), off_diagonal)

    def traces(self, inputs: MergeInputs) -> Tensor:
        """Return the trace of each task's matrix over all parameters, (tasks,), float64."""
        total = torch.zeros(len(inputs.tasks), dtype=torch.float64)
        for key in inputs.outline:
            if self._statistics and key in self:
                total += torch.stack([statistic.traces_of(key) for statistic in self._statistics]).prod(0)
        return total


class Average(Objective):
    """The mean: all parameters of all tasks count alike."""

    def equations(self, values: Tensor, statistics: list[Tensor], weights: Tensor, off_diagonal: float) -> NormalEquations:
        return normal_equations.of_diagonals(values, _times(torch.ones_like(values), weights))


class FisherDiagonal(Objective):
    """The diagonal Fisher information, without a floor: where no task has any, a parameter stays where it starts."""

    needs = (FISHER_DIAG,)

    def equations(self, values: Tensor, statistics: list[Tensor], weights: Tensor, off_diagonal: float) -> NormalEquations:
        return normal_equations.of_diagonals(values, _times(statistics[0], weights))


class FisherBlock(Objective):
    """The Fisher information of each (IA)^3 vector as a whole matrix."""

    needs = (FISHER_BLOCK,)

    def equations(self, values: Tensor, statistics: list[Tensor], weights: Tensor, off_diagonal: float) -> NormalEquations:
        return normal_equations.of_blocks(values, _times(scale_off_diagonal(statistics[0], off_diagonal), weights))


class LayerInputs(Objective):
    """RegMean's: the Gram matrix of each layer's inputs."""

    needs = (GRAM_IN,)

    def equations(self, values: Tensor, statistics: list[Tensor], weights: Tensor, off_diagonal: float) -> NormalEquations:
        return normal_equations.of_inputs(values, _times(scale_off_diagonal(statistics[0], off_diagonal), weights))


class KroneckerFactors(Objective):
    """K-FAC (Martens and Grosse, ICML 2015): the Kronecker product of the Gram matrices of a layer's inputs and of the
    gradients of its outputs."""

    needs = (GRAM_OUT, GRAM_IN)  # in this order, as those of inputs are collected with the others

    def equations(self, values: Tensor, statistics: list[Tensor], weights: Tensor, off_diagonal: float) -> NormalEquations:
        outputs, inputs = (scale_off_diagonal(each, off_diagonal) for each in statistics)
        return normal_equations.of_kronecker(values, inputs, _times(outputs, weights))


OBJECTIVES: dict[str, type[Objective]] = {
    "average": Average,
    "fisher": FisherDiagonal,
    "block_fisher": FisherBlock,
    "regmean": LayerInputs,
    "kfac": KroneckerFactors,
}


def _times(statistics: Tensor, weights: Tensor) -> Tensor:
    """Return each task's statistic times its weight; edited in place."""
    return statistics.mul_(weights.view(-1, *[1] * (statistics.ndim - 1)))


def _near_one(statistics: Tensor) -> Tensor:
    """Return the tasks' statistics times one power of two, which rounds nothing, by which their largest is between 1 and 2.

    They are edited in place: of large layers they take most of the memory.
    """
    largest = torch.maximum(statistics.amax(), -statistics.amin())
    exponent = -largest.log2().floor().clamp(min=-126)  # a larger power of two is infinite in float32
    return statistics.mul_(exponent.exp2()) if largest > 0 else statistics
