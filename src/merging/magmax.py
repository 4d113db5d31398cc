"""MagMax (Marczak et al., ECCV 2024): each entry of the task vector that moved it most."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Searched


@dataclass(frozen=True, kw_only=True)
class MagMax(Searched):
    """Each entry of the task vector in which it is largest in magnitude; of equally large ones the last task's."""

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        return MergeFamily.shared(inputs.tasks, inputs.slicewise(largest))


def largest(stack: Tensor) -> Tensor:
    """Return the entries of largest magnitude, (tasks, n) -> (n); of equally large ones the last."""
    highest, lowest = stack.amax(0), stack.amin(0).neg_()
    found = torch.maximum(highest, lowest).copysign_(highest - lowest)  # several times as fast as choosing task by task
    (opposite,) = ((highest == lowest) & (highest > 0)).nonzero(as_tuple=True)
    if len(opposite):
        columns = stack[:, opposite]
        last = (columns.abs() == highest[opposite]).mul(torch.arange(1, len(stack) + 1, device=stack.device)[:, None]).amax(0)
        found[opposite] = columns.gather(0, last[None] - 1)[0]
    return found
