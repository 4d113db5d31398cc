"""Leading singular triplets and polar factors, by the eigenvectors of Gram matrices.

A full singular value decomposition of a 768 x 3072 matrix takes ten times as long as its Gram matrix and that one's
eigenvectors. Squaring costs half of the digits, so small singular values are found in double precision: all results
are as close to those in double precision as the matrices determine them.

Singular values of weights below float32's epsilon x the longer side x the largest one count as zero: their directions
are noise. Unit vectors put side by side are known better than differences of weights, and have real directions as
short as 1e-4 when they fill their space: of them, only what is below 8 epsilon counts as zero.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from src.merging.engine.eigensolver import largest_eigenpairs
from src.merging.engine.threads import parallel_map

EPSILON = torch.finfo(torch.float32).eps
UNITS_FLOOR = 8 * EPSILON
# Ratios to the largest eigenvalue (squared singular value) and singular value below which float32 is not precise enough.
DOUBLE_BELOW_EIGENVALUE, DOUBLE_BELOW_SINGULAR_VALUE = 1 / 64, 1 / 32
DOUBLE_AT_ONCE = ("cuda",)  # devices whose eigenvectors in double precision take no longer (768 rows on an H200: 7.9 and 8.2 ms)
PARTIAL_SHARE = 1 / 3  # of the eigenvectors, up to which computing only those is faster
SAFE_EXPONENT = 40  # binary, of entries whose squares, and sums of many, every float32 can hold
ORTHONORMAL_WITHIN = 1e-3
BLOCK = 192  # rows of a Gram matrix computed at a time


class Triplets(NamedTuple):
    """Singular triplets, largest first: left (m, r), values (r,), right (n, r). What counts as zero is zero in all three."""

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def product(self) -> Tensor:
        """The matrix left diag(values) right^T, (m, n)."""
        return (self.left * self.values) @ self.right.T

    @property
    def are_orthonormal(self) -> bool:
        """Whether they are singular ones: the vectors of nonzero values, of each side, are orthonormal."""
        return all(_is_orthonormal(side[:, self.values > 0]) for side in (self.left, self.right))


def leading_triplets(matrix: Tensor, rank: int) -> Triplets:
    """Return the `rank` leading singular triplets of `matrix`, (m, n), in its dtype."""
    matrix = _aligned(matrix)
    tall = matrix.shape[0] > matrix.shape[1]
    rows = matrix.T if tall else matrix  # no more rows than columns
    if rank == 0 or not matrix.any():
        zeros = [matrix.new_zeros(*shape) for shape in ((matrix.shape[0], rank), (rank,), (matrix.shape[1], rank))]
        return Triplets(*zeros)
    scale = safe_scale(matrix)
    rows = rows / scale if scale != 1 else rows
    is_double = matrix.dtype == torch.float64 or matrix.device.type in DOUBLE_AT_ONCE
    values, vectors = _eigen(rows.double() if is_double else rows, rank)
    if not is_double and values[-1] < DOUBLE_BELOW_EIGENVALUE * values[0]:
        values, vectors = _eigen(rows.double(), rank)
    values, is_nonzero = _singular(values, weights_floor(matrix))
    short = (vectors * is_nonzero).to(matrix.dtype)
    long = _images(rows.T, vectors, values)
    values = values.to(matrix.dtype) * scale
    return Triplets(long, values, short) if tall else Triplets(short, values, long)


def leading_triplets_of_each(stack: Tensor, rank: int) -> list[Triplets]:
    """Return the leading triplets of each matrix of a stack, (tasks, m, n), computed side by side."""
    return list(parallel_map(lambda matrix: leading_triplets(matrix, rank), stack, stack.device))


def concatenated(parts: Sequence[Triplets]) -> Triplets:
    """Return the triplets of all parts beside one another; they are no longer orthogonal."""
    left, values, right = zip(*parts)
    return Triplets(torch.cat(left, dim=1), torch.cat(values), torch.cat(right, dim=1))


def polar_factor(matrix: Tensor, floor: float) -> Tensor:
    """Return U V^T, (m, n), of the decomposition U S V^T: the nearest matrix with orthonormal rows or columns.

    Directions whose singular value is at most `floor` (`weights_floor`, `UNITS_FLOOR`) of the largest are left out, so
    that it is determined for matrices of low rank.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    rows = matrix.T if tall else matrix
    if not matrix.any():
        return torch.zeros_like(matrix)
    values, vectors = _eigen(rows.double(), rows.shape[0])
    values, is_nonzero = _singular(values, floor)
    factor = (vectors * is_nonzero).to(matrix.dtype) @ _images(rows.T, vectors, values).T
    return factor.T if tall else factor


