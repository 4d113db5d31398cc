"""Normal equations of merging by a quadratic penalty (Tam, Bansal, Raffel, TMLR 2024, MaTS): `operator(x) = target`.

Task i draws the merged parameter x to its own x_i by the quadratic form of a matrix C_i, which is an outer product of layer
statistics or smaller. The minimum of the sum solves  (sum of C_i) x = sum of C_i x_i.
"""

from collections.abc import Callable, Iterable
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


def of_identities(values: Tensor) -> NormalEquations:
    """Return the equations whose solution is the mean of `values`, (tasks, *shape)."""
    return NormalEquations(lambda x: x.clone(), values.mean(0), lambda: torch.ones_like(values[0]))


def of_diagonals(values: Tensor, diagonals: Tensor) -> NormalEquations:
    """Return the equations of diagonal matrices, (tasks, *shape) like the values."""
    total = diagonals.sum(0)
    return NormalEquations(lambda x: total * x, (diagonals * values).sum(0), lambda: total)


def of_blocks(values: Tensor, blocks: Tensor) -> NormalEquations:
    """Return the equations of matrices, (tasks, n, n), of vectors, (tasks, n)."""
    total = blocks.sum(0)
    target = torch.bmm(blocks, values[:, :, None]).sum(0)[:, 0]
    return NormalEquations(lambda x: total @ x, target, total.diagonal)


def of_inputs(values: Tensor, inputs: Tensor) -> NormalEquations:
    """Return the equations of layers' matrices, (tasks, out, in), with Gram matrices of their inputs, (tasks, in, in)."""
    total = inputs.sum(0)
    target = torch.bmm(values, inputs).sum(0)
    return NormalEquations(lambda x: x @ total, target, lambda: total.diagonal().expand_as(target))


def of_kronecker(values: Tensor, inputs: Tensor, outputs: Tensor) -> NormalEquations:
    """Return the equations of layers' matrices, (tasks, out, in), with Gram matrices of their inputs, (tasks, in, in), and of
    the gradients of their outputs, (tasks, out, out), whose Kronecker products are the tasks' matrices."""

    def total(each: Iterable[Tensor]) -> Tensor:
        result = torch.zeros_like(values[0])
        for x, right, left in zip(each, inputs, outputs):  # nothing of all tasks is held but their factors
            result.addmm_(left, x @ right)
        return result

    def diagonal() -> Tensor:
        return outputs.diagonal(dim1=1, dim2=2).T @ inputs.diagonal(dim1=1, dim2=2)

    return NormalEquations(lambda x: total([x] * len(values)), total(values), diagonal)
