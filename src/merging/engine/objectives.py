"""Objectives of merging, each a quadratic penalty by which a task draws a parameter to its own (see `normal_equations`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.merging.engine import normal_equations
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.normal_equations import NormalEquations
from src.merging.engine.statistics import FISHER_BLOCK, FISHER_DIAG, GRAM_IN, GRAM_OUT, Statistic, scale_off_diagonal


@dataclass(frozen=True)
class Objective:
    """An objective: the equations of a parameter, of the tasks' values, (tasks, *shape), and their statistics.

    needs: the kinds of these.
    equations: called with the values and, of each kind, the statistics of the tasks.
    """

    needs: tuple[str, ...]
    equations: Callable[..., NormalEquations]

    @property
    def has_off_diagonal(self) -> bool:
        """Whether its statistics are matrices with entries off their diagonals."""
        return bool(set(self.needs) - {FISHER_DIAG})


OBJECTIVES = {
    # The mean: all parameters of a task count alike, by its weight.
    "average": Objective((), normal_equations.of_diagonals),
    # Without a floor: where no task has any information, a parameter stays where it starts.
    "fisher": Objective((FISHER_DIAG,), normal_equations.of_diagonals),
    # The information of each (IA)^3 vector as a whole matrix.
    "block_fisher": Objective((FISHER_BLOCK,), normal_equations.of_blocks),
    # Of RegMean: the inputs of each layer.
    "regmean": Objective((GRAM_IN,), normal_equations.of_inputs),
    # K-FAC (Martens and Grosse, ICML 2015): the inputs, and the gradients of the outputs.
    "kfac": Objective((GRAM_IN, GRAM_OUT), normal_equations.of_kronecker),
}


class Equations:
    """The equations of an objective for some inputs.

    Raise UserError, with all that is wrong with the statistics.
    """

    def __init__(self, objective: Objective, inputs: MergeInputs):
        self._objective, self._inputs = objective, inputs
        self._statistics = [Statistic(inputs, kind) for kind in objective.needs]

    def __contains__(self, key: str) -> bool:
        """Whether there are equations for a parameter; others are averaged."""
        return all(key in statistic for statistic in self._statistics)

    def of(self, key: str, values: Tensor, weights: Sequence[float], off_diagonal: float) -> NormalEquations:
        """Return the equations of a parameter, times a number that keeps their terms in range (see `Statistic.copies`).

        values: the tasks' own, (tasks, *shape).
        weights: of the tasks.
        off_diagonal: what entries of matrices off their diagonals are multiplied by.
        """
        kinds = [list(statistic.copies(key, values.dtype)) for statistic in self._statistics] or [list(torch.ones_like(values))]
        if self._objective.has_off_diagonal:
            kinds = [[scale_off_diagonal(matrix, off_diagonal) for matrix in matrices] for matrices in kinds]
        for matrix, weight in zip(kinds[-1], weights):
            matrix.mul_(weight)
        return self._objective.equations(values, *kinds)

    def traces(self) -> Tensor:
        """Return the trace of each task's matrix over all parameters, (tasks,), float64; 0 without statistics."""
        total = torch.zeros(len(self._inputs.tasks), dtype=torch.float64)
        for key in self._inputs.outline:
            if self._statistics and key in self:
                total += torch.stack([statistic.traces_of(key) for statistic in self._statistics]).prod(0)
        return total
