"""Norms of the tasks' vectors: a warning before a merge of vectors of very unequal length, and their equalisation.

Most methods weigh tasks by the size of their vectors; one that is several times as long as the others has cost whole merges
tens of points (DisTaC, ICLR 2026).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest

import torch
from torch import Tensor

from src.merging.engine.edits import Edit, Span
from src.merging.engine.inputs import MergeInputs

LARGE = 3  # times the median norm
WINDOWS, WINDOW = 16, 2**10  # parts of a parameter that an estimate reads, and their entries
PARAMETERS = 256  # of which it reads parts, the largest ones


def norms(inputs: MergeInputs) -> Tensor:
    """Return the 2-norm of each task's vector, (tasks,), float64, unedited."""
    unedited = inputs.unedited
    squares = unedited.scan_together(lambda stack: torch.linalg.vector_norm(stack, dim=1, dtype=torch.float64).square().cpu())
    return sum(squares, start=torch.zeros(len(inputs.tasks), dtype=torch.float64)).sqrt()


def estimated_norms(inputs: MergeInputs) -> Tensor:
    """Return about the 2-norm of each task's vector, (tasks,), from evenly spaced parts of its largest parameters."""
    squares = torch.zeros(len(inputs.tasks), dtype=torch.float64)
    changed = filter(inputs.changed, inputs.outline)
    for key in nlargest(PARAMETERS, changed, key=lambda key: inputs.outline[key].numel()):
        pretrained, models = inputs.weights(key)
        size = len(pretrained)
        step = max(size // WINDOWS, WINDOW)
        parts = [slice(start, start + WINDOW) for start in range(0, size, step)]
        base = torch.cat([pretrained[part] for part in parts]).to(torch.float64)
        for row, model in enumerate(models):
            difference = torch.cat([model[part] for part in parts]).to(torch.float64) - base
            squares[row] += difference.square().sum().cpu() * (size / len(base))
    return squares.sqrt()


def norm_warnings(inputs: MergeInputs) -> list[str]:
    """Return a sentence on task vectors that are more than LARGE times as long as the median one; [] if there are none."""
    if not _long(estimated_norms(inputs), LARGE / 2):
        return []
    exact = norms(inputs)
    median = _median(exact)
    return [
        f"the task vector of {inputs.tasks[row]} is {exact[row] / median:.1f} times as long as the median one, and counts so "
        "much more in most merges; compare with normalise=norms, which gives all the median length"
        for row in _long(exact, LARGE)
    ]


@dataclass(frozen=True, eq=False)
class Scale(Edit):
    """Each task's vector times a number: `factors`, (tasks,)."""

    factors: Tensor

    def __call__(self, stack: Tensor, spans: Sequence[Span], tasks: Sequence[str]) -> None:
        stack.mul_(self.factors.to(stack)[:, None])


def equalised(inputs: MergeInputs) -> MergeInputs:
    """Return the inputs with every task's vector at the length of the median one; those that are zero stay so."""
    exact = norms(inputs)
    return inputs.edited(Scale(torch.where(exact > 0, _median(exact) / exact, 1.0)))


def _long(lengths: Tensor, times: float) -> list[int]:
    """Return the rows of `lengths` that are more than `times` the median."""
    return [row for row, length in enumerate(lengths.tolist()) if length > times * _median(lengths) > 0]


def _median(lengths: Tensor) -> float:
    """Return the lower median of the lengths that are not zero; 0 if all are."""
    lengths = lengths[lengths > 0]
    return lengths.median().item() if len(lengths) else 0.0
