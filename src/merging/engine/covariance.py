"""Functions of the covariance of several matrices' rows, C = sum of w_t S_t^T S_t, by its eigenvectors.

A task's matrix x is drawn to its own one along the directions in which that task's matrix is large: the merged matrix
minimises the sum of w_t |(X - T_t) S_t^T|^2, and what stops short of the minimum is a function of C's eigenvalues.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from src.merging.engine.least_squares import largest_eigenvalue
from src.merging.engine.linear_algebra import DOUBLE_AT_ONCE, DOUBLE_BELOW_EIGENVALUE, EPSILON

BLOCK = 384  # columns of a covariance computed at a time


class Eigenpairs(NamedTuple):
    """Nonzero eigenvalues, largest first, (r,), and the eigenvectors in columns, (n, r), of one dtype."""

    values: Tensor
    vectors: Tensor


def eigenpairs(matrices: Tensor, weights: Tensor) -> Eigenpairs:
    """Return the eigenpairs of the covariance of `matrices`, (tasks, m, n), in as many digits as it is determined to.

    Eigenvalues that come of singular values below float32's epsilon x n x the largest one count as zero.

    weights: (tasks,) float64, not negative.
    """
    tasks, rows, columns = matrices.shape
    if tasks * rows < columns:
        values, vectors = _of_few_rows(matrices, weights)
    else:
        total = _well_conditioned(matrices, weights)
        values, vectors = torch.linalg.eigh(covariance(matrices, weights, torch.float64) if total is None else total)
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values > (columns * EPSILON) ** 2 * values[0]).sum())
    return Eigenpairs(values[:rank], vectors[:, :rank])


def covariance(matrices: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the covariance of `matrices`, (tasks, m, n) -> (n, n), in a dtype."""
    size = matrices.shape[2]
    step = BLOCK if matrices.device.type == "cpu" else size
    total = torch.zeros(size, size, dtype=dtype, device=matrices.device)
    parts = [slice(start, min(start + step, size)) for start in range(0, size, step)]
    for matrix, weight in zip(matrices, weights.tolist()):
        matrix = matrix.to(dtype)
        for part in parts:  # on and below the diagonal
            total[part, : part.stop].addmm_(matrix[:, part].T, matrix[:, : part.stop], alpha=weight)
    for part in parts:
        total[: part.start, part] = total[part, : part.start].T
    return total


def pulls(matrices: Tensor, origin: Tensor, estimates: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum of w_t (T_t - origin) S_t^T S_t, (m, n), in a dtype: half the descent of the minimised sum at `origin`.

    matrices: T, (tasks, m, n).
    origin: (m, n).
    estimates: S, which the covariance is of, (tasks, m, n).
    """
    total = torch.zeros(origin.shape, dtype=dtype, device=origin.device)
    for matrix, estimate, weight in zip(matrices, estimates, weights.tolist()):
        difference, estimate = matrix.to(dtype) - origin, estimate.to(dtype)
        total.add_(torch.linalg.multi_dot([difference, estimate.T, estimate]), alpha=weight)
    return total


def _well_conditioned(matrices: Tensor, weights: Tensor) -> Tensor | None:
    """Return the covariance in float32 if its eigenvalues are near enough to one another for that; else None."""
    if matrices.dtype == torch.float64 or matrices.device.type in DOUBLE_AT_ONCE:
        return None
    total = covariance(matrices, weights, torch.float32)
    least = DOUBLE_BELOW_EIGENVALUE * largest_eigenvalue(total)
    shifted = total.clone()
    shifted.diagonal().sub_(least)
    return None if torch.linalg.cholesky_ex(shifted).info else total


def _of_few_rows(matrices: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues that are not zero for want of rows, ascending, and their eigenvectors, in float64."""
    stacked = (matrices.double() * weights.to(matrices.device).sqrt()[:, None, None]).flatten(0, 1)
    values, vectors = torch.linalg.eigh(stacked @ stacked.T)
    return values, (stacked.T @ vectors) / torch.where(values > 0, values, torch.inf).sqrt()
