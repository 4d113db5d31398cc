"""Orthonormal bases of what low-rank factors span, and coordinates in them, at the cost of the factors.

No product of factors is computed: of a QR decomposition only the triangle is needed, as small as the rank, whose singular
vectors say how a basis is mixed from the factors, and where these lie in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from src.checkpoints.factors import Factors
from src.merging.engine.linear_algebra import EPSILON


class Basis(NamedTuple):
    """An orthonormal basis of the space that columns, (m, r), span; the columns themselves are kept elsewhere.

    mixing: (r, p); the basis is `columns @ mixing`, (m, p).
    coordinates: (p, r), of the columns in the basis.
    """

    mixing: Tensor
    coordinates: Tensor

    @classmethod
    def of(cls, columns: Tensor) -> "Basis":
        """Return the left singular vectors of columns, (m, r), float64, but for those whose singular value counts as zero."""
        triangle = torch.linalg.qr(columns, mode="r").R
        _, values, right = torch.linalg.svd(triangle, full_matrices=False)
        is_kept = _is_above_floor(values)
        values, right = values[is_kept], right[is_kept]
        return cls(right.T / values, values[:, None] * right)

    def rotated(self, rotation: Tensor) -> "Basis":
        """Return the basis times `rotation`, (p, k), of orthonormal columns: of a part of the space if they are fewer."""
        return Basis(self.mixing @ rotation, rotation.T @ self.coordinates)


@dataclass(frozen=True)
class FactorSpace:
    """The space in which the tasks' changes of one entry, (m, n), have coordinates, (p, q): change = left coordinates right^T.

    factors: of the changes, by task, of the tasks that change the entry.
    left: basis of what their ups, scaled and side by side, span.
    right: basis of what their downs, one below another, span; None where rows are kept as they are, and q is n.
    device: to compute on.
    """

    factors: Mapping[str, Factors]
    left: Basis
    right: Basis | None
    device: torch.device

    @classmethod
    def core(cls, factors: Mapping[str, Factors], device: torch.device) -> "FactorSpace":
        """Return the space of the singular vectors of the ups side by side, and of the downs one below another."""
        return cls(factors, Basis.of(_ups(factors, device)), Basis.of(_downs(factors, device).T), device)

    @classmethod
    def knots(cls, factors: Mapping[str, Factors], device: torch.device) -> "FactorSpace":
        """Return the space of the left singular vectors of the changes side by side, (m, tasks n)."""
        core = cls.core(factors, device)
        cores = torch.cat([core.coordinates(task) for task in factors], dim=1)
        vectors, values, _ = torch.linalg.svd(cores, full_matrices=False)
        return cls(factors, core.left.rotated(vectors[:, _is_above_floor(values)]), None, device)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of coordinates."""
        inputs = next(iter(self.factors.values())).down.shape[1]
        return len(self.left.coordinates), inputs if self.right is None else len(self.right.coordinates)

    def coordinates(self, task: str) -> Tensor:
        """Return the coordinates of a task's change, (p, q), float64; zero where it makes none."""
        if task not in self.factors:
            return torch.zeros(self.shape, dtype=torch.float64, device=self.device)
        tasks, ranks = list(self.factors), [len(pair.down) for pair in self.factors.values()]
        place = tasks.index(task)
        left = self.left.coordinates.split(ranks, dim=1)[place]
        if self.right is None:
            return left @ _wide(self.factors[task].down, self.device)
        return left @ self.right.coordinates.split(ranks, dim=1)[place].T

    def lifted(self, coordinates: Tensor, dtype: torch.dtype) -> Factors:
        """Return the factors of the change that has these coordinates, (p, q): up (m, p), orthonormal, and down (p, n)."""
        up, down = _ups(self.factors, self.device) @ self.left.mixing, coordinates.to(torch.float64)
        if self.right is not None:
            down = (down @ self.right.mixing.T) @ _downs(self.factors, self.device)
        return Factors(up.to(dtype), down.to(dtype), next(iter(self.factors.values())).kind)


def _ups(factors: Mapping[str, Factors], device: torch.device) -> Tensor:
    """Return the ups, scaled, side by side, (m, r), float64."""
    return torch.cat([_wide(pair.up, device) * pair.scale for pair in factors.values()], dim=1)


def _downs(factors: Mapping[str, Factors], device: torch.device) -> Tensor:
    """Return the downs one below another, (r, n), float64."""
    return torch.cat([_wide(pair.down, device) for pair in factors.values()])


def _wide(factor: Tensor, device: torch.device) -> Tensor:
    return factor.to(device=device, dtype=torch.float64)


def _is_above_floor(values: Tensor) -> Tensor:
    """Return whether each singular value, largest first, counts as more than zero."""
    return values > EPSILON * values[:1]  # weights are known to so much
