"""Normal equations of merging by a quadratic penalty (Tam, Bansal, Raffel, TMLR 2024, MaTS): `operator(x) = target`.

Task i draws the merged parameter x to its own x_i by the quadratic form of a matrix C_i, which is an outer product of layer
statistics or smaller. The minimum of the sum solves  (sum of C_i) x = sum of C_i x_i.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.merging.engine.conjugate_gradient import Operator


@dataclass(frozen=True)
class NormalEquations:
    """The equations of one parameter.

    operator: the sum of the tasks' matrices, applied to a tensor of the parameter's shape.
    target: the right-hand side.
    diagonal: of the operator, of the parameter's shape: what its Jacobi preconditioner divides by.
    """

    operator: Operator
    target: Tensor
    diagonal: Callable[[], Tensor]


def of_diagonals(values: Tensor, diagonals: Sequence[Tensor]) -> NormalEquations:
    """Return the equations of diagonal matrices, of the parameter's shape each."""
    total, target = torch.zeros_like(values[0]), torch.zeros_like(values[0])
    for own, diagonal in zip(values, diagonals):
        total.add_(diagonal)
        target.addcmul_(diagonal, own)
    return NormalEquations(lambda x: total * x, target, lambda: total)


def of_blocks(values: Tensor, blocks: Sequence[Tensor]) -> NormalEquations:
    """Return the equations of matrices, (n, n) each, of vectors, (tasks, n)."""
    total, target = torch.zeros_like(blocks[0]), torch.zeros_like(values[0])
    for own, block in zip(values, blocks):
        total.add_(block)
        target.addmv_(block, own)
    return NormalEquations(lambda x: total @ x, target, total.diagonal)


def of_inputs(values: Tensor, inputs: Sequence[Tensor]) -> NormalEquations:
    """Return the equations of layers' matrices, (tasks, out, in), with Gram matrices of their inputs, (in, in) each."""
    total, target = torch.zeros_like(inputs[0]), torch.zeros_like(values[0])
    for own, gram in zip(values, inputs):
        total.add_(gram)
        target.addmm_(own, gram)
    return NormalEquations(lambda x: x @ total, target, lambda: total.diagonal().expand_as(target))


def of_kronecker(values: Tensor, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> NormalEquations:
    """Return the equations of layers' matrices, (tasks, out, in), with Gram matrices of their inputs, (in, in) each, and of
    the gradients of their outputs, (out, out) each, whose Kronecker products are the tasks' matrices."""

    def total(each: Iterable[Tensor]) -> Tensor:
        result = torch.zeros_like(values[0])
        for x, right, left in zip(each, inputs, outputs):  # nothing of all tasks is held but their factors
            result.addmm_(left, x @ right)
        return result

    def diagonal() -> Tensor:
        return sum(torch.outer(left.diagonal(), right.diagonal()) for right, left in zip(inputs, outputs))

    return NormalEquations(lambda x: total([x] * len(values)), total(values), diagonal)
