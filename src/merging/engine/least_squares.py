"""Least squares by normal equations whose matrix may be singular: by Cholesky, or by eigenvalues where it nearly is."""

from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST = 1e-6  # of the largest eigenvalue: below it, Gram matrices in float32 hold rounding
STEPS = 6  # of the power iterations that estimate eigenvalues


def solve_positive(matrix: Tensor, target: Tensor) -> Tensor:
    """Return the X of `matrix @ X = target` that has no part in the matrix's null space, (d, n), float64.

    The matrix is judged with its diagonal scaled to ones: a feature that is larger than others makes none of them vanish.
    Eigenvalues below SMALLEST times the largest one count as zero.

    matrix: (d, d), symmetric, positive semi-definite but for rounding, float64; it is edited.
    target: (d, n), float64.
    """
    diagonal = matrix.diagonal()
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()[:, None]
    scaled = matrix.mul_(scale).mul_(scale.T)
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if not failed and not _is_nearly_singular(scaled, factor):
        return scale * torch.cholesky_solve(scale * target, factor)
    values, vectors = torch.linalg.eigh(scaled)
    kept = values > max(SMALLEST * values[-1].item(), 0.0)
    basis = vectors[:, kept]
    solution = scale * (basis @ ((basis.T @ (scale * target)) / values[kept, None]))
    null = torch.linalg.qr(scale * vectors[:, ~kept]).Q
    return solution - null @ (null.T @ solution)


def _is_nearly_singular(matrix: Tensor, factor: Tensor) -> bool:
    """Whether the smallest eigenvalue is below SMALLEST times the largest, as a few power iterations estimate them."""
    inverse_smallest = _largest(lambda vectors: torch.cholesky_solve(vectors, factor), matrix)
    return bool(SMALLEST * largest_eigenvalue(matrix) * inverse_smallest > 1)


def largest_eigenvalue(matrix: Tensor) -> Tensor:
    """Return an estimate, from below, of the largest eigenvalue of a positive semi-definite matrix."""
    return _largest(lambda vectors: matrix @ vectors, matrix)


def _largest(product: Callable[[Tensor], Tensor], matrix: Tensor) -> Tensor:
    """Return an estimate, from below, of the largest eigenvalue of a positive semi-definite operator on a matrix's columns."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(matrix), 4, generator=generator, dtype=matrix.dtype).to(matrix.device)
    for _ in range(STEPS):
        vectors = product(vectors / torch.linalg.vector_norm(vectors, dim=0))
    return torch.linalg.vector_norm(vectors, dim=0).amax()
