"""Edits of task vectors before they are merged: trimming, sparsifying, scaling. They work on the stacks that merges read."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """Columns of a stack that are entries of one parameter, side by side there, too.

    key: the parameter.
    shape: its own.
    start: the first entry, of those flattened.
    columns: in the stack.
    """

    key: str
    shape: torch.Size
    start: int
    columns: slice


class Edit(ABC):
    """A change of each task's vector, entry by entry or row by row."""

    def row_length(self, shape: torch.Size) -> int:
        """Return how many entries of a parameter, side by side, are edited together: spans hold whole rows."""
        return 1

    @abstractmethod
    def __call__(self, stack: Tensor, spans: Sequence[Span], tasks: Sequence[str]) -> None:
        """Edit a stack, (tasks, n), in place; columns outside all spans are zero, and stay so."""


def aligned_size(size: int, rows: Sequence[int]) -> int:
    """Return about `size` entries, a multiple of 8 and of the length of each of `rows`."""
    unit = math.lcm(8, *rows)
    return max(size // unit, 1) * unit


@dataclass(frozen=True, eq=False)
class Trim(Edit):
    """Entries below each task's threshold become zero.

    thresholds: (tasks,) magnitudes.
    """

    thresholds: Tensor
    _limits: dict[torch.dtype, list[float | None]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, stack: Tensor, spans: Sequence[Span], tasks: Sequence[str]) -> None:
        if stack.dtype not in self._limits:
            self._limits[stack.dtype] = [_largest_trimmed(threshold, stack.dtype) for threshold in self.thresholds]
        for row, limit in zip(stack, self._limits[stack.dtype]):
            if limit is not None:
                torch.hardshrink(row, limit, out=row)


@dataclass(frozen=True, eq=False)
class TrimEach(Edit):
    """Each parameter has a trim of its own.

    trims: by parameter.
    """

    trims: Mapping[str, Trim]

    def __call__(self, stack: Tensor, spans: Sequence[Span], tasks: Sequence[str]) -> None:
        for span in spans:
            self.trims[span.key](stack[:, span.columns], [span], tasks)


def smallest_kept(threshold: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the smallest magnitude of `dtype` that is not below `threshold`, on the CPU."""
    kept = threshold.cpu().to(dtype)
    if kept.double() < threshold.double():
        kept = torch.nextafter(kept, torch.full_like(kept, torch.inf))
    return kept


def _largest_trimmed(threshold: Tensor, dtype: torch.dtype) -> float | None:
    """Return the largest magnitude of `dtype` that is below `threshold`, and zeroed; None if there is none.

    hardshrink keeps what is above it, in one pass and without a temporary.
    """
    kept = smallest_kept(threshold, dtype)
    return torch.nextafter(kept, torch.zeros_like(kept)).item() if kept > 0 else None
