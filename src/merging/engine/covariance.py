"""The covariance of several matrices' rows, C = sum of w_t S_t^T S_t, and functions of it.

A task's matrix is drawn to its own along the directions in which that task's matrix is large. An eigendecomposition takes
ten times as long as a Cholesky factor, which also tells whether all eigenvalues are above a bound.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from src.merging.engine.least_squares import largest_eigenvalue
from src.merging.engine.linear_algebra import DOUBLE_AT_ONCE, DOUBLE_BELOW_EIGENVALUE, EPSILON, add_gram, mirrored


class Eigenpairs(NamedTuple):
    """Nonzero eigenvalues, largest first, (r,), and the eigenvectors in columns, (n, r), of one dtype."""

    values: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class StackCovariance:
    """The covariance of a stack of matrices, S.

    matrices: S, (tasks, m, n).
    weights: of the tasks, not negative, (tasks,), float64.
    dtype: in which it is computed: float32 where its eigenvalues are near enough to one another for that.
    total: C, (n, n); None where all rows together are fewer than the columns.
    grams: S_t^T S_t of each task, where they take no more memory than the matrices; else [].
    """

    matrices: Tensor
    weights: Tensor
    dtype: torch.dtype
    total: Tensor | None
    grams: list[Tensor]

    @classmethod
    def of(cls, matrices: Tensor, weights: Tensor) -> "StackCovariance":
        """Return the covariance of `matrices`, in as many digits as it is determined to."""
        tasks, rows, columns = matrices.shape
        if tasks * rows < columns:
            return cls(matrices, weights, torch.float64, None, [])
        if matrices.dtype == torch.float32 and matrices.device.type not in DOUBLE_AT_ONCE:
            total, grams = _summed(matrices, weights, torch.float32)
            if _all_above(total, DOUBLE_BELOW_EIGENVALUE):
                return cls(matrices, weights, torch.float32, total, grams)
        return cls(matrices, weights, torch.float64, *_summed(matrices, weights, torch.float64))

    def pulls(self, matrices: Tensor, origin: Tensor) -> Tensor:
        """Return the sum of w_t (T_t - origin) S_t^T S_t, (m, n): at `origin`, half the descent of sum w_t |(X - T_t) S_t^T|^2.

        matrices: T, (tasks, m, n).
        origin: (m, n).
        """
        total = torch.zeros(origin.shape, dtype=self.dtype, device=origin.device)
        for task, weight in enumerate(self.weights.tolist()):
            difference = matrices[task].to(self.dtype) - origin
            if self.grams:
                total.addmm_(difference, self.grams[task], alpha=weight)
            else:
                estimate = self.matrices[task].to(self.dtype)
                total.addmm_(difference @ estimate.T, estimate, alpha=weight)
        return total

    def eigenpairs(self) -> Eigenpairs:
        """Return the eigenpairs; values that come of singular ones below float32's epsilon x n x the largest count as zero."""
        values, vectors = self._of_few_rows() if self.total is None else torch.linalg.eigh(self.total)
        values, vectors = values.flip(0), vectors.flip(1)
        rank = int((values > rank_floor(self.matrices.shape[2]) * values[0]).sum())
        return Eigenpairs(values[:rank], vectors[:, :rank])

    def solved(self, target: Tensor, floor: float) -> Tensor | None:
        """Return `target` C^-1, (m, n); None if eigenvalues may be as small as `floor` times the largest."""
        if self.total is None or not _all_above(self.total, floor):
            return None
        return torch.cholesky_solve(target.T, torch.linalg.cholesky(self.total)).T

    def _of_few_rows(self) -> tuple[Tensor, Tensor]:
        """Return the eigenvalues that are not zero for want of rows, ascending, and their eigenvectors."""
        scales = self.weights.to(self.matrices.device).sqrt()[:, None, None]
        stacked = (self.matrices.to(self.dtype) * scales).flatten(0, 1)
        values, vectors = torch.linalg.eigh(stacked @ stacked.T)
        return values, (stacked.T @ vectors) / torch.where(values > 0, values, torch.inf).sqrt()


def rank_floor(size: int) -> float:
    """Return the share of the largest eigenvalue at which those of matrices of `size` columns count as zero."""
    return (size * EPSILON) ** 2


def _summed(matrices: Tensor, weights: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Return the covariance of `matrices` in a dtype, and each task's part before it is weighted, or none of these."""
    _, rows, columns = matrices.shape
    total, grams = torch.zeros(columns, columns, dtype=dtype, device=matrices.device), []
    for matrix, weight in zip(matrices, weights.tolist()):
        if rows < columns:
            add_gram(total, matrix.T.to(dtype), weight)
        else:
            gram = torch.zeros_like(total)
            add_gram(gram, matrix.T.to(dtype))
            grams.append(mirrored(gram))
            total.add_(gram, alpha=weight)
    return mirrored(total), grams


def _all_above(matrix: Tensor, floor: float) -> bool:
    """Whether all eigenvalues are clearly above `floor` times the largest."""
    shifted = matrix.clone()
    shifted.diagonal().sub_(2 * floor * largest_eigenvalue(matrix))  # twice, as it is an estimate from below
    return not torch.linalg.cholesky_ex(shifted).info