def orthogonalised(triplets: Triplets) -> Triplets:
    """Return the triplets with both sides replaced by their polar factors, the nearest orthonormal ones."""
    sides = (triplets.left, triplets.right)
    left, right = parallel_map(lambda side: polar_factor(side, UNITS_FLOOR), sides, triplets.left.device)
    return Triplets(left, triplets.values, right)


def singular_values(matrix: Tensor) -> Tensor:
    """Return all min(m, n) singular values, float64, largest first; those that count as zero are zero."""
    rows = (matrix.T if matrix.shape[0] > matrix.shape[1] else matrix).double()
    return _singular(torch.linalg.eigvalsh(_gram(rows)).flip(0), weights_floor(matrix))[0]


def weights_floor(matrix: Tensor) -> float:
    """Return the share of the largest singular value at which those of a matrix of weights count as zero."""
    return EPSILON * max(matrix.shape)


def _is_orthonormal(vectors: Tensor) -> bool:
    """Whether columns are orthonormal, up to what float32 rounds away in long sums."""
    products = vectors.T @ vectors
    products.diagonal().sub_(1)
    return products.numel() == 0 or products.abs().amax().item() < ORTHONORMAL_WITHIN


def _eigen(rows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the `rank` largest eigenvalues of `rows rows^T`, largest first, and their eigenvectors in columns."""
    return leading_eigenpairs(_gram(rows), rank)


def leading_eigenpairs(gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the `rank` largest eigenvalues of a symmetric matrix, (n, n), largest first, and their eigenvectors, (n, rank).

    gram: of which the lower triangle is read.
    """
    few = gram.device.type == "cpu" and rank <= PARTIAL_SHARE * len(gram)
    try:
        values, vectors = largest_eigenpairs(gram, rank) if few else torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:  # by another algorithm, for all of them
        values, vectors = torch.linalg.eigh(gram.double())
        values, vectors = values.to(gram.dtype), vectors.to(gram.dtype)
    return values[-rank:].flip(0), vectors[:, -rank:].flip(1)


def _gram(rows: Tensor) -> Tensor:
    """Return `rows rows^T` on and below the diagonal, which is all that eigh reads."""
    if rows.device.type != "cpu" or len(rows) < 2 * BLOCK:
        return rows @ rows.T
    gram = rows.new_zeros(len(rows), len(rows))
    add_gram(gram, rows)
    return gram


def add_gram(total: Tensor, rows: Tensor, weight: float = 1.0) -> None:
    """Add the weighted `rows rows^T` to `total` on and below the diagonal: little more than half of the work, on a CPU."""
    for part in diagonal_blocks(total):
        total[part, : part.stop].addmm_(rows[part], rows[: part.stop].T, alpha=weight)


def mirrored(total: Tensor) -> Tensor:
    """Write what is below the diagonal above it, and return the matrix."""
    for part in diagonal_blocks(total):
        total[: part.start, part] = total[part, : part.start].T
    return total


def diagonal_blocks(total: Tensor) -> list[slice]:
    """Return the slices of a matrix's rows that are worked on at a time."""
    step = BLOCK if total.device.type == "cpu" else len(total)
    return [slice(start, min(start + step, len(total))) for start in range(0, len(total), step)]


def _singular(eigenvalues: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Return singular values, zero where they count as zero, and whether each does not."""
    values = eigenvalues.clamp_min(0).sqrt()
    is_nonzero = values > floor * values[0]
    return values * is_nonzero, is_nonzero


def _images(matrix: Tensor, vectors: Tensor, values: Tensor) -> Tensor:
    """Return `matrix vectors / values`, the singular vectors of the other side, zero where the value is.

    The image of a direction with a small value is a difference of large numbers, so it is computed in double precision.
    """
    images = matrix @ vectors.to(matrix.dtype)
    is_small = values < DOUBLE_BELOW_SINGULAR_VALUE * values[0]
    if matrix.dtype != torch.float64 and is_small.any():
        images[:, is_small] = (matrix.double() @ vectors[:, is_small].double()).to(matrix.dtype)
    return images.div_(torch.where(values > 0, values, torch.inf).to(matrix.dtype))


def safe_scale(matrix: Tensor) -> float:
    """Return what to divide entries by so that squares stay in the dtype's range: a power of two, 1 for all but extreme ones."""
    exponent = math.frexp(torch.linalg.vector_norm(matrix, torch.inf).item())[1]
    return 1.0 if abs(exponent) < SAFE_EXPONENT else 2.0**exponent


def _aligned(matrix: Tensor) -> Tensor:
    """Return the matrix at an aligned address: else libraries round equal matrices differently, which changes their rank."""
    return matrix if matrix.data_ptr() % 64 == 0 else matrix.clone()
